"""An embedder that runs a model of the sentence-transformers library (Reimers and Gurevych, 2019) here.

The library and what it needs come with the extra `roseforest[sentence-transformers]`, about two gigabytes, so
they are imported with the first text. A model is a folder on this machine or one that the library keeps
already: nothing is downloaded, and no code that a model brings is run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from node.embedding.errors import EmbedderFailed, TextRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEVICE = "cpu"


def installed() -> bool:
    """Whether the library is there; nothing is imported."""
    return importlib.util.find_spec("sentence_transformers") is not None


class SentenceTransformersEmbedder:
    """Codes of one model; texts beyond its window are cut by it. Safe to share between threads."""

    exact = False

    def __init__(self, space: str, dim: int, model: str, batch: int) -> None:
        """`model` is a folder or a name; it is loaded with the first text."""
        self.space = space
        self.dim = dim
        self._name = str(Path(model).expanduser()) if "/" in model or model.startswith("~") else model
        self._batch = batch
        self._model: Any = None
        self._lock = Lock()

    def embed(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """Codes of `texts`, shape (n, dim); the first call loads the model, some seconds.

        Raises `EmbedderFailed` when there is no such model here, or its dimension is not the space's.
        """
        from node.embedding.quantise import quantise_floats

        for number, text in enumerate(texts):
            if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
                raise TextRefused(f"text {number} is not valid Unicode text")
        with self._lock:
            model = self._loaded()
            vectors = model.encode(
                list(texts), batch_size=self._batch, convert_to_numpy=True, show_progress_bar=False
            )
        if len(texts) and vectors.shape[1] != self.dim:
            raise EmbedderFailed(
                f"the model {self._name} has {vectors.shape[1]} dimensions, the network's space "
                f"{self.space!r} has {self.dim}: set model in the section "
                "[embedder] of config.toml to the right one"
            )
        return quantise_floats(vectors.reshape(len(texts), self.dim), self.dim)

    def _loaded(self) -> Any:
        if self._model is None:
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar

            disable_progress_bar()
            try:
                self._model = SentenceTransformer(
                    self._name, device=DEVICE, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise EmbedderFailed(
                    f"the model {self._name} cannot be loaded ({reason}): set model in the section "
                    "[embedder] of config.toml to its folder"
                ) from error
        return self._model
