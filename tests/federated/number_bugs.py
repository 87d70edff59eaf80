"""Bugs in what is computed: averages, rules, bounds, compressed forms; one line each, see `planting`."""

from __future__ import annotations

from tests.federated.planting import Bug, Planted

NUMBER_BUGS: list[Bug] = []

average = Planted(NUMBER_BUGS, "federated.aggregation", "tests/federated/test_aggregation.py")
average(
    "sums_may_take_another_bit",
    "SUM_BITS = 62",
    "SUM_BITS = 63",
    "test_the_largest_values_and_weights_that_a_task_may_allow_do_not_overflow",
)
average(
    "values_may_take_another_bit",
    "EXACT_BITS = 53",
    "EXACT_BITS = 54",
    "test_the_grid_is_as_fine_as_the_proof_allows",
)
average(
    "a_power_of_two_counts_as_beyond_itself",
    "a = (task.max_abs - 1).bit_length()",
    "a = task.max_abs.bit_length()",
    "test_the_grid_is_as_fine_as_the_proof_allows",
)
average(
    "the_number_of_members_takes_no_bits",
    "w = (task.max_members * task.max_examples - 1)",
    "w = (task.max_examples - 1)",
    "test_the_largest_values_and_weights_that_a_task_may_allow_do_not_overflow",
)
average(
    "values_are_cut_off_not_rounded",
    "np.rint(values, out=values)",
    "np.trunc(values, out=values)",
    "test_it_is_the_exact_mean_of_the_rounded_values",
)
average(
    "integers_have_no_weight",
    "np.multiply(part, examples, out=integers)",
    "np.copyto(integers, part)",
    "test_it_is_the_exact_mean_of_the_rounded_values",
)
average(
    "halves_round_up",
    "(twice == weight) & (floor & 1 == 1)",
    "(twice == weight)",
    "test_halves_round_to_even",
)
average(
    "the_last_example_does_not_fit",
    "self.weight + examples > self._most",
    "self.weight + examples >= self._most",
    "test_the_largest_values_and_weights_that_a_task_may_allow_do_not_overflow",
)
average(
    "updates_without_weight_are_added",
    "if examples < 1 or",
    "if examples < 0 or",
    "test_weights_beyond_the_terms_are_refused",
)

admit = Planted(NUMBER_BUGS, "federated.admission", "tests/federated/test_admission.py")
admit(
    "the_most_examples_are_too_many",
    "examples <= task.max_examples",
    "examples < task.max_examples",
    "test_what_a_reveal_says_is_taken_up_to_its_bounds",
)
admit(
    "an_update_of_no_bytes_is_fetched",
    "if 0 < size <=",
    "if 0 <= size <=",
    "test_what_a_reveal_says_is_taken_up_to_its_bounds",
)
admit(
    "the_largest_size_is_not_fetched",
    "size <= most_sent(task)",
    "size < most_sent(task)",
    "test_what_a_reveal_says_is_taken_up_to_its_bounds",
)
admit(
    "at_the_norm_bound_is_beyond_it",
    "square > task.max_norm**2",
    "square >= task.max_norm**2",
    "test_the_norm_bound_is_inclusive_and_exact",
)
admit(
    "the_norm_is_on_another_grid",
    "<< 2 * grid_bits(task)",
    "<< grid_bits(task)",
    "test_the_norm_bound_is_inclusive_and_exact",
)
admit(
    "compressed_updates_need_no_base",
    "return task.max_norm is not None or is_compressed(task)",
    "return task.max_norm is not None",
    "test_distances_and_differences_are_from_what_the_round_began_with",
)

check = Planted(NUMBER_BUGS, "federated.update", "tests/federated/test_update.py")
check(
    "bytes_may_follow_the_last_array",
    "if offset != len(data):",
    "if offset > len(data):",
    "test_damaged_bytes_are_refused_or_another_model",
)
check(
    "the_bound_itself_is_beyond_it",
    "and high <= max_abs",
    "and high < max_abs",
    "test_a_model_is_what_numpy_saves_and_reads_back_bit_by_bit",
)
check(
    "only_the_first_chunk_is_checked",
    "range(0, flat.size, CHUNK)",
    "range(0, CHUNK, CHUNK)",
    "test_values_at_the_bound_are_fine_and_one_bad_value_deep_inside_is_found",
)
check(
    "the_end_of_an_array_is_not_looked_for",
    "< array.size:",
    "< 0:",
    "test_damaged_bytes_are_refused_or_another_model",
)

order = Planted(NUMBER_BUGS, "federated.robust", "tests/federated/test_robust.py")
order(
    "rules_see_updates_as_they_came",
    "[data for _, data in sorted(updates, key=lambda pair: pair[0])]",
    "[data for _, data in updates]",
    "test_order_and_block_size_do_not_show",
)
order(
    "the_median_takes_one_more",
    "cut = (count - 1) // 2",
    "cut = (count - 2) // 2",
    "test_it_is_what_the_papers_say_in_floating_point",
)
order(
    "multi_krum_takes_one_less",
    "krum(gram, f, len(gram) - f)",
    "krum(gram, f, len(gram) - f - 1)",
    "test_krum_is_what_its_paper_says_of_few_and_of_many",
)
order(
    "neighbours_are_those_before_the_clip",
    "mixture = mixture.then(*(clip(seen) if step == CLIP else nnm(seen, f)))",
    "mixture = mixture.then(*(clip(seen) if step == CLIP else nnm(gram, f)))",
    "test_neighbours_are_those_of_the_clipped",
)
order(
    "a_quotient_loses_its_remainder",
    "high -= whole * denominator",
    "high -= whole",
    "test_it_is_what_the_papers_say_in_floating_point",
)

mix = Planted(NUMBER_BUGS, "federated.mixing", "tests/federated/test_robust.py")
mix(
    "the_clip_is_at_the_upper_median",
    "most = sorted(squares)[(len(gram) - 1) // 2]",
    "most = sorted(squares)[len(gram) // 2]",
    "test_it_is_what_the_papers_say_in_floating_point",
)
mix(
    "krum_asks_one_neighbour_more",
    "max((n - 3) // 2, 0)) - 2, 1)",
    "max((n - 3) // 2, 0)) - 1, 1)",
    "test_krum_is_what_its_paper_says_of_few_and_of_many",
)
mix(
    "krum_counts_a_row_as_its_own_neighbour",
    "for j in range(n) if j != i)",
    "for j in range(n))",
    "test_integer_arrays_are_combined_but_do_not_decide_who_is_near",
)
mix(
    "a_neighbourhood_is_by_number",
    "lambda j: (_distance(gram, i, j), j != i, j)",
    "lambda j: (j != i, j)",
    "test_liars_move_it_no_further_than_honest_members_differ",
)
mix(
    "the_radius_is_the_upper_median",
    "radius = sorted(reaches)[(n - 1) // 2]",
    "radius = sorted(reaches)[n // 2]",
    "test_it_is_what_the_papers_say_in_floating_point",
)
mix(
    "the_geometric_median_stops_early",
    "WEISZFELD_STEPS = 64",
    "WEISZFELD_STEPS = 8",
    "test_it_is_what_the_papers_say_in_floating_point",
)

differ = Planted(NUMBER_BUGS, "federated.differences", "tests/federated/test_robust.py")
differ(
    "counters_decide_who_is_near",
    'return array.dtype != "<i8"',
    "return True",
    "test_integer_arrays_are_combined_but_do_not_decide_who_is_near",
)
differ(
    "the_grid_is_too_fine_for_products",
    "VALUE_BITS = 38",
    "VALUE_BITS = 48",
    "test_inner_products_of_the_largest_values_are_exact",
)
differ(
    "one_update_less_than_proven",
    "if not 0 < len(updates) <= MAX_ROWS",
    "if not 0 < len(updates) < MAX_ROWS",
    "test_the_largest_values_of_the_most_updates_do_not_overflow",
)

press = Planted(NUMBER_BUGS, "federated.compression", "tests/federated/test_compression.py")
press(
    "steps_of_a_slice_begin_with_its_block",
    "[start - first * BLOCK : stop - first * BLOCK]",
    "[: stop - start]",
    "test_a_slice_of_an_update_is_that_of_the_whole",
)
press(
    "the_lower_bound_is_not_checked",
    "if values.min() < -task.max_abs or values.max()",
    "if values.max()",
    "test_steps_quanta_and_values_out_of_bounds_are_named",
)
press(
    "compressed_values_at_the_bound_are_beyond_it",
    "values.max() > task.max_abs",
    "values.max() >= task.max_abs",
    "test_steps_quanta_and_values_out_of_bounds_are_named",
)
press(
    "what_was_kept_is_lost",
    "errors[part] = meant - sent",
    "errors[part] = value[part] - sent",
    "test_an_error_is_half_a_step_and_sums_stay_within_one",
)
press(
    "half_a_step_leads_over_the_bound",
    "whole -= np.sign(whole) * (np.abs(sent) > max_abs)",
    "whole -= 0 * (np.abs(sent) > max_abs)",
    "test_rounding_and_errors_kept_never_carry_an_update_over_a_bound",
)
press(
    "an_update_beyond_the_norm_is_made_to_fit",
    "if square > limit and _square(arrays, origins, values) <= max_norm**2:",
    "if square > limit:",
    "test_an_update_beyond_max_norm_stays_there_to_be_refused",
)
press(
    "bytes_may_follow_an_int8_update",
    "if len(data) != compressed_size",
    "if len(data) < compressed_size",
    "test_of_one_update_there_is_one_length",
)
press(
    "a_fault_must_fit_the_right_size",
    "return 2 * sent_size(task) + 4096",
    "return sent_size(task)",
    "test_steps_quanta_and_values_out_of_bounds_are_named",
)

grain = Planted(NUMBER_BUGS, "federated.quanta", "tests/federated/test_compression.py")
grain(
    "an_exponent_is_one_too_large",
    "exponent - (fraction == 0.5)",
    "exponent",
    "test_an_exponent_is_the_least_with_which_all_of_a_block_fits",
)
grain(
    "quanta_have_no_lower_bound",
    " and quanta.min() >= -LEVELS)",
    ")",
    "test_steps_quanta_and_values_out_of_bounds_are_named",
)
grain(
    "exponents_have_no_lower_bound",
    "bool(exponents.min() >= LOWEST and ",
    "bool(",
    "test_steps_quanta_and_values_out_of_bounds_are_named",
)
grain(
    "exponents_have_no_upper_bound",
    " and exponents.max() <= HIGHEST and",
    " and",
    "test_steps_quanta_and_values_out_of_bounds_are_named",
)

thin = Planted(NUMBER_BUGS, "federated.sparse", "tests/federated/test_compression.py")
thin(
    "a_place_may_come_twice",
    "if not (rows[:, 1:] > rows[:, :-1]).all()",
    "if not (rows[:, 1:] >= rows[:, :-1]).all()",
    "test_places_of_a_sparse_update_are_ascending_and_within_the_array",
)
thin(
    "a_place_may_come_twice_in_the_last_block",
    "(rest[1:] > rest[:-1]).all()",
    "(rest[1:] >= rest[:-1]).all()",
    "test_places_of_every_block_ascend_and_nothing_follows_an_update",
)
thin(
    "a_place_may_lie_behind_the_array",
    "rest[-1] < array.count % BLOCK",
    "rest[-1] <= array.count % BLOCK",
    "test_places_of_a_sparse_update_are_ascending_and_within_the_array",
)
thin(
    "only_the_first_blocks_are_checked",
    "range(0, full, CHUNK // BLOCK)",
    "range(0, min(full, 1), CHUNK // BLOCK)",
    "test_places_of_every_block_ascend_and_nothing_follows_an_update",
)
thin(
    "the_share_of_a_block_is_rounded_down",
    "return -(-elements * percent // 100)",
    "return max(1, elements * percent // 100)",
    "test_places_of_a_sparse_update_are_ascending_and_within_the_array",
)
thin(
    "of_the_last_block_the_least_are_sent",
    "np.argsort(-rest, kind=",
    "np.argsort(rest, kind=",
    "test_the_largest_of_each_block_are_sent_and_the_others_wait",
)
thin(
    "a_slice_begins_with_its_block",
    "(first * BLOCK - start)",
    "0",
    "test_rules_make_of_it_what_they_make_of_the_plain_updates_it_stands_for",
)
