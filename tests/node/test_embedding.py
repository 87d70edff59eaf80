"""Promises of the embedders: exact codes on every machine, related texts near each other, clear refusals."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from chain.cid import to_text
from chain.vector import codes_from_bytes, score_ppm
from node.embedding import (
    SPACE,
    CallerVectors,
    Embedder,
    EmbeddingError,
    StaticEmbedder,
    packaged,
    packaged_atlas,
    static,
)
from node.embedding import errors as embedding_errors
from node.embedding.quantise import SUM_MAX, quantise_floats, quantise_integers
from node.embedding.word_pieces import read_vocabulary
from node.embedding.wordnet import read_glosses
from sharding.atlas import Atlas, nearest_cells

ROOT = Path(__file__).resolve().parents[2]

GOLDEN = {
    "copy a file": ([-37, -61, -85, 6, 52, -17, -8, -75], "c13f70827d1c21de"),
    "How do I copy a whole directory tree?": ([-1, -127, -68, 19, -37, -9, 18, -35], "693798fd6f21f850"),
    "Ein Rosenwald, naïve café — 北京": ([-3, 127, -32, -57, 1, -24, -34, -39], "53272a04c80e3c3b"),
    "x": ([127, -77, -56, 18, -1, -20, -30, -10], "45383c2aec5b9b94"),
    "int8 codes: 127, -127 and shutil.copytree()": ([36, -17, -127, 29, 31, 25, -32, -2], "5d23b77a99c3ebfa"),
}
"""Text → first eight codes, and the beginning of sha256 over all 256."""

PARAPHRASES = [
    ("a fast car", "a quick automobile", "a bowl of soup"),
    ("the doctor treated the patient", "a physician cared for the sick man", "the train left the station"),
    ("delete a file from disk", "remove a document from the drive", "sing a song with the choir"),
]


@pytest.fixture(scope="module")
def embedder() -> StaticEmbedder:
    return StaticEmbedder()


# The quantiser

integer_rows = npst.arrays(
    np.int64,
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.integers(-SUM_MAX, SUM_MAX),
).filter(lambda rows: bool(np.abs(rows).max(axis=1).min() > 0))

float_rows = npst.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 6)),
    elements=st.floats(allow_nan=False, allow_infinity=False),
).filter(lambda rows: bool(np.abs(rows).max(axis=1).min() > 0))


@given(integer_rows)
def test_integer_codes_are_the_exactly_rounded_ratio(rows: np.ndarray) -> None:
    for row, code in zip(rows.tolist(), quantise_integers(rows).tolist(), strict=True):
        peak = max(map(abs, row))
        for value, got in zip(row, code, strict=True):
            # |got - 127 v / peak| ≤ 1/2, checked without a division
            assert abs(2 * (got * peak - 127 * value)) <= peak
            assert got * value >= 0
        assert max(map(abs, code)) == 127


@given(integer_rows, st.integers(1, 1000))
def test_only_the_direction_of_an_integer_vector_counts(rows: np.ndarray, factor: int) -> None:
    small = rows // 1024
    if np.abs(small).max(axis=1).min() > 0:
        assert (quantise_integers(small) == quantise_integers(small * factor)).all()
        assert (quantise_integers(-small) == -quantise_integers(small)).all()


@given(float_rows)
def test_float_codes_peak_at_127_and_keep_signs(rows: np.ndarray) -> None:
    codes = quantise_floats(rows, rows.shape[1]).astype(int)
    assert (np.abs(codes).max(axis=1) == 127).all()
    assert (codes * np.sign(rows) >= 0).all()
    peaks = np.abs(rows).max(axis=1, keepdims=True)
    assert (np.abs(codes / 127 - rows / peaks) <= 0.5 / 127 + 1e-9).all()


@given(integer_rows)
def test_integers_and_floats_agree_where_both_are_exact(rows: np.ndarray) -> None:
    small = rows >> 30  # exact in float64, and no quotient comes within rounding of a half
    if np.abs(small).max(axis=1).min() > 0:
        difference = quantise_integers(small).astype(int) - quantise_floats(small, small.shape[1]).astype(int)
        ties = np.abs(small) * 254 % np.abs(small).max(axis=1, keepdims=True) == 0
        assert (difference[~ties] == 0).all()


@given(integer_rows)
def test_requantising_a_code_changes_nothing(rows: np.ndarray) -> None:
    codes = quantise_integers(rows)
    assert (quantise_integers(codes.astype(np.int64)) == codes).all()


def test_sums_too_large_for_exact_arithmetic_are_refused() -> None:
    with pytest.raises(OverflowError, match="exceeds"):
        quantise_integers(np.array([[SUM_MAX + 1, 0]]))
    with pytest.raises(OverflowError, match="exceeds"):
        quantise_integers(np.array([[np.iinfo(np.int64).min, 5]]))


# Vectors given by a caller


@given(st.lists(st.floats(-1e308, 1e308), min_size=5, max_size=5).filter(any))
def test_a_callers_vector_becomes_a_valid_code(vector: list[float]) -> None:
    code = CallerVectors("acme-5-v1", 5).quantise(vector)
    assert codes_from_bytes(code.tobytes(), 5).shape == (5,)


@pytest.mark.parametrize(
    ("vector", "error", "message"),
    [
        ([1.0, 2.0], embedding_errors.WrongSize, "2 components .* space has 3"),
        ([], embedding_errors.WrongSize, "0 components"),
        ([1.0, 2.0, 3.0, 4.0], embedding_errors.WrongSize, "4 components"),
        ([[1.0], [2.0], [3.0]], embedding_errors.WrongSize, "shape"),
        ([1.0, math.nan, 2.0], embedding_errors.NotFinite, "component 1 .* is nan"),
        ([1.0, 2.0, -math.inf], embedding_errors.NotFinite, "component 2 .* is -inf"),
        ([1.0, 2.0, 10**400], embedding_errors.NotFinite, "not a table of numbers"),
        ([1.0, "north", 2.0], embedding_errors.NotFinite, "not a table of numbers"),
        ([0.0, -0.0, 0.0], embedding_errors.ZeroVector, "no direction"),
    ],
)
def test_a_bad_vector_is_refused_by_name(
    vector: list[float], error: type[EmbeddingError], message: str
) -> None:
    with pytest.raises(error, match=message):
        CallerVectors("acme-3-v1", 3).quantise(vector)


def test_a_text_without_its_vector_is_refused() -> None:
    space = CallerVectors("acme-3-v1", 3)
    assert space.embed([]).shape == (0, 3)
    with pytest.raises(embedding_errors.TextNotAccepted, match=r"acme-3-v1.*3 numbers"):
        space.embed(["hello"])
    with pytest.raises(ValueError, match="0 dimensions"):
        CallerVectors("empty", 0)


# The built-in embedder


def test_both_embedders_are_embedders(embedder: StaticEmbedder) -> None:
    ports: list[Embedder] = [embedder, CallerVectors("acme-3-v1", 3)]
    assert [(port.space, port.dim) for port in ports] == [(SPACE, 256), ("acme-3-v1", 3)]


def test_golden_codes(embedder: StaticEmbedder) -> None:
    codes = embedder.embed(list(GOLDEN))
    assert codes.dtype == np.int8
    assert codes.shape == (5, 256)
    found = [(row[:8].tolist(), hashlib.sha256(row.tobytes()).hexdigest()[:16]) for row in codes]
    assert found == list(GOLDEN.values())


def test_another_process_with_other_hashing_and_threads_gets_the_same_codes(embedder: StaticEmbedder) -> None:
    script = (
        "import sys; from node.embedding import StaticEmbedder;"
        "sys.stdout.buffer.write(StaticEmbedder().embed(sys.argv[1:]).tobytes())"
    )
    environment = os.environ | {
        "PYTHONHASHSEED": "7",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-c", script, *GOLDEN]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=60)
    assert done.stdout == embedder.embed(list(GOLDEN)).tobytes()


def test_codes_do_not_depend_on_the_batch(embedder: StaticEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text * repeat for repeat in (1, 7, 40) for text in GOLDEN]
    whole = embedder.embed(texts)
    assert (np.concatenate([embedder.embed([text]) for text in texts]) == whole).all()
    monkeypatch.setattr(static, "BATCH_TEXTS", 4)
    monkeypatch.setattr(static, "BATCH_PIECES", 3)
    assert (embedder.embed(texts) == whole).all()


@pytest.mark.parametrize(("text", "same", "other"), PARAPHRASES)
def test_a_paraphrase_is_nearer_than_another_subject(
    embedder: StaticEmbedder, text: str, same: str, other: str
) -> None:
    codes = embedder.embed([text, same, other])
    assert score_ppm(codes[0], codes[1]) > 450_000
    assert score_ppm(codes[0], codes[2]) < 200_000


def test_case_accents_and_spacing_do_not_count(embedder: StaticEmbedder) -> None:
    codes = embedder.embed(["the café is open", "The CAFE   is\nopen", "THE CAFÉ IS OPEN!"])
    assert (codes == codes[0]).all()


def test_markers_of_the_vocabulary_are_plain_text(embedder: StaticEmbedder) -> None:
    codes = embedder.embed(["sep", "[SEP]"])
    assert (codes[0] == codes[1]).all()


@given(
    st.lists(
        st.text(max_size=20)
        | st.text(string.printable, max_size=40)
        | st.sampled_from(
            ["Running", "e-mail", "don't", "zorblax", "x" * 101, "[CLS]", "##ing", "naïve", "a\x01b"]
        ),
        max_size=8,
    )
)
def test_words_met_before_are_read_as_the_tokenizer_reads_them(parts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.embedding.static.MAX_WORDS", 50)
        patch.setattr(SHARED, "_words", {})
        for text in ("".join(parts), " ".join(parts)):
            right = SHARED._tokenized([text])
            if any(right):
                assert SHARED._pieces([text], 0) == right
            else:
                with pytest.raises(embedding_errors.UnknownText):
                    SHARED._pieces([text], 0)
            assert len(SHARED._words) <= 50


@given(st.text(max_size=60))
def test_any_text_has_a_valid_code_or_a_named_refusal(text: str) -> None:
    # A space keeps the known word apart from whatever follows, even from characters that are dropped.
    assert codes_from_bytes(SHARED.embed(["rose " + text]).tobytes(), 256).any()
    with contextlib.suppress(embedding_errors.UnknownText):
        assert codes_from_bytes(SHARED.embed([text]).tobytes(), 256).any()


SHARED = StaticEmbedder()


@pytest.mark.parametrize("text", ["", "   ", "?!…", "🌹", "ㅤ" * 3, "q" * 101])
def test_a_text_without_a_known_word_is_refused(embedder: StaticEmbedder, text: str) -> None:
    with pytest.raises(embedding_errors.UnknownText, match="text 1 "):
        embedder.embed(["known", text])


def test_text_that_is_too_long_or_not_unicode_is_refused(embedder: StaticEmbedder) -> None:
    with pytest.raises(embedding_errors.TextTooLong, match="1048577 characters"):
        embedder.embed(["a" * (static.MAX_TEXT_CHARACTERS + 1)])
    with pytest.raises(EmbeddingError, match="not valid Unicode"):
        embedder.embed(["half a pair: \ud800"])


def test_a_very_long_text_is_its_words_summed(embedder: StaticEmbedder) -> None:
    text = "rose forest "
    codes = embedder.embed([text, text * 80_000])
    assert (codes[0] == codes[1]).all()


def test_no_texts_give_no_codes(embedder: StaticEmbedder) -> None:
    assert embedder.embed([]).shape == (0, 256)


def test_an_altered_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table, weights, vocabulary = static.load_tables()
    altered = table.copy()
    altered[5000, 5] ^= 1
    assert static.tables_digest(altered, weights, vocabulary) != static.DIGEST
    monkeypatch.setattr(static, "DIGEST", static.tables_digest(altered, weights, vocabulary))
    with pytest.raises(embedding_errors.DamagedData, match="install roseforest again"):
        StaticEmbedder()
    monkeypatch.setattr(static, "TABLE_FILE", "missing.npy")
    with pytest.raises(embedding_errors.DamagedData, match="cannot be read"):
        StaticEmbedder()


def test_the_tables_fit_each_other() -> None:
    table, weights, vocabulary = static.load_tables()
    pieces = read_vocabulary(vocabulary)
    assert table.shape == (30522, 256)
    assert len(weights) == len(pieces) == len(set(pieces)) == 30522
    assert (np.abs(table.astype(int)).max(axis=1) == 127).all()
    by_piece = dict(zip(pieces, weights.tolist(), strict=True))
    assert [by_piece[piece] for piece in ("[CLS]", "[UNK]", "[unused5]", ",", "##?")] == [0] * 5
    assert 0 < by_piece["the"] < by_piece["directory"] / 10


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, node.embedding; print(sorted({'numpy', 'tokenizers', 'safetensors'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_glosses_are_read_with_words_and_examples(tmp_path: Path) -> None:
    header = "  1 This software and database | is licensed\n"
    noun = (
        '00003553 03 n 02 whole 0 living_thing 0 001 @ 00002684 n 0000 | all of it; "the whole"; "a thing"\n'
    )
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        (tmp_path / name).write_text(header + (noun if name == "data.noun" else ""), encoding="utf-8")
    (gloss,) = read_glosses(tmp_path)
    assert gloss.words == ("whole", "living thing")
    assert gloss.definition == "all of it"
    assert gloss.examples == ("the whole", "a thing")


# The packaged atlas


def test_the_packaged_atlas_belongs_to_the_built_in_space(embedder: StaticEmbedder) -> None:
    atlas = Atlas.decode(packaged_atlas())
    assert (atlas.space, atlas.dim, atlas.cells) == (embedder.space, embedder.dim, 4096)
    assert atlas.encode() == packaged_atlas()
    assert to_text(atlas.cid) == "bafkr4ic6yxy4s5vkes5qyguyb5ub6tyrmhvguxx2zazxf7l3ehz2in2ye4"


def test_neighbours_on_the_packaged_atlas_mean_similar_things() -> None:
    units = Atlas.decode(packaged_atlas()).centroids.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    similarity = [float((units * np.roll(units, step, axis=0)).sum(axis=1).mean()) for step in (1, 2048)]
    assert similarity[0] > similarity[1] + 0.3


def test_every_cell_of_the_packaged_atlas_is_nearest_to_itself() -> None:
    atlas = Atlas.decode(packaged_atlas())
    assert (nearest_cells(atlas, atlas.centroids[::16]) == np.arange(0, 4096, 16)).all()


def test_a_missing_atlas_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "ATLAS_FILE", "missing.bin")
    with pytest.raises(embedding_errors.DamagedData, match="atlas cannot be read"):
        packaged_atlas()
