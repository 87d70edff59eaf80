"""Forward pass of a BERT sentence encoder in numpy, enough to distil from it and to measure against it.

Devlin et al., "BERT" (2018), post-layer-norm, with the mean pooling and normalisation that
sentence-transformers put behind all-MiniLM-L6-v2 (Reimers and Gurevych, 2019). The daemon never runs
this: it is for the distillation script and the benchmark. Weights come from a safetensors file, in
float32; texts of one call are padded to the longest, so sort by length before batching.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of all-MiniLM-L6-v2's model.safetensors, the only file this was written for."""

MAX_PIECES = 256
"""Word pieces per text, the two special ones included; the model was trained on no more."""

CLS, SEP = 101, 102

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bert:
    """Weights by their name in the file, with the numbers that shape the computation."""

    weights: dict[str, Floats]
    layers: int
    heads: int
    epsilon: float

    def encode(self, pieces: Sequence[Sequence[int]]) -> Floats:
        """Unit vectors, shape (n, hidden), of texts given as word piece ids without special pieces.

        Cost per text about 20 MFLOP per word piece for MiniLM-L6; longer texts are cut at `MAX_PIECES`.
        """
        rows = [[CLS, *ids[: MAX_PIECES - 2], SEP] for ids in pieces]
        width = max(len(row) for row in rows)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.float32)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        hidden = self._hidden(ids, mask)
        pooled = np.einsum("nwh,nw->nh", hidden, mask) / mask.sum(axis=1, keepdims=True)
        unit: Floats = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return unit

    def _hidden(self, ids: NDArray[np.int64], mask: Floats) -> Floats:
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        shut = ((1 - mask) * np.float32(-1e9))[:, None, None, :]
        for number in range(self.layers):
            at = f"encoder.layer.{number}"
            x = self._norm(x + self._attention(x, shut, at), f"{at}.attention.output.LayerNorm")
            inner = _gelu(self._linear(x, f"{at}.intermediate.dense"))
            x = self._norm(x + self._linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        return x

    def _attention(self, x: Floats, shut: Floats, at: str) -> Floats:
        n, width, hidden = x.shape
        split = (n, width, self.heads, hidden // self.heads)

        def heads(name: str) -> Floats:
            return self._linear(x, f"{at}.attention.self.{name}").reshape(split).transpose(0, 2, 1, 3)

        scores = heads("query") @ heads("key").transpose(0, 1, 3, 2) / np.float32(np.sqrt(split[3])) + shut
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ heads("value")).transpose(0, 2, 1, 3).reshape(n, width, hidden)
        return self._linear(mixed, f"{at}.attention.output.dense")

    def _linear(self, x: Floats, name: str) -> Floats:
        y: Floats = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return y

    def _norm(self, x: Floats, name: str) -> Floats:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(self.epsilon))
        y: Floats = centred / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return y


def _gelu(x: Floats) -> Floats:
    """x · Φ(x), with erf by Abramowitz and Stegun 7.1.26 (error below 1.5e-7, that of float32)."""
    z = np.abs(x) * np.float32(2**-0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    tail = t * (
        np.float32(0.254829592)
        + t
        * (
            np.float32(-0.284496736)
            + t * (np.float32(1.421413741) + t * (np.float32(-1.453152027) + t * np.float32(1.061405429)))
        )
    )
    half = np.float32(0.5) * tail * np.exp(-z * z)
    y: Floats = x * np.where(x < 0, half, 1 - half)
    return y


def load_bert(directory: Path) -> Bert:
    """The model in ``directory`` (model.safetensors, config.json).

    Raises ValueError if the weights are not those of `MODEL_SHA256`: another model would yield another
    embedding space under the same name.
    """
    from safetensors.numpy import load_file

    path = directory / "model.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != MODEL_SHA256:
        raise ValueError(f"{path} has sha256 {digest}; expected {MODEL_SHA256} (all-MiniLM-L6-v2)")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return Bert(
        weights={name.removeprefix("bert."): tensor for name, tensor in load_file(path).items()},
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        epsilon=config["layer_norm_eps"],
    )
