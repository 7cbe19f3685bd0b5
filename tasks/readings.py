"""How base and candidate read the same texts; the base's reading is kept, for its weights never change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.weights import write_whole

if TYPE_CHECKING:
    from validation.metrics import Perplexities

# By metric, (negative log-likelihood in nats, predicted tokens) of each text.
Likelihoods = dict[str, list[tuple[float, int]]]


@dataclass(frozen=True)
class Base:
    """How the pristine base reads: its tokenizer, and texts with their likelihoods, by metric."""

    tokenizer: Any
    texts: Mapping[str, Sequence[str]]
    likelihoods: Likelihoods


def read_base(
    model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]], digest: str = "", kept: Path | None = None
) -> Base:
    """How the pristine base reads the texts of each perplexity metric.

    Args:
        model: the base.
        tokenizer: its own.
        texts: by metric.
        digest: of its weights.
        kept: folder where readings are kept; each is read once for the same weights, tokens and torch.
    """
    if kept is None:
        return Base(tokenizer, texts, _read(model, tokenizer, texts))
    file = kept / f"{_key(model, tokenizer, texts, digest)}.json"
    likelihoods = _known(file, texts)
    if likelihoods is None:
        likelihoods = _read(model, tokenizer, texts)
        write_whole(file, json.dumps(likelihoods))
    return Base(tokenizer, texts, likelihoods)


def read_beside(candidate: Any, base: Base) -> dict[str, Perplexities]:
    """How the base and the candidate model read the same texts, by metric."""
    from validation.metrics import Perplexities

    # The same tokens for both, whatever the candidate's own tokenizer makes of the texts.
    read = _read(candidate, base.tokenizer, base.texts)
    return {name: Perplexities(base.likelihoods[name], of) for name, of in read.items()}


def _read(model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]]) -> Likelihoods:
    from validation.perplexity import perplexity

    return {name: perplexity(model, tokenizer, of) for name, of in texts.items()}


def _key(model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]], digest: str) -> str:
    """SHA-256 over all that a reading depends on."""
    import torch

    tokens = {name: [list(tokenizer(text)["input_ids"]) for text in of] for name, of in texts.items()}
    where = [torch.__version__, str(model.dtype), model.device.type]
    return hashlib.sha256(json.dumps([digest, *where, tokens], sort_keys=True).encode()).hexdigest()


def _known(file: Path, texts: Mapping[str, Sequence[str]]) -> Likelihoods | None:
    """What was read of the texts before; None where nothing was, or its file is damaged."""
    try:
        found = json.loads(file.read_text())
        return {
            name: [(float(nll), int(n)) for (nll, n), _ in zip(found[name], of, strict=True)]
            for name, of in texts.items()
        }
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
