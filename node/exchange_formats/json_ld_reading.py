"""Reads entries out of JSON-LD, node by node, without ever fetching a context.

A document is an object whose `@context` stands before its `@graph`, as `node.exchange_formats.json_ld` writes
it, or a single node, or a list of such objects. Terms are resolved by the inline context alone, so documents
with other names for the same IRIs are read too; a context that would have to be fetched is refused. What is
an entry is a node with a text that is not a version of another one. It becomes the object that a JSON line
would hold, and passes the same checks; nodes of other kinds, and properties that nobody can sign for here,
are passed over. One node is held at a time, of at most `MAX_NODE` characters; lines are counted for people.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from chain.errors import ChainError
from chain.identity import agent_from_text, peer_id
from node.corpus.json_lines import BadLine, GoodLine, entry_of
from node.exchange_formats.json_ld import CONTEXT, ENTRY, NETWORK, PROV, TERMS

MAX_NODE: Final = 4 << 20
"""Characters of one node, or of the context."""
MAX_TERMS: Final = 4096
MAX_PREFIXES: Final = 8
"""Steps by which a term is resolved: `rf:text`, then `rf`."""
_PORTION: Final = 64 * 1024
_MOST_AT_ONCE: Final = 1 << 20
_LISTS: Final = frozenset(
    {"tags", "citations", "subdomains", "statements", "references", "steps", "alternatives"}
)
_NOT_TAKEN: Final = frozenset(
    {
        "value",
        "reason",
        "agent",
        "on_behalf_of",
        "votes",
        "assessments",
        "peer_id",
        "left_out",
        "part",
        "number",
    }
)


class _Broken(ValueError):
    """The document cannot be read on from here; the message is the reason."""


def read_json_ld(stream: BinaryIO) -> Iterator[GoodLine | BadLine]:
    """Each entry of the document in order, lazily; numbers are those of the lines where their nodes begin.

    Raises only what reading `stream` raises (OSError). What breaks the document ends it with a `BadLine`.
    """
    text = _Text(stream)
    try:
        yield from _document(text)
    except (_Broken, UnicodeDecodeError) as error:
        yield BadLine(text.line, f"{error}; nothing after it is read")


def _document(text: _Text) -> Iterator[GoodLine | BadLine]:
    first = text.peek()
    if first == "[":
        for number in text.members():
            if text.peek() != "{":
                raise _Broken("a list of JSON-LD holds objects")
            value = text.value()
            nodes = value.get("@graph", [value]) if isinstance(value, dict) else []
            terms = _terms(value.get("@context"))
            yield from (found for node in _list(nodes) if (found := _node(number, node, terms)) is not None)
    elif first == "{":
        yield from _object(text)
    else:
        raise _Broken("not JSON-LD: expected an object or a list")
    if text.peek():
        raise _Broken("something follows the document")


def _object(text: _Text) -> Iterator[GoodLine | BadLine]:
    terms: dict[str, str] | None = None
    node: dict[str, Any] = {}
    start = text.line
    for key in text.names():
        if key == "@context":
            terms = _terms(text.value())
        elif key == "@graph":
            if terms is None:
                raise _Broken("the @context stands before the @graph, inline")
            if text.peek() != "[":
                raise _Broken("the @graph is a list")
            for number in text.members():
                found = _node(number, text.value(), terms)
                if found is not None:
                    yield found
        else:
            node[key] = text.value()
    found = _node(start, node, _terms(None) if terms is None and node else terms or {})
    if found is not None:
        yield found


def _node(number: int, node: object, terms: dict[str, str]) -> GoodLine | BadLine | None:
    """The entry that a node is, or why it is none that can be taken; None for nodes of other kinds."""
    if not isinstance(node, dict):
        return BadLine(number, "a node of the graph is no object")
    named = _named(node, terms)
    if "text" not in named or any(terms.get(key) == PROV + "specializationOf" for key in node):
        return None
    try:
        return GoodLine(number, entry_of(_entry(node, named, terms)))
    except ValueError as error:
        return BadLine(number, str(error))


def _entry(node: dict[str, Any], named: dict[str, Any], terms: dict[str, str]) -> dict[str, Any]:
    entry = {name: _plain(name, value, terms) for name, value in named.items() if name not in _NOT_TAKEN}
    author = next((node[key] for key in node if terms.get(key) == PROV + "wasAttributedTo"), None)
    author = author.get("@id") if isinstance(author, dict) else author
    id_, network = node.get("@id"), entry.pop("network", None)
    if (
        isinstance(id_, str)
        and id_.startswith(ENTRY)
        and isinstance(network, str)
        and isinstance(author, str)
    ):
        entry |= {"id": id_.removeprefix(ENTRY), "network": network.removeprefix(NETWORK)}
        entry["author"] = _peer(author)
    return entry


def _plain(name: str, value: Any, terms: dict[str, str]) -> Any:
    """A property's value as a JSON line has it."""
    if isinstance(value, dict) and "@value" in value:
        return value["@value"]
    if isinstance(value, dict) and value.keys() <= {"@list", "@set"}:
        value = next(iter(value.values()), [])
    if name in _LISTS:
        return [_plain("", one, terms) for one in _list(value)]
    if isinstance(value, list):
        return _plain(name, value[0], terms) if len(value) == 1 else value
    if isinstance(value, dict):
        if value.keys() == {"@id"}:
            return _plain(name, value["@id"], terms)
        inner = _named({key: one for key, one in value.items() if not key.startswith("@")}, terms)
        return {key: _plain(key, one, terms) for key, one in inner.items()}
    if name == "target" and isinstance(value, str):
        return value.removeprefix(ENTRY)
    return value


def _named(node: dict[str, Any], terms: dict[str, str]) -> dict[str, Any]:
    """A node's properties under our names, those that have one."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = _OURS.get(_resolved(key, terms))
        if name is not None and value is not None:
            found[name] = value
    return found


def _terms(context: object) -> dict[str, str]:
    """The IRI of every term of an inline context."""
    if not isinstance(context, dict):
        raise _Broken("the @context has to stand in the document, as an object: none is fetched")
    if len(context) > MAX_TERMS:
        raise _Broken(f"the @context has {len(context)} terms, the limit is {MAX_TERMS}")
    plain = {key: one.get("@id") if isinstance(one, dict) else one for key, one in context.items()}
    given = {key: one for key, one in plain.items() if isinstance(one, str) and not key.startswith("@")}
    return {key: _resolved(key, given) for key in given}


def _resolved(key: str, terms: dict[str, str]) -> str:
    for _ in range(MAX_PREFIXES):
        if key in terms and terms[key] != key:
            key = terms[key]
            continue
        prefix, colon, rest = key.partition(":")
        if not colon or prefix not in terms or rest.startswith("//"):
            break
        key = terms[prefix] + rest
    return key


def _peer(author: str) -> str:
    try:
        return peer_id(agent_from_text(author))
    except ChainError:
        return author


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


class _Text:
    """A JSON text that is read value by value; at most `MAX_NODE` characters and a portion are here."""

    def __init__(self, stream: BinaryIO) -> None:
        self.line = 1
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            while self._at < len(self._text):
                found = self._text[self._at]
                if not found.isspace():
                    return found
                self.line += found == "\n"
                self._at += 1
            if not self._more(_PORTION):
                return ""

    def value(self) -> Any:
        """The next JSON value."""
        self.peek()
        size = _PORTION
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._more(size):
                    self.line += self._text.count("\n", self._at, end)
                    self._at = end
                    return value
            except RecursionError as error:
                raise _Broken("not JSON: nested too deeply") from error
            except json.JSONDecodeError as error:
                if not self._more(size):
                    raise _Broken(f"not JSON: {error.msg}") from error
            if len(self._text) - self._at > MAX_NODE:
                raise _Broken(f"a node is longer than {MAX_NODE} characters")
            size = min(2 * size, _MOST_AT_ONCE)

    def members(self) -> Iterator[int]:
        """Before each value of the list that begins here: the line of it. The caller takes the value."""
        yield from (self.line for _ in self._each("[", "]"))

    def names(self) -> Iterator[str]:
        """Each key of the object that begins here. The caller takes the value."""
        for _ in self._each("{", "}"):
            key = self.value()
            if not isinstance(key, str):
                raise _Broken("not JSON: expected a key")
            self._take(":")
            yield key

    def _each(self, opening: str, closing: str) -> Iterator[None]:
        self._take(opening)
        if self.peek() == closing:
            self._take(closing)
            return
        while True:
            self.peek()
            yield
            if self.peek() == closing:
                self._take(closing)
                return
            self._take(",")

    def _take(self, character: str) -> None:
        found = self.peek()
        if found != character:
            what = repr(found) if found else "the end"
            raise _Broken(f"not JSON: expected {character!r}, found {what}")
        self._at += 1

    def _more(self, size: int) -> bool:
        if self._ended:
            return False
        data = self._stream.read(size)
        self._ended = not data
        self._text = self._text[self._at :] + self._decoder.decode(data, final=self._ended)
        self._at = 0
        return not self._ended


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Broken("a key is given twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise _Broken(f"{name} is not a JSON number")


_OURS: Final = {iri: name for name, iri in _terms(CONTEXT).items() if iri.startswith((TERMS, "http://purl"))}
"""Our name for each property."""
