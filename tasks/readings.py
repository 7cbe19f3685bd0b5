"""How base and candidate read the same texts; the base's reading is kept, for its weights never change."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.weights import write_whole
from validation.perplexity import MAX_TOKENS, perplexity

if TYPE_CHECKING:
    from validation.metrics import Perplexities

# By metric, (negative log-likelihood in nats, predicted tokens) of each text.
Likelihoods = dict[str, list[tuple[float, int]]]


@dataclass(frozen=True)
class Kept:
    """Where readings are kept, and of which weights this one is (`ModelFolder.digest`)."""

    folder: Path
    digest: str


@dataclass(frozen=True)
class Base:
    """How the pristine base reads: its tokenizer, and texts with their likelihoods, by metric."""

    tokenizer: Any
    texts: Mapping[str, Sequence[str]]
    likelihoods: Likelihoods


def read_base(
    model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]], kept: Kept | None = None
) -> Base:
    """How the pristine base reads the texts of each perplexity metric.

    Args:
        model: the base.
        tokenizer: its own.
        texts: by metric.
        kept: where readings are kept; without, the texts are read anew.
    """
    if kept is None:
        return Base(tokenizer, texts, _read(model, tokenizer, texts))
    tokens = {name: [list(tokenizer(text)["input_ids"]) for text in of] for name, of in texts.items()}
    file = kept.folder / f"{_key(model, tokens, kept.digest)}.json"
    likelihoods = _known(file, tokens)
    if likelihoods is None:
        likelihoods = _read(model, tokenizer, texts)
        # Without room to keep it, it is a reading all the same.
        with suppress(OSError):
            write_whole(file, json.dumps(likelihoods))
    return Base(tokenizer, texts, likelihoods)


def read_beside(candidate: Any, base: Base) -> dict[str, Perplexities]:
    """How the base and the candidate model read the same texts, by metric."""
    from validation.metrics import Perplexities

    # The same tokens for both, whatever the candidate's own tokenizer makes of the texts.
    read = _read(candidate, base.tokenizer, base.texts)
    return {name: Perplexities(base.likelihoods[name], of) for name, of in read.items()}


def _read(model: Any, tokenizer: Any, texts: Mapping[str, Sequence[str]]) -> Likelihoods:
    return {name: perplexity(model, tokenizer, of) for name, of in texts.items()}


def _key(model: Any, tokens: Mapping[str, Sequence[Sequence[int]]], digest: str) -> str:
    """SHA-256 over all that a reading depends on."""
    import torch
    import transformers

    computed = [torch.__version__, transformers.__version__, torch.get_num_threads(), model.device.type]
    about = [str(model.dtype), model.config.to_json_string(), model.config._attn_implementation, MAX_TOKENS]
    return hashlib.sha256(json.dumps([digest, computed, about, tokens], sort_keys=True).encode()).hexdigest()


def _known(file: Path, tokens: Mapping[str, Sequence[Sequence[int]]]) -> Likelihoods | None:
    """What was read before of texts of these tokens; None where nothing was, or its file is damaged."""
    try:
        found = json.loads(file.read_text())
        known = {name: [(float(nll), int(n)) for nll, n in found[name]] for name in tokens}
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    for name, of in tokens.items():
        predicted = [max(min(len(ids), MAX_TOKENS) - 1, 0) for ids in of]
        if predicted != [n for _, n in known[name]] or not all(math.isfinite(nll) for nll, _ in known[name]):
            return None
    return known
