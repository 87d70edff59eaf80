"""The contact book: every verified address record, each agent's newest, in bounded space.

Whoever has a record here is a member: it was let into this network and signed where it is, though it
may store nothing or be gone. The book verifies what it takes in, and recognises bytes it holds
already, because lookups bring the same records again and again. Pure: `now_us` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from chain.identity import AgentId
from chain.membrane import Membrane
from dht.overlay.contact import Contact, check_time, open_contact

MAX_CONTACTS = 4096
"""Agents with a record; one more forgets the one that was named or used longest ago."""


class ContactBook:
    """The newest address record of each agent, least recently used first."""

    def __init__(self, membrane: Membrane, max_contacts: int = MAX_CONTACTS) -> None:
        self._membrane = membrane
        self._max_contacts = max_contacts
        self._contacts: OrderedDict[AgentId, Contact] = OrderedDict()
        self._by_data: dict[bytes, AgentId] = {}

    def __len__(self) -> int:
        return len(self._contacts)

    def __iter__(self) -> Iterator[Contact]:
        return iter(self._contacts.values())

    def get(self, agent: AgentId) -> Contact | None:
        """The newest record of `agent`, expired or not."""
        contact = self._contacts.get(agent)
        if contact is not None:
            self._contacts.move_to_end(agent)
        return contact

    def learn(self, data: bytes, now_us: int) -> Contact:
        """Verify an address record and return the newest one of its agent, which may be another.

        O(1); a signature check for bytes not held already. Raises a `ContactError`.
        """
        known = self._by_data.get(data)
        if known is not None:
            contact = self._contacts[known]
            check_time(contact, now_us)
            self._contacts.move_to_end(known)
            return contact
        contact = open_contact(data, self._membrane, now_us)
        held = self._contacts.get(contact.agent)
        if held is not None and not contact.newer_than(held):
            self._contacts.move_to_end(contact.agent)
            return held
        if held is not None:
            del self._by_data[held.data]
        elif len(self._contacts) >= self._max_contacts:
            _, oldest = self._contacts.popitem(last=False)
            del self._by_data[oldest.data]
        self._contacts[contact.agent] = contact
        self._contacts.move_to_end(contact.agent)
        self._by_data[data] = contact.agent
        return contact

    def forget(self, agent: AgentId) -> None:
        """Drop the record of `agent`."""
        contact = self._contacts.pop(agent, None)
        if contact is not None:
            del self._by_data[contact.data]
