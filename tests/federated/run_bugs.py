"""Bugs in runs without rounds: gossip, and the log, leases and turns of a ServerApp; see `planting`."""

from __future__ import annotations

from tests.federated.planting import Bug, Planted

RUN_BUGS: list[Bug] = []

mix = Planted(RUN_BUGS, "federated.gossip", "tests/federated/test_gossip.py")
mix(
    "every_round_draws_the_same",
    'task + number.to_bytes(4, "big") + me',
    "task + me",
    "test_each_round_member_and_task_draws_an_order_of_its_own",
)
mix(
    "all_draw_the_same",
    'number.to_bytes(4, "big") + me + other',
    'number.to_bytes(4, "big") + other',
    "test_each_round_member_and_task_draws_an_order_of_its_own",
)
mix(
    "every_task_draws_the_same",
    "LOT_TAG + task + number",
    "LOT_TAG + number",
    "test_each_round_member_and_task_draws_an_order_of_its_own",
)
mix(
    "all_refused_are_named",
    "tuple(sorted(found.items())[:MAX_REFUSED])",
    "tuple(sorted(found.items()))",
    "test_of_many_faults_so_many_are_named_as_fit",
)

show = Planted(RUN_BUGS, "federated.share_log", "tests/federated/test_share_log.py")
show(
    "seats_go_by_name",
    "there.sort(key=self._joined_at.__getitem__)",
    "there.sort()",
    "test_who_comes_back_comes_last_whatever_is_heard_first",
)
show(
    "a_result_may_show_anything",
    "if said.round <= terms.rounds or result else None",
    "if said.round <= terms.rounds or said.examples == 0 else None",
    "test_a_result_is_the_model_of_the_last_round_and_half_of_them_end_no_task",
)
show(
    "half_are_enough_to_be_over",
    "for number in newest) > len(newest)",
    "for number in newest) >= len(newest)",
    "test_a_result_is_the_model_of_the_last_round_and_half_of_them_end_no_task",
)
show(
    "any_number_hold_a_model",
    " or len(held.holders) >= MAX_HOLDERS:",
    ":",
    "test_a_model_is_held_by_its_author_and_the_first_who_combined_it",
)

show(
    "the_excluded_have_seats",
    "for agent in self.members() if agent not in self._excluded]",
    "for agent in self.members()]",
    "tests/federated/test_gossip.py::test_whom_the_network_does_not_hear_is_not_drawn",
)

call = Planted(RUN_BUGS, "federated.call_log", "tests/federated/test_call_log.py")
call(
    "half_is_not_enough",
    "return 2 * len(agents & nodes) >= max(1, len(nodes))",
    "return 2 * len(agents & nodes) > max(1, len(nodes))",
    "test_who_ends_a_run_alone_does_not_end_it",
)
call(
    "whoever_answers_is_counted",
    "return 2 * len(agents & nodes) >=",
    "return 2 * len(agents) >=",
    "test_only_the_nodes_of_the_call_before_make_a_claim_count",
)
call(
    "fewer_answers_win",
    "return -len(self._answering(cid)), not",
    "return len(self._answering(cid)), not",
    "test_of_two_claims_that_count_that_with_more_answers_does",
)
call(
    "who_claims_comes_before_the_coordinator",
    "not self._is_of_the_coordinator(cid), cid",
    "self._is_of_the_coordinator(cid), cid",
    "test_who_takes_a_run_over_alone_does_not_lead_it",
)
call(
    "the_last_record_of_an_agent_counts",
    "(record.header.seq, record.cid) < (self._places[known], known)",
    "(record.header.seq, record.cid) > (self._places[known], known)",
    "test_who_says_more_later_unmakes_nothing",
)
call(
    "others_answer_a_message",
    "if place >= len(sent) or sent[place].agent != author:",
    "if place >= len(sent):",
    "test_who_has_no_say_is_not_heard",
)
call(
    "a_call_need_not_count_up",
    "if number != (1 if before is None else before.call.number + 1):",
    "if number < 1:",
    "test_who_has_no_say_is_not_heard",
)
call(
    "what_builds_on_a_claim_counts",
    "(record.header.kind == ANSWER or self._counts(on))",
    "True",
    "test_what_builds_on_a_claim_waits_until_it_counts",
)
call(
    "answers_outlive_their_call",
    "self._answers.pop(known, None)",
    "self._answers.get(known, None)",
    "test_answers_to_a_call_that_another_one_replaces_are_gone_with_it",
)
call(
    "anybody_ends_a_run",
    "if self._are_half({one.agent for one in group}, at)",
    "if group",
    "test_who_ends_a_run_alone_does_not_end_it",
)
call(
    "the_end_of_the_coordinator_waits",
    "if led in ends:",
    "if led in ends and len(ends) > 1:",
    "test_any_order_with_repetitions_tells_of_the_same_run",
)
call(
    "an_answer_never_changes_the_run",
    "if not (isinstance(said, Answer) and self._changes_nothing(said.call)):",
    "if not isinstance(said, Answer):",
    "test_an_answer_to_a_rival_turns_the_run_though_the_coordinator_goes_on",
)
call(
    "a_rival_of_the_coordinator_is_not_seen",
    "return len(self._after[self._calls[call].call.previous]) == 1 and self._is_of",
    "return self._is_of",
    "test_an_answer_to_a_rival_turns_the_run_though_the_coordinator_goes_on",
)

see = Planted(RUN_BUGS, "federated.presence", "tests/federated/test_presence.py")
see(
    "signs_of_life_keep_a_run_for_ever",
    "return max(silent, min(said, silent + MAX_BUSY_S))",
    "return max(silent, said)",
    "test_signs_of_life_keep_a_coordinator_and_not_for_ever",
)
see(
    "only_the_last_message_is_owed",
    "first = self._owing.setdefault(agent, since)",
    "first = since",
    "test_a_member_is_away_once_it_owes_answers_for_as_long_as_the_task_waits",
)

turn = Planted(RUN_BUGS, "federated.turns", "tests/federated/test_turns.py")
turn(
    "the_order_of_takeovers_never_changes",
    "sha256(ledger.head + agent)",
    "sha256(agent)",
    "test_members_take_over_one_after_another_and_each_call_draws_the_order_anew",
)
turn(
    "all_take_over_at_once",
    " + self.presence.silence_s * order.index(self.me)",
    "",
    "test_members_take_over_one_after_another_and_each_call_draws_the_order_anew",
)
turn(
    "claims_are_answered_at_once",
    "*(ledger.claims[:1] if self.is_silent(now) else ())",
    "*ledger.claims[:1]",
    "test_messages_of_the_last_call_are_open_and_of_one_claim_once_nobody_leads",
)

wait = Planted(RUN_BUGS, "federated.waiting", "tests/federated/test_waiting.py")
wait(
    "most_are_late",
    "if self._most_at is None and done >= most:",
    "if self._most_at is None and done > most:",
    "test_the_rest_gets_its_time_after_most_and_never_more_than_the_limit",
)
