"""Errors of the node floor: one tree under `NodeError`, each message one line that says what to do.

The edges turn them into an exit code (`node.commands.exit_codes`) or an HTTP status (`node.api.problems`).
Errors of the floors below, and of `node.storage` and `node.embedding`, pass through unchanged; the same two
tables know them.
"""

from __future__ import annotations


class NodeError(Exception):
    """Anything that this floor raises on purpose."""


class HomeError(NodeError):
    """A home folder, or a file in it, cannot be used as it is; nothing in it was overwritten."""


class HomeMissing(HomeError):
    """There is no home folder where one is needed."""


class HomeDamaged(HomeError):
    """A file of the home folder is not what it should be: key, token, manifest, atlas or database."""


class KeyLocked(HomeError):
    """A key is protected by a passphrase, and none was given."""


class WrongPassphrase(KeyLocked):
    """The passphrase that was given does not open the key."""


class ConfigError(NodeError):
    """A setting is unknown or has a value that cannot be used; the message names where it was set."""


class InUse(NodeError):
    """Another process holds the home folder or the port."""


class HomeInUse(InUse):
    """Another process runs on this home folder."""


class PortInUse(InUse):
    """The API cannot listen where it was told to."""


class InvalidInput(NodeError):
    """What was asked or handed in is refused; the message names the value and the limit."""


class NotFound(NodeError):
    """Nothing with this id is known."""


class VersionConflict(NodeError):
    """The entry has changed since the version that the caller saw; the message says what has."""


class Forbidden(NodeError):
    """This agent may not do that."""


class Gone(NodeError):
    """The entry is deleted or retracted, and what was asked needs one that is not."""


class Erased(NodeError):
    """The author has purged what was here; the message says when."""


class DaemonNotRunning(NodeError):
    """No daemon answers for this home folder."""


class NotReady(NodeError):
    """The node is starting, stopping, or has too much to do at the moment: ask again."""


class JoinFailed(NodeError):
    """No peer of the network could be reached, or the one reached belongs to another network."""


class NotInvited(NodeError):
    """The network is by invitation, and what was shown does not let this agent in."""


class ReadOnly(NodeError):
    """The node takes no writes at the moment; the message says why."""
