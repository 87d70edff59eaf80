"""Messages of a ServerApp's run as bytes: Flower's own encoding of the content, behind a line that says what.

The content is the protocol buffer that Flower sends over its own wire; what travels beside it, the type of
the message and its group, is a msgpack map. A message of a peer is hostile: its length is bounded by the
node, its arrays are looked at before they are read (`admission`), and nothing is ever unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack
from flwr.app import Error, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from google.protobuf.message import DecodeError

from federated.flower.errors import AppFailed

MAX_TYPE = 100
MAX_REASON = 1_000
"""Characters of an error's reason that travel."""
ERROR_CODE = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A message to a ClientApp: its type ("train", "evaluate.x"), its group, and the content."""

    type: str
    group: str
    content: RecordDict


def pack_request(request: Request) -> bytes:
    """The message as bytes."""
    return bytes(
        msgpack.packb(
            {"type": request.type, "group": request.group, "content": _packed(request.content)},
            use_bin_type=True,
        )
    )


def unpack_request(data: bytes) -> Request:
    """The message that these bytes are; raises `AppFailed`."""
    found = _map(data)
    kind, group = found.get("type"), found.get("group")
    if not (isinstance(kind, str) and 0 < len(kind) <= MAX_TYPE and isinstance(group, str)):
        raise AppFailed("a message says nothing of its type")
    return Request(kind, group[:MAX_TYPE], _unpacked(found.get("content")))


def pack_reply(content: RecordDict | None, reason: str = "") -> bytes:
    """A ClientApp's answer as bytes; None: it failed, for `reason`."""
    if content is None:
        return bytes(msgpack.packb({"error": reason[:MAX_REASON]}, use_bin_type=True))
    return bytes(msgpack.packb({"content": _packed(content)}, use_bin_type=True))


def unpack_reply(data: bytes) -> RecordDict | Error:
    """The answer that these bytes are; what cannot be read is an error like one that the app reports."""
    try:
        found = _map(data)
        if "error" in found:
            return Error(code=ERROR_CODE, reason=str(found["error"])[:MAX_REASON])
        return _unpacked(found.get("content"))
    except AppFailed as error:
        return Error(code=ERROR_CODE, reason=str(error))


def _packed(content: RecordDict) -> bytes:
    data: bytes = recorddict_to_proto(content).SerializeToString(deterministic=True)
    return data


def _unpacked(data: Any) -> RecordDict:
    if not isinstance(data, bytes):
        raise AppFailed("a message has no content")
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(data))
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        raise AppFailed(f"a message's content cannot be read: {error}") from error


def _map(data: bytes) -> dict[str, Any]:
    try:
        found = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.UnpackException) as error:
        raise AppFailed(f"a message is no msgpack: {error}") from error
    if not isinstance(found, dict):
        raise AppFailed("a message is no map")
    return found
