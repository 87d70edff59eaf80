"""The book keeps each agent's newest verified record, in bounded space, and believes nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.overlay.contact import ContactError, StaleContactError
from dht.overlay.contact_book import ContactBook
from tests.dht.people import MANIFEST, NOW_US, altered, identity, signed

LIMIT = 5


def book() -> ContactBook:
    return ContactBook(MANIFEST.membrane, LIMIT)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=40))
def test_the_book_is_a_bounded_map_to_the_newest_record(shown: list[tuple[int, int]]) -> None:
    contacts = book()
    model: dict[int, int] = {}
    for number, later in shown:
        newest = max(later, model.get(number, later))
        model.pop(number, None)
        model[number] = newest
        while len(model) > LIMIT:
            del model[next(iter(model))]
        got = contacts.learn(signed(number, issued_us=NOW_US + later).data, NOW_US)
        assert got == signed(number, issued_us=NOW_US + newest)
    assert [contact.agent for contact in contacts] == [identity(number).agent for number in model]
    for number in range(9):
        held = contacts.get(identity(number).agent)
        assert (held is None) == (number not in model)


def test_bytes_held_already_are_still_held_to_the_clock() -> None:
    contacts = book()
    data = signed(0, ttl_s=10).data
    contacts.learn(data, NOW_US)
    with pytest.raises(StaleContactError):
        contacts.learn(data, NOW_US + 11_000_000)


def test_what_does_not_verify_changes_nothing() -> None:
    contacts = book()
    contacts.learn(signed(0).data, NOW_US)
    with pytest.raises(ContactError):
        contacts.learn(altered(signed(1).data), NOW_US)
    assert len(contacts) == 1


def test_a_forgotten_agent_is_learnt_anew() -> None:
    contacts = book()
    contacts.learn(signed(0).data, NOW_US)
    contacts.forget(identity(0).agent)
    contacts.forget(identity(0).agent)
    assert contacts.get(identity(0).agent) is None
    assert contacts.learn(signed(0).data, NOW_US) == signed(0)
