"""Bugs in what hides updates: noise and its account, secret shares, masks, sums; one line each."""

from __future__ import annotations

from tests.federated.planting import Bug, Planted

PRIVACY_BUGS: list[Bug] = []

noise = Planted(PRIVACY_BUGS, "federated.privacy.noise", "tests/federated/privacy/test_noise.py")
noise(
    "short_updates_are_drawn_out",
    "shrink = min(1.0, terms.clip / norm if norm else 1.0) *",
    "shrink = (terms.clip / norm if norm else 1.0) *",
    "test_an_update_within_the_clip_keeps_its_direction_and_a_longer_one_is_shortened",
)
noise(
    "the_clip_is_not_inclusive_of_rounding",
    "CLIP_SLACK: Final = 1 - 2.0**-30",
    "CLIP_SLACK: Final = 1 + 2.0**-10",
    "test_two_data_sets_change_what_leaves_by_two_clips_at_most",
)
noise(
    "differences_are_rounded_over_the_clip",
    "units = np.trunc(difference * shrink)",
    "units = np.rint(difference * shrink)",
    "test_two_data_sets_change_what_leaves_by_two_clips_at_most",
)
noise(
    "differences_keep_their_low_bits",
    "units = np.trunc(difference * shrink)",
    "units = difference * shrink",
    "test_two_data_sets_change_what_leaves_by_two_clips_at_most",
)
noise(
    "the_noise_keeps_its_low_bits",
    "np.rint(normals(uniform, units.size) * (terms.deviation / step))",
    "normals(uniform, units.size) * (terms.deviation / step)",
    "test_two_data_sets_change_what_leaves_by_two_clips_at_most",
)
noise(
    "every_chunk_has_the_same_noise",
    "normals(uniform, units.size)",
    "normals(keystream(key), units.size)",
    "test_no_two_values_have_the_same_noise",
)
noise(
    "each_array_is_clipped_by_itself",
    "norm = sqrt(sum(_square(old, new) for array, old, new in triples if _floating(array)))",
    "norm = sqrt(max(_square(old, new) for array, old, new in triples if _floating(array)))",
    "test_two_data_sets_change_what_leaves_by_two_clips_at_most",
)
noise(
    "counters_leave_as_they_are",
    "            found.append(before)\n            continue",
    "            found.append(after)\n            continue",
    "test_what_leaves_is_an_update_that_the_task_takes",
)
noise(
    "the_step_hangs_on_the_data",
    "2.0 ** (floor(log2(terms.deviation)) - STEP_BITS)",
    "2.0 ** (floor(log2(terms.deviation + norm)) - STEP_BITS)",
    "test_two_data_sets_change_what_leaves_by_two_clips_at_most",
)
noise(
    "what_is_not_finite_is_noised",
    "if not isfinite(norm):",
    "if norm < 0:",
    "test_what_is_not_finite_is_refused_and_so_are_terms_that_mean_nothing",
)
noise(
    "the_norm_bound_is_forgotten",
    "1.0 if max_norm is None or not square else min(1.0, 0.999",
    "1.0 if not square or True else min(1.0, 0.999",
    "test_what_leaves_is_an_update_that_the_task_takes",
)
noise(
    "the_bound_of_values_is_forgotten",
    "value = np.clip(old.reshape(-1) + back * moved, -max_abs, max_abs)",
    "value = old.reshape(-1) + back * moved",
    "test_what_leaves_is_an_update_that_the_task_takes",
)
noise(
    "sine_and_cosine_of_one_word",
    "[radius * np.cos(angle), radius * np.sin(angle)]",
    "[radius * np.cos(angle), radius * np.cos(angle)]",
    "test_no_two_values_have_the_same_noise",
)
noise(
    "half_of_the_noise_is_left_out",
    "np.sqrt(-2.0 * np.log(",
    "np.sqrt(-1.0 * np.log(",
    "test_the_noise_is_normal_with_the_stated_deviation_and_another_one_under_another_key",
)
noise(
    "words_of_zero_are_infinite",
    "(words[:pairs] + 0.5) * 2.0**-64",
    "words[:pairs] * 2.0**-64",
    "test_the_generator_is_chacha20_and_its_normals_are_finite_at_every_edge",
)

spend = Planted(PRIVACY_BUGS, "federated.privacy.accounting", "tests/federated/privacy/test_accounting.py")
spend(
    "data_sets_differ_by_one_clip",
    "SENSITIVITY: Final = 2.0",
    "SENSITIVITY: Final = 1.0",
    "test_epsilon_is_that_of_one_mechanism_whose_two_data_sets_lie_two_clips_apart",
)
spend(
    "the_limit_itself_is_beyond_it",
    "(cost := then.cost()) > self.epsilon",
    "(cost := then.cost()) >= self.epsilon",
    "test_what_costs_the_limit_to_the_last_bit_is_within_it",
)
spend(
    "the_limit_holds_what_was_spent_before",
    "(cost := then.cost()) > self.epsilon",
    "(cost := self.cost()) > self.epsilon",
    "test_a_limit_lets_through_as_many_updates_as_it_says_and_not_one_more",
)
spend(
    "updates_are_not_added_up",
    "counts.get(self.terms.noise, 0) + updates",
    "updates",
    "test_a_limit_lets_through_as_many_updates_as_it_says_and_not_one_more",
)
spend(
    "room_ends_one_early",
    "if self.after(middle).cost() <= self.epsilon:",
    "if self.after(middle + 1).cost() <= self.epsilon:",
    "test_a_limit_lets_through_as_many_updates_as_it_says_and_not_one_more",
)
spend(
    "noises_add_up_as_they_are",
    "count * (SENSITIVITY / noise) ** 2",
    "count * (SENSITIVITY / noise)",
    "test_epsilon_is_that_of_one_mechanism_whose_two_data_sets_lie_two_clips_apart",
)
spend(
    "any_number_of_noises",
    "if len(counts) > MAX_NOISES:",
    "if len(counts) > 2 * MAX_NOISES:",
    "test_an_account_holds_so_many_amounts_of_noise_and_no_more",
)

private = Planted(
    PRIVACY_BUGS, "federated.privacy.private_member", "tests/federated/privacy/test_private_member.py"
)
private(
    "metrics_leave",
    "noised, examples, {})",
    "noised, examples, metrics)",
    "test_what_leaves_is_noised_spent_before_and_has_no_metrics",
)
private(
    "training_begins_without_a_budget",
    "self._purse.account().spend()",
    "self._purse.account()",
    "test_a_spent_budget_ends_the_work_before_the_training",
)
private(
    "the_account_is_looked_at_not_spent",
    "terms = self._purse.spend().terms",
    "terms = self._purse.account().terms",
    "test_what_leaves_is_noised_spent_before_and_has_no_metrics",
)
private(
    "the_bound_of_norms_is_not_handed_on",
    "key, self._max_abs, self._max_norm)",
    "key, self._max_abs)",
    "test_what_leaves_keeps_to_the_tasks_norm_bound_whatever_the_noise",
)

split = Planted(PRIVACY_BUGS, "federated.privacy.shamir", "tests/federated/privacy/test_secure_sum.py")
split(
    "one_share_less_is_enough",
    "for _ in range(threshold - 1)",
    "for _ in range(threshold - 2)",
    "test_as_many_as_the_threshold_could_open_a_vector_so_the_test_above_can_fail",
)
split(
    "the_first_share_is_the_secret",
    "for place in range(1, count + 1)]",
    "for place in range(count)]",
    "test_one_of_four_may_drop_out_in_any_phase",
)
split(
    "coefficients_are_short",
    "random_bytes(SHARE_SIZE + 16)",
    "random_bytes(SECRET_SIZE)",
    "test_each_coefficient_is_a_number_of_its_own_of_full_length",
)
split(
    "a_secret_may_be_longer",
    "if total < 1 << 8 * SECRET_SIZE else None",
    "if total < 1 << 8 * SHARE_SIZE else None",
    "test_as_many_as_the_threshold_could_open_a_vector_so_the_test_above_can_fail",
)

hide = Planted(PRIVACY_BUGS, "federated.privacy.secure_sum", "tests/federated/privacy/test_secure_sum.py")
hide(
    "boxes_of_a_pair_have_one_key",
    "ends = agent + self._me if inward else self._me + agent",
    'ends = b"".join(sorted((agent, self._me)))',
    "test_no_two_boxes_and_no_two_masks_have_one_key",
)
hide(
    "boxes_of_all_sessions_have_one_key",
    "_BOX_TAG + self.session.digest() + ends",
    "_BOX_TAG + ends",
    "test_no_two_boxes_and_no_two_masks_have_one_key",
)
hide(
    "no_mask_of_its_own",
    "add_mask(vector, self._seed, 1, self._expand)",
    "add_mask(vector, bytes(KEY_SIZE), 1, self._expand)",
    "test_one_of_four_may_drop_out_in_any_phase",
)
hide(
    "the_key_of_who_counts_is_opened",
    "self._shares[dealer][dealer in self.survivors]",
    "self._shares[dealer][dealer not in self.survivors]",
    "test_one_of_four_may_drop_out_in_any_phase",
)
hide(
    "the_threshold_itself_is_too_few",
    "if len(among) < self.session.threshold:",
    "if len(among) <= self.session.threshold:",
    "test_one_of_four_may_drop_out_in_any_phase",
)
hide(
    "one_less_than_the_threshold_goes_on",
    "if len(among) < self.session.threshold:",
    "if len(among) < self.session.threshold - 1:",
    "test_one_more_is_too_many",
)
hide(
    "a_message_of_a_past_phase_is_heard",
    "if message.phase < self.phase:",
    "if message.phase < self.phase - 1:",
    "test_messages_that_are_not_of_this_session_and_phase_are_refused_and_change_nothing",
)
hide(
    "the_second_message_takes_the_place",
    "if not instead or message.sender == self._me",
    "if message.sender == self._me",
    "test_messages_that_are_not_of_this_session_and_phase_are_refused_and_change_nothing",
)
hide(
    "shares_of_a_replaced_message_stay",
    "if self.phase is Phase.SHARES:\n            self._shares.pop(message.sender, None)",
    "if self.phase is Phase.MASKED:\n            self._shares.pop(message.sender, None)",
    "test_of_two_deals_the_one_that_others_build_on_gives_the_shares",
)
hide(
    "who_was_out_comes_back",
    "if message.body[0] != self._view or message.sender not in self._before():",
    "if message.body[0] != self._view:",
    "test_who_was_left_out_does_not_come_back",
)
hide(
    "any_view_is_built_on",
    "if message.body[0] != self._view or message.sender not in self._before():",
    "if message.sender not in self._before():",
    "test_whoever_builds_on_another_view_or_deals_wrongly_is_named_and_the_rest_goes_on",
)
hide(
    "shares_are_not_held_against_their_hashes",
    "if [share_hash(share) for share in pair] != hashes:",
    "if len(pair) != len(hashes):",
    "test_whoever_builds_on_another_view_or_deals_wrongly_is_named_and_the_rest_goes_on",
)
hide(
    "a_dealer_may_leave_somebody_out",
    "if tuple(sorted(rows)) != self._agreed[Phase.KEYS]:",
    "if self._me not in rows:",
    "test_whoever_builds_on_another_view_or_deals_wrongly_is_named_and_the_rest_goes_on",
)
hide(
    "survivors_confirm_their_own_view",
    "if self.phase is not Phase.SURVIVORS:",
    "if True:",
    "test_one_of_four_may_drop_out_in_any_phase",
)

opened = Planted(PRIVACY_BUGS, "federated.privacy.opened_sum", "tests/federated/privacy/test_secure_sum.py")
opened(
    "masks_of_all_sessions_are_one",
    "_PAIR_TAG + session.digest() + ",
    "_PAIR_TAG + ",
    "test_no_two_boxes_and_no_two_masks_have_one_key",
)
opened(
    "a_pair_has_two_masks",
    'b"".join(sorted((agent, owner)))',
    "agent + owner",
    "test_one_of_four_may_drop_out_in_any_phase",
)
opened(
    "any_seed_will_do",
    "if secret is None or seed_hash(secret) != seeds[dealer]:",
    "if secret is None:",
    "test_who_deals_another_secret_than_it_showed_is_named_when_the_sum_is_opened",
)
opened(
    "any_key_will_do",
    "if key is None or public_bytes(key) != keys[dealer]:",
    "if key is None:",
    "test_who_deals_another_secret_than_it_showed_is_named_when_the_sum_is_opened",
)
opened(
    "a_member_may_speak_twice",
    "if senders != sorted(set(senders)):",
    "if senders != sorted(senders):",
    "test_a_sum_is_opened_by_those_whose_vectors_count_and_as_they_were_dealt",
)
opened(
    "who_was_not_in_before_is_in",
    "(view is not None and message.body[0] != view) or message.sender not in before",
    "(view is not None and message.body[0] != view)",
    "test_a_sum_is_opened_by_those_whose_vectors_count_and_as_they_were_dealt",
)
opened(
    "a_view_need_not_be_that_of_the_others",
    "(view is not None and message.body[0] != view) or message.sender",
    "message.sender",
    "test_a_sum_is_opened_by_those_whose_vectors_count_and_as_they_were_dealt",
)
opened(
    "a_phase_needs_no_threshold",
    "if len(messages) < session.threshold:",
    "if not messages:",
    "test_a_sum_is_opened_by_those_whose_vectors_count_and_as_they_were_dealt",
)
opened(
    "masks_of_the_dropped_stay",
    "-pair_sign(agent, dealer))",
    "pair_sign(agent, dealer))",
    "test_one_of_four_may_drop_out_in_any_phase",
)
opened(
    "dealers_may_leave_some_out",
    "if tuple(row[0] for row in message.body[2]) != rows:",
    "if not message.body[2]:",
    "test_a_chain_in_which_somebody_was_dealt_nothing_is_none",
)
opened(
    "chunks_of_a_mask_are_one",
    "stream = expand(seed)\n    for start in range(0, total.size, CHUNK):\n",
    "for start in range(0, total.size, CHUNK):\n        stream = expand(seed)\n",
    "test_a_mask_goes_on_over_its_chunks_and_is_taken_away_again",
)

told = Planted(
    PRIVACY_BUGS, "federated.privacy.secure_messages", "tests/federated/privacy/test_secure_sum.py"
)
told(
    "rounds_of_one_roster_are_one_session",
    "[self.task, self.round, self.previous, list(",
    "[self.task, self.round, list(",
    "test_a_session_has_the_name_of_all_that_it_is_about",
)

group = Planted(PRIVACY_BUGS, "federated.privacy.group_sums", "tests/federated/privacy/test_group_sums.py")
group(
    "a_weight_may_be_none",
    "if not members <= weight <= members",
    "if not 1 <= weight <= members",
    "test_a_group_whose_sum_cannot_come_from_allowed_updates_is_refused_by_number",
)
group(
    "a_member_may_be_in_two_groups",
    "if len(set(everybody)) < len(everybody):",
    "if not everybody:",
    "test_a_group_whose_sum_cannot_come_from_allowed_updates_is_refused_by_number",
)
group(
    "a_group_may_weigh_what_it_did_not_claim",
    'int(group.total.view("i8")[-1]) == group.weight',
    "group.weight > 0",
    "test_a_group_weighs_what_it_claimed_and_its_mean_keeps_to_max_norm",
)
group(
    "sums_are_held_against_the_members",
    "most = weight * task.max_abs << bits",
    "most = members * task.max_abs << bits",
    "test_a_secure_sum_of_updates_is_the_weighted_mean_to_the_bit_though_one_drops_out",
)
group(
    "sums_have_no_lower_bound",
    " or int(part.min()) < -most:",
    ":",
    "test_the_sums_of_the_largest_values_are_the_last_that_are_taken",
)
group(
    "integers_are_on_the_grid",
    'bits = 0 if array.dtype == "<i8" else scale_bits(task)',
    "bits = scale_bits(task)",
    "test_the_sums_of_the_largest_values_are_the_last_that_are_taken",
)
group(
    "a_mean_may_break_any_bound",
    "fault = examine(task, base, mean) if weighs else Fault.BOUND",
    "fault = None if weighs else Fault.BOUND",
    "test_a_group_weighs_what_it_claimed_and_its_mean_keeps_to_max_norm",
)
