"""Errors of the learning verbs: one tree, each message one line that says what is wrong."""

from __future__ import annotations


class LearningError(Exception):
    """Anything that this floor raises on purpose."""


class UnknownTask(LearningError):
    """No task with this id is known here or at its holders, or nothing of what was asked for exists yet."""


class WrongState(LearningError):
    """It cannot be done now: another round, too late, already done, or not a member."""


class Refused(LearningError):
    """What was handed in does not match the task; the message says where."""
