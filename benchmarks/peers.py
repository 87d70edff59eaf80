"""What a question is answered with elsewhere: FAISS, Chroma and Qdrant, each inside the benchmark's process.

All hold the same unit vectors of the built-in embedder, compare by cosine, and embed the question themselves,
as the daemon does. FAISS is a flat index, so its answers are exact. Chroma keeps its HNSW index in memory at
its own settings; Qdrant's embedded mode is a search through all. Neither is among this project's
requirements: who is not installed is left out, and said.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from node.embedding.static import StaticEmbedder

FAISS = "faiss"
K = 10
BATCH = 5_000
"""Vectors given to a peer at a time."""

Floats = NDArray[np.float32]
Search = Callable[[Floats], list[int]]
"""Places of the best entries for a unit vector of shape (dim,)."""


class Peer(NamedTuple):
    """Another index of the same texts."""

    name: str
    version: str
    embed: Callable[[Sequence[str]], Floats]
    search: Search

    def ask(self, text: str) -> tuple[float, list[int]]:
        """(milliseconds, places of the best entries)."""
        began = time.perf_counter()
        places = self.search(self.embed([text])[0])
        return (time.perf_counter() - began) * 1_000, places


def peers_here(texts: Sequence[str]) -> list[Peer]:
    """Every peer that is installed, holding these texts; FAISS first. Seconds for 30,000."""
    embedder = StaticEmbedder()

    def embed(some: Sequence[str]) -> Floats:
        rows = embedder.embed(list(some)).astype(np.float32)
        return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    vectors = embed(texts)
    found = [Peer(FAISS, version("faiss-cpu"), embed, _faiss(vectors))]
    for name, package, make in (("chroma", "chromadb", _chroma), ("qdrant", "qdrant-client", _qdrant)):
        try:
            found.append(Peer(name, version(package), embed, make(vectors)))
        except ImportError as error:
            print(f"without {name}: {error}; pip install -e .[bench] brings it", file=sys.stderr, flush=True)
    return found


def _faiss(vectors: Floats) -> Search:
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def search(vector: Floats) -> list[int]:
        places: list[int] = index.search(vector[np.newaxis], K)[1][0].tolist()
        return places

    return search


def _chroma(vectors: Floats) -> Search:
    import chromadb
    from chromadb.config import Settings

    client = chromadb.EphemeralClient(Settings(anonymized_telemetry=False))
    collection = client.create_collection(
        "entries", configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
    )
    for begin in range(0, len(vectors), BATCH):
        some = vectors[begin : begin + BATCH]
        collection.add(ids=[str(begin + number) for number in range(len(some))], embeddings=some)

    def search(vector: Floats) -> list[int]:
        answer: Any = collection.query(query_embeddings=[vector], n_results=K, include=["distances"])
        return [int(one) for one in answer["ids"][0]]

    return search


def _qdrant(vectors: Floats) -> Search:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Batch, Distance, VectorParams

    logging.getLogger("qdrant_client").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*Local mode is not recommended.*")
    client = QdrantClient(":memory:")
    client.create_collection("entries", VectorParams(size=vectors.shape[1], distance=Distance.COSINE))
    for begin in range(0, len(vectors), BATCH):
        some = vectors[begin : begin + BATCH]
        ids = list(range(begin, begin + len(some)))
        client.upsert("entries", Batch(ids=ids, vectors=some.tolist()))

    def search(vector: Floats) -> list[int]:
        return [int(one.id) for one in client.query_points("entries", vector.tolist(), limit=K).points]

    return search
