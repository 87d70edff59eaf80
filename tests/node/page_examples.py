"""The examples of a documentation page, run as they stand.

Blocks marked `console` and `http` run in the order of the page, on real daemons; other blocks are left alone.

- In `console`, a line that begins with `$ ` is a command: `roseforest …` (a `run … &` goes on), `NAME=$(…)`
  which keeps its output, or `echo TEXT > FILE`. A command that goes on in the next line ends in a backslash.
  The lines after it are what it prints, errors first; `…` stands for anything, within a line or, alone on
  a line, for any lines.
- In `http`, a request line (a path, of the node's own API with its token, or a whole URL), headers, an empty
  line and a JSON body; then an empty line, the status, and the JSON of the answer, in which `"…"` stands for
  any value and members that are not shown do not matter.

`$NAME` stands for what a command before has kept. What a read answers may take a moment to be true, where
nodes have to hear of each other: it is asked again until it is as the page says, or the time is over.
"""

from __future__ import annotations

import http.client
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.node.real_daemons import Daemon, Daemons, Done, eventually

ANY = "…"
READS = frozenset({"get", "query", "conflicts", "graph", "status", "peers"})
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_KEPT = re.compile(r"^(\w+)=\$\((.*)\)$")
_VARIABLE = re.compile(r"\$([A-Z_]+)")


@dataclass(slots=True)
class Page:
    """Runs one page in `folder`, where relative paths and `--home NAME` lead; `home` is the default home."""

    daemons: Daemons
    folder: Path
    home: Path
    known: dict[str, str] = field(default_factory=dict)
    running: dict[Path, Daemon] = field(default_factory=dict)
    ran: int = 0

    def run(self, text: str) -> int:
        """Run all examples; returns how many there were. Fails with the example that is not true."""
        for kind, block in blocks(text):
            if kind == "console":
                for command, printed in commands(block):
                    self._console(self._filled(command), self._filled(printed))
                    self.ran += 1
            elif kind == "http":
                self._http(self._filled(block))
                self.ran += 1
        return self.ran

    def _filled(self, text: str) -> str:
        return _VARIABLE.sub(lambda found: self.known.get(found[1], found[0]), text)

    def _console(self, command: str, printed: str) -> None:
        kept = _KEPT.match(command)
        words = shlex.split(kept[2] if kept else command)
        if words[0] == "echo":
            assert words[-2] == ">", f"an echo needs a file: {command}"
            (self.folder / words[-1]).write_text(" ".join(words[1:-2]) + "\n")
            return
        assert words[0] == "roseforest", f"not a command of ours: {command}"
        home = self._home_of(words)
        if words[-1] == "&":
            self.running[home] = self.daemons.run(home, *_without_home(words[2:-1]))
            self.known[home.name.upper()] = self.running[home].address
            return

        def done() -> Done:
            return self.daemons.command(home, *_without_home(words[1:]))

        if words[1] in READS and printed:
            last: list[Done] = []

            def as_printed() -> bool:
                last[:] = [done()]
                return matches(printed, last[0].err + last[0].out)

            eventually(as_printed, f"what the page says of {command}")
            return
        answer = done()
        if kept:
            assert answer.code == 0, (command, answer)
            self.known[kept[1]] = answer.out.strip()
            return
        assert not printed or matches(printed, answer.err + answer.out), (command, printed, answer)
        if not printed:
            assert answer.code == 0, (command, answer)

    def _home_of(self, words: list[str]) -> Path:
        return self.folder / words[words.index("--home") + 1] if "--home" in words else self.home

    def _http(self, block: str) -> None:
        head, *rest = block.strip().split("\n\n")
        answer = rest.pop()
        request, *headers = head.splitlines()
        method, target = request.split(" ", 1)
        status, _, wanted = answer.partition("\n")
        body = rest[0] if rest else None
        got_status, got = self._ask(method, target, dict(line.split(": ", 1) for line in headers), body)
        assert (str(got_status), agrees(json.loads(wanted), got)) == (status, True), (
            request,
            got_status,
            got,
        )

    def _ask(self, method: str, target: str, headers: Mapping[str, str], body: str | None) -> tuple[int, Any]:
        if target.startswith("/"):
            daemon = self.running[self.home]
            target = f"{daemon.info['api']}{target}"
            headers = {"Authorization": f"Bearer {daemon.token}", **headers}
        url = urlsplit(target)
        assert url.hostname in ("127.0.0.1", "::1", "localhost"), f"only loopback: {target}"
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
        try:
            path = f"{url.path}?{url.query}" if url.query else url.path
            connection.request(method, path, None if body is None else body.encode(), dict(headers))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page: what they are marked as, and what is in them."""
    for found in _FENCE.finditer(text):
        yield found[1], found[2]


def commands(block: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the lines that it prints."""
    command, printed = "", list[str]()
    for line in block.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            if command:
                yield command, "\n".join(printed)
            command, printed = line[2:], []
        else:
            printed.append(line)
    if command:
        yield command, "\n".join(printed)


def matches(printed: str, got: str) -> bool:
    """Whether what a command printed is what a page says it prints."""
    lines = [
        r"(?:.*\n)*?" if line == ANY else ".*".join(re.escape(part) for part in line.split(ANY)) + r"\n"
        for line in printed.strip("\n").splitlines()
    ]
    return re.fullmatch("".join(lines), got if got.endswith("\n") else got + "\n") is not None


def agrees(wanted: Any, got: Any) -> bool:
    """Whether an answer has all that a page shows of it."""
    if wanted == ANY:
        return True
    if isinstance(wanted, dict):
        return isinstance(got, dict) and all(
            name in got and agrees(value, got[name]) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(got, list)
            and len(got) == len(wanted)
            and all(agrees(a, b) for a, b in zip(wanted, got, strict=True))
        )
    return bool(wanted == got)


def _without_home(words: list[str]) -> list[str]:
    if "--home" not in words:
        return words
    place = words.index("--home")
    return words[:place] + words[place + 2 :]
