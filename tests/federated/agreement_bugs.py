"""Bugs in what members agree on: groups, proposals, signatures, the chain of results; see `planting`."""

from __future__ import annotations

from tests.federated.planting import Bug, Planted

AGREEMENT_BUGS: list[Bug] = []

divide = Planted(AGREEMENT_BUGS, "federated.grouping", "tests/federated/test_grouping.py")
divide(
    "every_round_has_the_same_groups",
    'sha256(previous + b"group" + agent)',
    'sha256(b"group" + agent)',
    "test_each_round_draws_other_groups_and_names_them_anew",
)
divide(
    "groups_do_not_ascend",
    "tuple(sorted(order[len(order)",
    "tuple((order[len(order)",
    "test_groups_are_few_and_nearly_equal_and_hold_everybody_once",
)

propose = Planted(AGREEMENT_BUGS, "federated.proposal", "tests/federated/test_proposal.py")
propose(
    "half_have_seen_is_enough",
    "if 2 * count > len(reveals))",
    "if 2 * count >= len(reveals))",
    "test_a_promise_counts_when_more_than_half_had_seen_it",
)
propose(
    "two_promises_are_one",
    "if len(commits) > 1 or len(reveals) > 1:",
    "if len(reveals) > 1:",
    "test_who_promises_or_shows_two_things_is_refused_and_who_keeps_anothers_promise_too",
)
propose(
    "another_members_promise_is_as_good",
    "if commit is None or (author, commit.previous, commit.hash) != (agent, reveal.previous, promised):",
    "if commit is None or (commit.previous, commit.hash) != (reveal.previous, promised):",
    "test_who_promises_or_shows_two_things_is_refused_and_who_keeps_anothers_promise_too",
)
propose(
    "who_is_unavailable_has_seen_nothing",
    "if reason is None or reason == UNAVAILABLE:",
    "if reason is None:",
    "test_who_cannot_be_had_has_seen_what_it_has_seen",
)
propose(
    "a_late_promise_is_withheld",
    "and not eligible.isdisjoint(commits)",
    "and bool(commits)",
    "test_a_promise_is_withheld_when_it_would_have_counted",
)
propose(
    "there_is_one_seat_more",
    "if len(seats) < ledger.terms.max_members:",
    "if len(seats) <= ledger.terms.max_members:",
    "test_free_seats_go_to_the_lowest_joins_and_none_to_one_of_before",
)
propose(
    "who_sits_out_is_told_a_round_late",
    "barred(tip.penalties, tip.round + 1)",
    "barred(tip.penalties, tip.round)",
    "test_so_many_who_want_a_seat_are_considered_and_none_who_sits_out",
)
propose(
    "who_could_not_sign_is_named",
    "for pair in self.refused if pair[0] in members)",
    "for pair in self.refused)",
    "test_an_outcome_names_those_who_could_sign_it",
)

agree = Planted(AGREEMENT_BUGS, "federated.agreement", "tests/federated/test_agreement.py")
agree(
    "two_thirds_of_what_is_left_of_a_group_are_enough",
    "return max(quorum(len(outcome.members)), least)",
    "return quorum(len(outcome.members))",
    "test_of_those_who_answered_in_this_attempt_a_quorum_goes_on",
)
agree(
    "all_but_one_signature_are_waited_for",
    "if len(signatures) >= self._enough(outcome):",
    "if len(signatures) > self._enough(outcome):",
    "test_more_than_two_thirds_sign_and_what_they_signed_is_published_once",
)
agree(
    "half_may_not_go_on",
    "and 2 * len(members) >= len(self.agents)",
    "and 2 * len(members) > len(self.agents)",
    "test_after_the_failed_attempts_half_may_sign_and_fewer_never",
)
agree(
    "members_shrink_at_once",
    "self.attempt >= MAX_ATTEMPTS\n            and self._me",
    "self._me",
    "test_after_the_failed_attempts_half_may_sign_and_fewer_never",
)
agree(
    "a_lock_is_renewed",
    "(self._lock[0] != digest and now >= self._lock[1])",
    "now >= self._lock[1]",
    "test_who_signed_one_outcome_signs_no_other_until_an_attempt_has_passed",
)
agree(
    "the_first_proposer_is_asked_again",
    "if order[self.attempt % len(order)] != self._me:",
    "if order[0] != self._me:",
    "test_a_proposer_that_does_not_finish_is_followed_by_the_next",
)
agree(
    "signatures_are_not_verified",
    "if not outcome.signed_by(self._task, agent, reply.signature):",
    "if not reply.signature:",
    "test_a_signature_that_is_none_is_its_senders_fault_and_counts_for_nothing",
)
agree(
    "who_may_not_sign_counts",
    "if agent not in question.members:",
    "if agent not in self.agents:",
    "test_of_those_who_answered_in_this_attempt_a_quorum_goes_on",
)
agree(
    "what_is_missing_is_signed_all_the_same",
    "missing = evidence.view() - shown - proofs",
    "missing = frozenset[Cid]()",
    "test_what_the_proposer_lacks_is_shown_to_it_and_strangers_learn_nothing",
)
agree(
    "who_is_named_twice_counts_twice",
    "and list(members) == sorted(set(members))",
    "and list(members) == sorted(members)",
    "test_after_the_failed_attempts_half_may_sign_and_fewer_never",
)
agree(
    "who_did_not_answer_in_this_attempt_is_alive",
    "if agent == self._me or self._answered.get(agent, -inf) >= self._since\n        )",
    "if agent == self._me or agent in self._answered\n        )",
    "test_of_those_who_answered_in_this_attempt_a_quorum_goes_on",
)

chain = Planted(AGREEMENT_BUGS, "federated.ledger", "tests/federated/test_ledger.py")
chain(
    "what_is_built_on_does_not_count",
    "return digest not in self._settled, -len",
    "return False, -len",
    "test_a_result_is_settled_by_two_thirds_of_those_who_could_have_signed_it",
)
chain(
    "two_thirds_have_to_be_exceeded",
    "if len(agents & signed.signatures.keys()) >= quorum(len(agents)):",
    "if len(agents & signed.signatures.keys()) > quorum(len(agents)):",
    "test_a_result_is_settled_by_two_thirds_of_those_who_could_have_signed_it",
)
chain(
    "strangers_settle_a_round",
    "if len(agents & signed.signatures.keys()) >= quorum(len(agents)):",
    "if len(signed.signatures) >= quorum(len(agents)):",
    "test_a_result_is_settled_by_two_thirds_of_those_who_could_have_signed_it",
)
chain("only_the_last_roster_is_spent", "spent=place.spent | {join", "spent={join", "test_a_join_seats_once")
chain(
    "smaller_groups_come_first",
    "key=lambda one: (-len(self.groups[one].outcome.members), one)",
    "key=lambda one: one",
    "tests/federated/test_group_outcomes.py::test_of_two_outcomes_that_which_more_could_sign_counts_before_the_lower_name",
)

bar = Planted(AGREEMENT_BUGS, "federated.penalties", "tests/federated/test_penalties.py")
bar(
    "a_later_penalty_shortens_an_earlier_one",
    "max(before.until, outcome.round + rounds)",
    "outcome.round + rounds",
    "test_penalties_only_grow_and_are_one_object_while_nobody_earns_any",
)
bar(
    "the_last_round_is_free",
    "return self.for_good or number <= self.until",
    "return self.for_good or number < self.until",
    "test_the_second_lie_costs_twice_as_much_and_the_third_the_task",
)

enter = Planted(AGREEMENT_BUGS, "federated.membership", "tests/federated/test_ledger.py")
enter(
    "who_has_little_waiting_loses_it",
    "self._forget(max(self._waiting.values(), key=len))",
    "self._forget(mine)",
    "test_of_all_who_wait_the_one_with_the_most_loses_its_oldest",
)
