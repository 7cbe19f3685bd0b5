"""What layers read in ordinary text: moments of their inputs (C of ROME, MEMIT and AlphaEdit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from editors.capture import OVERFLOWS, capture_keys, check_finite, editing
from editors.gather import batches
from editors.locate import EditableModule
from editors.requests import Example, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OPENINGS = ("The", "In the", "A", "When", "It is", "During", "Many", "After", "One of", "She", "He")
# Rows of text in one forward pass, and tokens of a passage that are read.
_ROWS, _LONGEST = 16, 512
_MEAN = "#mean"


@dataclass(frozen=True)
class KeyStatistics:
    """Means of u u' (d_in, d_in) and of u (d_in,) over layer inputs u, fp32, by module name.

    `tokens` is over how many, `seconds` how long it took to gather them, where anybody looked.
    """

    moments: Mapping[str, Tensor]
    tokens: int
    means: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: float | None = field(default=None, compare=False)

    @classmethod
    def gather(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        modules: Sequence[EditableModule],
        text: Sequence[str] | None = None,
        *,
        seed: int = 0,
    ) -> KeyStatistics:
        """Statistics over every token of `text`, or of the model's own writing where none is given.

        Raises:
            ValueError: there is no text, or an input is not finite.
        """
        with editing(model):
            passages = own_writing(model, tokenizer, seed=seed) if text is None else text
            longest = positions_of(model, _LONGEST)
            ids = [tuple(tokenizer(passage)["input_ids"][:longest]) for passage in passages]
            examples = [Example(row, (row[-1],)) for row in ids if row]
            if not examples:
                raise ValueError("key statistics need text; give passages that are not empty")
            return cls.over(model, modules, examples, pad_id(tokenizer))

    @classmethod
    def over(
        cls, model: PreTrainedModel, modules: Sequence[EditableModule], examples: Sequence[Example], pad: int
    ) -> KeyStatistics:
        """Statistics over every token that the model reads of the examples.

        Raises:
            ValueError: an input is not finite.
        """
        sums = {m.name: torch.zeros(m.d_in, m.d_in, dtype=torch.float64) for m in modules}
        first = {m.name: torch.zeros(m.d_in, dtype=torch.float64) for m in modules}
        count = 0
        for _, batch in batches(examples, pad, _ROWS):
            batch = batch.to(model.device)
            mask = batch.attention_mask.bool()
            for name, rows in capture_keys(model, modules, batch, mask, once=True).items():
                sums[name] += (rows.T @ rows).double().cpu()
                first[name] += rows.sum(0).double().cpu()
            count += int(batch.attention_mask.sum())
        for name, total in sums.items():
            if not torch.isfinite(total).all():
                raise ValueError(f"the inputs of {name} are not finite: {OVERFLOWS}")
        means = {name: (total / count).float() for name, total in first.items()}
        return cls({name: (total / count).float() for name, total in sums.items()}, count, means)

    def of(self, module: EditableModule) -> Tensor:
        """The moment of one module; ValueError where there is none, or one of another model."""
        moment = self.moments.get(module.name)
        if moment is None or moment.shape != (module.d_in, module.d_in):
            raise ValueError(
                f"the key statistics do not fit {module.name}: gather them for this model and these modules"
            )
        return moment

    def save(self, file: Path) -> None:
        """Write one safetensors file."""
        tensors = {name: tensor.contiguous() for name, tensor in self.moments.items()}
        tensors |= {f"{name}{_MEAN}": tensor.contiguous() for name, tensor in self.means.items()}
        metadata = {"tokens": str(self.tokens)}
        if self.seconds is not None:
            metadata["seconds"] = str(self.seconds)
        save_file(tensors, file, metadata=metadata)

    @classmethod
    def load(cls, file: Path) -> KeyStatistics:
        """Read a file written by `save`; ValueError where it is damaged."""
        from safetensors import safe_open

        try:
            with safe_open(file, framework="pt") as stored:
                metadata = stored.metadata() or {}
            tokens = int(metadata["tokens"])
            seconds = float(metadata["seconds"]) if "seconds" in metadata else None
            tensors = load_file(file)
            means = {n.removesuffix(_MEAN): tensors.pop(n) for n in list(tensors) if n.endswith(_MEAN)}
            return cls(tensors, tokens, means, seconds)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{file} is damaged ({error}); gather the key statistics again") from error


def positions_of(model: PreTrainedModel, most: int) -> int:
    """How many tokens the model takes, `most` where it takes more or any number."""
    return min(getattr(model.config.get_text_config(), "max_position_embeddings", None) or most, most)


def own_writing(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    passages: int = 48,
    tokens: int = 80,
    seed: int = 0,
    openings: Sequence[str] = OPENINGS,
) -> list[str]:
    """Text the model writes by itself at temperature 1: ordinary text for any model, from no data.

    Passages are shorter than `tokens` where the model has not the positions for so many.

    Raises:
        ValueError: its weights or its logits are not finite.
    """
    from transformers import LogitsProcessor, LogitsProcessorList

    check_finite(model)

    class Finite(LogitsProcessor):  # type: ignore[misc]
        """Refuses what sampling would fail at with words of its own, or on a GPU end the process."""

        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
            if not torch.isfinite(scores.amax(-1)).all():
                raise ValueError(f"what the model writes is not finite: {OVERFLOWS}")
            return scores

    prompts = [openings[i % len(openings)] for i in range(passages)]
    # Padded by hand: a tokenizer without a padding token refuses to.
    rows = [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    length, padding = max(len(row) for row in rows), pad_id(tokenizer)
    encoded = {
        "input_ids": [[padding] * (length - len(row)) + row for row in rows],
        "attention_mask": [[0] * (length - len(row)) + [1] * len(row) for row in rows],
    }
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        written = model.generate(
            **{name: torch.tensor(values, device=model.device) for name, values in encoded.items()},
            pad_token_id=padding,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=max(min(tokens, positions_of(model, length + tokens) - length), 1),
            logits_processor=LogitsProcessorList([Finite()]),
        )
    return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
