"""Record kinds and the rule version in which each became known.

A kind outside the rule version of a record's epoch is invalid; a record of an epoch this node does not
know waits. Kinds are short strings, `family.verb`. Operations on an entry carry its create record as
`subject`, operations on a learning task the record that published it; the chain's own records, creates and
tasks have none.
"""

from __future__ import annotations

from typing import Final

GENESIS: Final = "chain.genesis"
MEMBRANE: Final = "chain.membrane"
PROFILE: Final = "chain.profile"
CLOSE: Final = "chain.close"
EPOCH: Final = "network.epoch"
CREATE: Final = "entry.create"
EDIT: Final = "entry.edit"
TAG: Final = "entry.tag"
UNTAG: Final = "entry.untag"
DELETE: Final = "entry.delete"
RETRACT: Final = "entry.retract"
VOTE: Final = "entry.vote"
PURGE: Final = "entry.purge"
DESCRIBE: Final = "entry.describe"
LINK: Final = "entry.link"
UNLINK: Final = "entry.unlink"
ASSESS: Final = "entry.assess"
PRIVATE: Final = "entry.private"
SEALED: Final = "entry.sealed"
TASK: Final = "learning.task"
JOIN: Final = "learning.join"
LEAVE: Final = "learning.leave"
START: Final = "learning.start"
COMMIT: Final = "learning.commit"
REVEAL: Final = "learning.reveal"
RESULT: Final = "learning.result"
PART: Final = "learning.part"
GROUP: Final = "learning.group"
CALL: Final = "learning.call"
ANSWER: Final = "learning.answer"
END: Final = "learning.end"
SHARE: Final = "learning.share"
FORK_WARRANT: Final = "warrant.fork"
INVALID_WARRANT: Final = "warrant.invalid"
ROTATE: Final = "agent.rotate"
CONTINUE: Final = "agent.continue"
REVOKE: Final = "agent.revoke"

RULE_VERSION: Final = 7
"""The newest rule version this node can judge by; networks are founded with it."""

_RULES_1: Final = frozenset(
    {GENESIS, MEMBRANE, PROFILE, CLOSE, EPOCH, CREATE, EDIT, TAG, UNTAG, DELETE, RETRACT}
)

_PEER_ROUNDS: Final = frozenset({JOIN, LEAVE, START, COMMIT, REVEAL, RESULT})
SERVER_RUN: Final = frozenset({CALL, ANSWER, END})
"""Kinds that the run of a task's ServerApp is made of (`chain.server_app`)."""
_SINCE_6: Final = frozenset({PART, GROUP, SHARE})
LEARNING_OPERATIONS: Final = _PEER_ROUNDS | SERVER_RUN | _SINCE_6
"""Kinds that act on a learning task which a `learning.task` published."""

WARRANTS: Final = frozenset({FORK_WARRANT, INVALID_WARRANT})
"""Kinds that prove what another agent did (`chain.warrant`)."""

_RULES_2: Final = _RULES_1 | {VOTE, TASK} | _PEER_ROUNDS
AGENT_LIFE: Final = frozenset({ROTATE, CONTINUE, REVOKE})
"""Kinds about whose key is whose (`chain.agent_life`)."""

_RULES_3: Final = _RULES_2 | WARRANTS | AGENT_LIFE | {PURGE, PRIVATE, SEALED}

_RULES_5: Final = _RULES_3 | {DESCRIBE, LINK, UNLINK, ASSESS} | SERVER_RUN

_RULES_6: Final = _RULES_5 | _SINCE_6

KINDS_BY_RULE_VERSION: Final[dict[int, frozenset[str]]] = {
    1: _RULES_1,
    2: _RULES_2,
    3: _RULES_3,
    4: _RULES_3,
    5: _RULES_5,
    6: _RULES_6,
    7: _RULES_6,
}
"""From version 4 on an epoch may change the atlas, from version 5 on content has more fields
(`validation.payload_rules`), from version 7 on a learning task has more terms (`chain.learning_task`)."""

FIELDS_FROM: Final = 5
"""The rule version from which on content has more than its first fields, and votes may be passed on."""

SIGNED_AT_FROM: Final = 7
"""The rule version from which on a vote that another has signed says when it was."""

TOPOLOGIES_FROM: Final = 6
"""The rule version from which on a learning task may have a topology, secure sums, over 16 members."""

FLOAT16_FROM: Final = 7
"""The rule version from which on the models of a learning task may travel in 16 bits an element."""

ROUNDS_FROM: Final = 7
"""The rule version from which on a learning task may say by which version its rounds are computed."""

OPENING: Final = (GENESIS, MEMBRANE, PROFILE)
"""The kinds of seq 0, 1 and 2 of every chain."""

ENDS: Final = frozenset({CLOSE, ROTATE})
"""Kinds after which nothing follows in a chain."""

ENTRY_OPERATIONS: Final = frozenset(
    {EDIT, TAG, UNTAG, DELETE, RETRACT, VOTE, PURGE, DESCRIBE, LINK, UNLINK, ASSESS}
)
"""Kinds that act on an entry which an `entry.create` made."""

SUBJECT_OPERATIONS: Final = ENTRY_OPERATIONS | LEARNING_OPERATIONS
"""Kinds that name a subject which another record created: of all families."""

HEADS: Final = frozenset({CREATE, EDIT, DESCRIBE, DELETE, RETRACT, TASK})
"""Kinds that become heads of their subject; tags and votes cite heads, operations on a task only it."""

CARRIES_CONTENT: Final = frozenset({CREATE, EDIT})
"""Kinds whose payload holds a content value with its vector."""

BOXES: Final = frozenset({PRIVATE, SEALED})
"""Kinds that only their author can read (`chain.private`); of sealed ones others keep the box as a backup."""

PURGEABLE: Final = CARRIES_CONTENT | {TAG, UNTAG, VOTE, DESCRIBE, LINK, UNLINK, ASSESS, SEALED}
"""Kinds that say something in words, and whose payload their author may have erased (`entry.purge`)."""
