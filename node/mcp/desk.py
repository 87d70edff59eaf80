"""What is offered to an agent and whether a call is taken, before and after the daemon is asked.

Tools that write are neither listed nor taken unless the owner allowed them, and then at a bounded pace: an
agent that what it read has talked into flooding the network stops after `MAX_WRITES` in a minute. Arguments
are judged against the tool's shape, and every failure is one line that the agent can act on. The time is an
argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from node.api.shape import Shape
from node.api_client import ApiError
from node.commands.output import printable
from node.errors import NodeError
from node.mcp.calls import Source
from node.mcp.envelope import NONCE_BYTES, Envelope, enclose
from node.mcp.tools import BY_NAME, TOOLS

MAX_WRITES = 30
"""Calls of tools that write, in `WRITE_SECONDS`."""
WRITE_SECONDS = 60.0
MAX_PROBLEMS = 5
"""Wrong arguments that one error names."""
MAX_LINE = 1_000
"""Characters of an error."""


class Refused(NodeError):
    """A call that is not taken or failed; the message is for the agent."""


class UnknownTool(NodeError):
    """There is no tool of this name."""


class Desk:
    """The tools over one daemon; `random_bytes` draws the nonces of envelopes."""

    def __init__(self, source: Source, allow_writes: bool, random_bytes: Callable[[int], bytes]) -> None:
        self._source = source
        self._random_bytes = random_bytes
        self._written: deque[float] = deque(maxlen=MAX_WRITES)
        self.tools = tuple(tool for tool in TOOLS if allow_writes or not tool.writes)

    def admit(self, name: str, arguments: Mapping[str, Any] | None, now: float) -> Shape:
        """What is asked, ready for `perform`; `now` in seconds. Raises `UnknownTool` or `Refused`."""
        tool = BY_NAME.get(name)
        if tool is None:
            raise UnknownTool(
                f"there is no tool {name[:60]!r}: there are {', '.join(one.name for one in self.tools)}"
            )
        if tool not in self.tools:
            raise Refused(
                f"{name} is off: this server only reads. The node's owner can allow it with roseforest mcp "
                "--allow-writes"
            )
        try:
            asked = tool.shape.model_validate(dict(arguments or {}))
        except ValidationError as error:
            raise Refused(_one_line(f"{name}: {_problems(error)}")) from error
        if tool.writes:
            self._count_write(now)
        return asked

    def perform(self, asked: Shape) -> Envelope:
        """Ask the daemon; blocks for seconds. Raises `Refused`."""
        try:
            told = self._source.call(asked)
        except ApiError as error:
            more = ": get the entry again and take its version_id" if error.status == 412 else ""
            raise Refused(_one_line(f"{error}{more}")) from error
        except NodeError as error:
            raise Refused(_one_line(str(error))) from error
        return enclose(
            told.data,
            self._random_bytes(NONCE_BYTES),
            untrusted=told.untrusted,
            max_chars=told.max_chars,
            cuts=told.cuts,
        )

    def _count_write(self, now: float) -> None:
        if len(self._written) == MAX_WRITES and now - self._written[0] < WRITE_SECONDS:
            wait = WRITE_SECONDS - (now - self._written[0])
            raise Refused(
                f"{MAX_WRITES} writes in {WRITE_SECONDS:g} s are the limit: wait {wait:.0f} s, "
                "and ask the user whether so many are wanted"
            )
        self._written.append(now)


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    said = [f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in found[:MAX_PROBLEMS]]
    more = f"; and {len(found) - MAX_PROBLEMS} more" if len(found) > MAX_PROBLEMS else ""
    return "; ".join(said) + more


def _one_line(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 1]}…"
