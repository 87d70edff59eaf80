"""Promises of the corpus sources: the same entries every time, bad lines named, nothing unbounded."""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.content import MAX_CITATIONS, MAX_TAG, MAX_TAGS, MAX_TEXT, Content
from node.corpus import BadLine, CorpusEntry, GoodLine, entries, read_json_lines
from node.corpus.json_lines import MAX_LINE_BYTES
from node.corpus.stdlib import MAX_TEXT_CHARACTERS, cut_at_paragraph

ROOT = Path(__file__).resolve().parents[2]


def read(*lines: bytes | str | dict[str, Any]) -> list[GoodLine | BadLine]:
    parts = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    return list(read_json_lines(io.BytesIO(b"\n".join(parts))))


# JSON lines


def test_every_field_is_read() -> None:
    line = {
        "text": "Roses are red",
        "tags": ["rose", "colour", "rose"],
        "domain": "botany",
        "confidence": 0.9,
        "citations": ["https://example.org/b", "a"],
        "vector": [1, -0.5, 0],
    }
    (found,) = read(line)
    assert found == GoodLine(
        1,
        CorpusEntry(
            text="Roses are red",
            tags=("colour", "rose"),
            domain="botany",
            confidence=900_000,
            citations=("a", "https://example.org/b"),
            vector=(1.0, -0.5, 0.0),
        ),
    )


def test_only_text_is_required_and_null_is_absent() -> None:
    bare, nulls = read(
        {"text": "a"}, dict.fromkeys(["tags", "domain", "confidence", "vector"]) | {"text": "a"}
    )
    assert isinstance(bare, GoodLine)
    assert isinstance(nulls, GoodLine)
    assert bare.entry == nulls.entry == CorpusEntry(text="a")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "caf\xe9"}', "not UTF-8 at byte 13"),
        (b"\xff\xfe{\x00", "not UTF-8 at byte 0"),
        (b"{'text': 'a'}", "not JSON"),
        (b'{"text": "a"', "not JSON"),
        (b'{"text": "a"} {"text": "b"}', "not JSON: Extra data"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 5000, "not JSON"),
        (b'["text"]', "not a JSON object but a list"),
        (b'"text"', "not a JSON object but a string"),
        (b"null", "not a JSON object but null"),
        (b"12", "not a JSON object but a number"),
        (b"{}", "field 'text' is missing"),
        (b'{"text": null}', "field 'text' is missing"),
        (b'{"text": 5}', "field 'text' is a number, not a string"),
        (b'{"text": " \\t"}', "field 'text' is empty"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair"),
        (b'{"text": "a", "text": "b"}', "field 'text' is given twice"),
        (b'{"text": "a", "tag": ["b"]}', "unknown field 'tag'"),
        (b'{"text": "a", "tags": "b"}', "field 'tags' is a string, not a list"),
        (b'{"text": "a", "tags": ["b", 1]}', r"field 'tags\[1\]' is a number"),
        (b'{"text": "a", "tags": [""]}', r"field 'tags\[0\]' is empty"),
        (b'{"text": "a", "domain": {}}', "field 'domain' is an object"),
        (b'{"text": "a", "citations": [true]}', "is a truth value"),
        (b'{"text": "a", "confidence": 1.0001}', "from 0 to 1"),
        (b'{"text": "a", "confidence": -1}', "from 0 to 1"),
        (b'{"text": "a", "confidence": true}', "truth value, not a number"),
        (b'{"text": "a", "confidence": NaN}', "NaN is not a JSON number"),
        (b'{"text": "a", "vector": [1, Infinity]}', "Infinity is not a JSON number"),
        (b'{"text": "a", "vector": [1, 1e999]}', r"field 'vector\[1\]' is not finite"),
        (b'{"text": "a", "vector": [1' + b"0" * 400 + b"]}", r"field 'vector\[0\]' is not finite"),
        (b'{"text": "a", "vector": []}', "field 'vector' is empty"),
        (b'{"text": "a", "vector": [[1]]}', r"field 'vector\[0\]' is a list"),
        (json.dumps({"text": "é" * (MAX_TEXT // 2 + 1)}).encode(), f"the limit is {MAX_TEXT}"),
        (json.dumps({"text": "a", "tags": ["t" * (MAX_TAG + 1)]}).encode(), f"the limit is {MAX_TAG}"),
        (json.dumps({"text": "a", "tags": [str(i) for i in range(MAX_TAGS + 1)]}).encode(), "65 items"),
        (json.dumps({"text": "a", "citations": ["c"] * (MAX_CITATIONS + 1)}).encode(), "65 items"),
    ],
)
def test_a_bad_line_is_named_and_its_neighbours_are_read(line: bytes, reason: str) -> None:
    before, bad, after = read({"text": "before"}, line, {"text": "after"})
    assert isinstance(before, GoodLine)
    assert isinstance(bad, BadLine)
    assert bad.number == 2
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bad.reason)
    assert len(bad.reason) < 200
    assert isinstance(after, GoodLine)
    assert after.number == 3


def test_blank_lines_count_but_are_no_lines_of_their_own() -> None:
    found = read("", b"\xef\xbb\xbf", "  \r", '{"text": "a"}\r', "", "{")
    assert [line.number for line in found if isinstance(line, GoodLine)] == [4]
    assert [line.number for line in found if isinstance(line, BadLine)] == [2, 6]


def test_a_byte_order_mark_at_the_start_is_accepted() -> None:
    (found,) = read(b'\xef\xbb\xbf{"text": "a"}')
    assert isinstance(found, GoodLine)


class Endless(io.RawIOBase):
    """A source of ``size`` bytes without a line feed, then one good line; counts the largest read."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.tail = b'\n{"text": "after"}'

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        piece = b"x" * min(self.left, len(view)) if self.left else self.tail[: len(view)]
        if self.left:
            self.left -= len(piece)
        else:
            self.tail = self.tail[len(piece) :]
        view[: len(piece)] = piece
        return len(piece)


def test_an_endless_line_is_skipped_in_bounded_memory() -> None:
    stream = io.BufferedReader(Endless(64 * MAX_LINE_BYTES))
    tracemalloc.start()
    try:
        bad, good = read_json_lines(stream)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert bad == BadLine(1, f"line is longer than {MAX_LINE_BYTES} bytes")
    assert isinstance(good, GoodLine)
    assert (good.number, good.entry.text) == (2, "after")
    assert peak < 5 * MAX_LINE_BYTES


@pytest.mark.parametrize("ending", [b"\n", b""])
@pytest.mark.parametrize(("extra", "accepted"), [(0, True), (1, False)])
def test_the_longest_line_is_exactly_the_limit(ending: bytes, extra: int, accepted: bool) -> None:
    shell = b'{"text": "a"}'
    line = shell + b" " * (MAX_LINE_BYTES - len(shell) + extra)
    (found,) = read_json_lines(io.BytesIO(line + ending))
    assert isinstance(found, GoodLine) is accepted


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_raise(data: bytes) -> None:
    lines = list(read_json_lines(io.BytesIO(data)))
    assert [line.number for line in lines] == sorted({line.number for line in lines})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(["text", "tags", "domain", "confidence", "citations", "vector"])


@given(st.dictionaries(fields, json_values, max_size=6))
def test_whatever_is_accepted_can_become_a_record(value: dict[str, Any]) -> None:
    for found in read(value):
        if isinstance(found, GoodLine):
            entry = found.entry
            Content(
                entry.text, b"\x7f", entry.tags, entry.domain, entry.confidence, entry.citations
            ).to_body()
            assert len(entry.import_key) == 32


# Import keys


def test_an_import_key_is_the_content_and_never_changes() -> None:
    entry = CorpusEntry("Roses", "n", ("b", "a"), "botany", 900_000, ("x",), (1.0, -0.5))
    assert entry.import_key.hex() == "8cf6e8aab61a33062b46b7f1d5444e1e31c26720473e12aabbde6bfd861fc5df"
    assert (
        CorpusEntry("Roses", "m", ("a", "b", "a"), "botany", 900_000, ("x",), (1, -0.5)).import_key
        == entry.import_key
    )


entry_strategy = st.builds(
    CorpusEntry,
    text=st.text(max_size=5),
    tags=st.sets(st.text(max_size=3), max_size=3).map(lambda tags: tuple(sorted(tags))),
    domain=st.none() | st.text(max_size=3),
    confidence=st.none() | st.integers(0, 1_000_000),
    citations=st.sets(st.text(max_size=3), max_size=3).map(lambda items: tuple(sorted(items))),
    vector=st.none() | st.lists(st.floats(-10, 10), max_size=3).map(tuple),
)


@given(entry_strategy, entry_strategy)
def test_equal_content_has_equal_keys_and_other_content_others(a: CorpusEntry, b: CorpusEntry) -> None:
    assert (a.import_key == b.import_key) == (repr(a) == repr(b))


def test_reading_again_yields_the_same_keys() -> None:
    lines = [{"text": f"entry {i}", "confidence": i / 7, "vector": [i / 3, 1e-300]} for i in range(7)]
    first, again = read(*lines), read("", *lines)
    assert [line.entry.import_key for line in first if isinstance(line, GoodLine)] == [
        line.entry.import_key for line in again if isinstance(line, GoodLine)
    ]


# The standard library


@pytest.fixture(scope="module")
def library() -> list[CorpusEntry]:
    return list(entries())


@pytest.mark.slow
def test_the_library_has_thousands_of_distinct_entries_in_order(library: list[CorpusEntry]) -> None:
    names = [entry.name for entry in library]
    assert 6_000 <= len(library) <= 10_000
    assert names == sorted(set(names))
    assert len({entry.import_key for entry in library}) == len(library)


@pytest.mark.slow
def test_every_entry_can_become_a_record(library: list[CorpusEntry]) -> None:
    for entry in library:
        assert len(entry.text) <= MAX_TEXT_CHARACTERS
        assert entry.text.startswith(entry.name)
        assert entry.domain == "python"
        assert "python" in entry.tags
        Content(entry.text, b"\x7f", entry.tags, entry.domain).to_body()


@pytest.mark.slow
def test_source_and_c_and_every_kind_are_there(library: list[CorpusEntry]) -> None:
    by_name = {entry.name: entry for entry in library}
    expected = {
        "shutil.copytree": "function",
        "pathlib.Path.glob": "method",
        "collections.Counter": "class",
        "heapq": "module",
        "math.gcd": "function",
        "str.split": "method",
        "itertools.permutations": "class",
        "os.listdir": "function",
        "os.path.join": "function",
        "re.Pattern.split": "method",
        "collections.abc.Set.isdisjoint": "method",
        "datetime.timedelta": "class",
        "print": "function",
        "ValueError": "class",
    }
    assert {
        name: name in by_name and kind in by_name[name].tags for name, kind in expected.items()
    } == dict.fromkeys(expected, True)
    assert by_name["shutil.copytree"].text.startswith("shutil.copytree(src, dst, symlinks=False,")
    assert "(self" not in by_name["collections.Counter.most_common"].text
    assert by_name["math.gcd"].tags == ("function", "math", "python")


@pytest.mark.slow
def test_private_and_test_modules_and_addresses_are_not_there(library: list[CorpusEntry]) -> None:
    for entry in library:
        parts = entry.name.split(".")
        private = [part for part in parts if part.startswith("_") and not part.endswith("__")]
        assert not private
        assert parts[0] not in {"antigravity", "this", "test", "idlelib", "turtledemo", "readline"}
        assert " at 0x7" not in entry.text


@pytest.mark.slow
@pytest.mark.slow
def test_two_processes_with_different_hashing_yield_the_same_bytes(library: list[CorpusEntry]) -> None:
    script = (
        "import hashlib; from node.corpus import entries;"
        "print(hashlib.sha256(b''.join(e.import_key + e.name.encode() for e in entries())).hexdigest())"
    )
    here = hashlib.sha256(b"".join(entry.import_key + entry.name.encode() for entry in library)).hexdigest()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.strip() == here


@pytest.mark.slow
def test_reading_the_library_prints_nothing_and_imports_no_joke() -> None:
    script = "from node.corpus import entries; import sys; list(entries());" + (
        "assert not {'antigravity', 'this', 'readline', 'tkinter', 'idlelib'} & set(sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@given(st.text(alphabet="ab \n", max_size=80), st.integers(4, 60))
def test_a_cut_text_is_a_beginning_within_the_limit(text: str, limit: int) -> None:
    cut = cut_at_paragraph(text, limit)
    assert text.startswith(cut)
    assert len(cut) <= max(limit, 0)
    assert cut == text or len(text) > limit


def test_a_text_is_cut_at_the_last_paragraph_that_fits() -> None:
    assert cut_at_paragraph("one two\n\nthree four\n\nfive", 22) == "one two\n\nthree four"
    assert cut_at_paragraph("one two three\nfour five", 20) == "one two three"
    assert cut_at_paragraph("one two three four", 16) == "one two three"
    assert cut_at_paragraph("x" * 30, 10) == "x" * 10


# The forty questions


def resolve(name: str) -> bool:
    """Whether ``name`` is a module, or an attribute reached from one."""
    parts = name.split(".")
    if hasattr(builtins, parts[0]):
        return True
    for length in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return in_source(parts)


def in_source(parts: list[str]) -> bool:
    """Whether a module that cannot be imported here defines the name at its top level."""
    spec = importlib.util.find_spec(parts[0])
    if spec is None or spec.origin is None:
        return False
    tree = ast.parse(Path(spec.origin).read_bytes())
    return any(getattr(node, "name", None) == parts[-1] for node in tree.body)


def test_there_are_forty_different_questions_about_existing_names() -> None:
    questions = json.loads((ROOT / "sim" / "questions.json").read_text(encoding="utf-8"))
    assert len(questions) == 40
    assert all(set(question) == {"question", "accepted"} for question in questions)
    assert len({question["question"].casefold() for question in questions}) == 40
    for question in questions:
        assert question["question"].strip()
        assert question["accepted"]
        assert len(set(question["accepted"])) == len(question["accepted"])
        assert [name for name in question["accepted"] if not resolve(name)] == []


def test_the_questions_range_over_many_modules() -> None:
    questions = json.loads((ROOT / "sim" / "questions.json").read_text(encoding="utf-8"))
    assert len({name.split(".")[0] for question in questions for name in question["accepted"]}) >= 35
