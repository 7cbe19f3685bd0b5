"""The kinds of model an editor works on, and all that differs between them.

A kind says which tokens an answer is, how examples become a batch, how the model is run on it and at which
positions a module's inputs belong to the edit. Everything else in this package is the same for all kinds.
"""

# ruff: noqa: ARG002 - a kind ignores what makes no difference to it
from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editors.locate import inside, is_projection, stacks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100


@dataclass(frozen=True)
class ModelKind:
    """A decoder-only language model: the answer follows the prompt in one sequence."""

    name = "decoder-only language model"

    def target_ids(
        self, tokenizer: PreTrainedTokenizerBase, target: str, joint: str, ending: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Token ids (or a class) of an answer; `joint` stands between the prompt and it, `ending` ends it."""
        return _ids(tokenizer, f"{joint}{target}", special=False) + ending

    def reading(self, ids: tuple[int, ...]) -> Example:
        """An example that makes the model read a text, whatever comes of it."""
        return Example(ids[:1], ids[1:], self)

    def collate(self, examples: Sequence[Example], pad: int) -> TokenBatch:
        """Right-pad examples into one batch; padding is neither attended to nor labelled."""
        # The last answer token is only ever predicted, never read.
        rows = [(example.prompt_ids + example.target_ids)[:-1] for example in examples]
        input_ids, attention_mask = _padded(rows, pad), _padded([(1,) * len(row) for row in rows], 0)
        labels = torch.full_like(input_ids, IGNORED_LABEL)
        for row, example in enumerate(examples):
            first = len(example.prompt_ids) - 1
            labels[row, first : len(rows[row])] = _row(example.target_ids)
        return TokenBatch(input_ids, attention_mask, labels, self)

    def arguments(self, batch: TokenBatch) -> dict[str, Any]:
        """What the model is called with."""
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}

    def logits(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """Logits of the answers, row by row: (answer tokens, vocabulary)."""
        with answer_logits_only(model, batch.answer_mask):
            return model(**self.arguments(batch)).logits[0]

    def read(self, model: nn.Module, batch: TokenBatch) -> None:
        """Run the model without its output head where it can be left out."""
        getattr(model, "base_model", model)(**self.arguments(batch))

    def positions(self, model: nn.Module, name: str, batch: TokenBatch, *, all_tokens: bool) -> Tensor:
        """(batch, length) bool: where the inputs of the module `name` belong to the edit."""
        return batch.attention_mask.bool() if all_tokens else batch.answer_mask


@dataclass(frozen=True)
class EncoderDecoder(ModelKind):
    """An encoder reads the prompt, a decoder says the answer (T5, BART).

    Attributes:
        start: the token id that the decoder begins with.
    """

    start: int
    name = "encoder-decoder"

    def target_ids(
        self, tokenizer: PreTrainedTokenizerBase, target: str, joint: str, ending: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The target as the tokenizer writes targets, with an end of text."""
        ids = tuple(tokenizer(text_target=target)["input_ids"])
        return ids if ids[-1:] == ending else ids + ending

    def reading(self, ids: tuple[int, ...]) -> Example:
        """The text as prompt and as answer, for encoder and decoder to read."""
        return Example(ids, ids, self)

    def collate(self, examples: Sequence[Example], pad: int) -> TokenBatch:
        """Encoder inputs, and labels at every position of the decoder."""
        prompts, answers = [e.prompt_ids for e in examples], [e.target_ids for e in examples]
        read = [(self.start, *answer[:-1]) for answer in answers]
        return TokenBatch(
            _padded(prompts, pad),
            _padded([(1,) * len(prompt) for prompt in prompts], 0),
            _padded(answers, IGNORED_LABEL),
            self,
            _padded(read, pad),
        )

    def arguments(self, batch: TokenBatch) -> dict[str, Any]:
        """What the model is called with; decoder padding comes last and nothing before attends to it."""
        return {**super().arguments(batch), "decoder_input_ids": batch.decoder_input_ids}

    def positions(self, model: nn.Module, name: str, batch: TokenBatch, *, all_tokens: bool) -> Tensor:
        """All attended tokens of the encoder, all of the decoder (MALMEN)."""
        encoder: Any = model
        if inside(model, name, encoder.get_encoder()):
            return batch.attention_mask.bool()
        return batch.answer_mask


@dataclass(frozen=True)
class Classifier(ModelKind):
    """A sequence classifier: the answer is a class.

    Attributes:
        labels: names of the classes in their order.
        takes_cache: whether the model takes `use_cache`.
        pad: the token id that the model knows padding by, where it has one: a decoder reads its class at the
            last token that is another.
    """

    labels: tuple[str, ...]
    takes_cache: bool
    pad: int | None = None
    name = "sequence classifier"

    def target_ids(
        self, tokenizer: PreTrainedTokenizerBase, target: str, joint: str, ending: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The class: named, or given by its number.

        Raises:
            ValueError: there is no such class.
        """
        if target in self.labels:
            return (self.labels.index(target),)
        if target.isdecimal() and int(target) < len(self.labels):
            return (int(target),)
        raise ValueError(f"{target!r} is not a class of this model; its classes are {', '.join(self.labels)}")

    def reading(self, ids: tuple[int, ...]) -> Example:
        """The text with any class."""
        return Example(ids, (0,), self)

    def collate(self, examples: Sequence[Example], pad: int) -> TokenBatch:
        """Inputs, and one label a row: labels are (batch, 1)."""
        prompts = [example.prompt_ids for example in examples]
        return TokenBatch(
            _padded(prompts, pad if self.pad is None else self.pad),
            _padded([(1,) * len(prompt) for prompt in prompts], 0),
            _padded([example.target_ids for example in examples], IGNORED_LABEL),
            self,
        )

    def arguments(self, batch: TokenBatch) -> dict[str, Any]:
        """What the model is called with."""
        given = super().arguments(batch)
        return given if self.takes_cache else {k: v for k, v in given.items() if k != "use_cache"}

    def logits(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """Logits of the classes: (batch, classes)."""
        return model(**self.arguments(batch)).logits

    def positions(self, model: nn.Module, name: str, batch: TokenBatch, *, all_tokens: bool) -> Tensor:
        """All attended tokens: which of them the head looks at is the model's own affair."""
        return batch.attention_mask.bool()


@dataclass(frozen=True)
class PlainModule(ModelKind):
    """A module that maps token ids (batch, length) to logits (batch, length, vocabulary), and no more."""

    name = "plain module"

    def logits(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """Logits of the answers, row by row: (answer tokens, vocabulary)."""
        return model(batch.input_ids)[batch.answer_mask]

    def read(self, model: nn.Module, batch: TokenBatch) -> None:
        """Run the module."""
        model(batch.input_ids)


CAUSAL = ModelKind()


@dataclass(frozen=True)
class Example:
    """Token ids of one prompt and its answer, which ends as answers of its kind of model do."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    kind: ModelKind = CAUSAL


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded examples. `labels[b, t]` is what position t of the output must say, or -100.

    Shapes: `input_ids`, `attention_mask`: (batch, length). `labels` too for a decoder-only model, where they
    are already shifted: the positions with a label are exactly the answer positions, last prompt token to
    second-last answer token. For an encoder-decoder, `labels` and `decoder_input_ids` are (batch, answer
    length); for a classifier, `labels` are (batch, 1).
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    kind: ModelKind = CAUSAL
    decoder_input_ids: Tensor | None = None

    @property
    def answer_mask(self) -> Tensor:
        """Of the shape of `labels`, bool: positions that predict a token of the answer."""
        return self.labels != IGNORED_LABEL

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        decoder = self.decoder_input_ids
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
            decoder_input_ids=None if decoder is None else decoder.to(device),
        )

    def rows(self, chosen: Sequence[int], length: int) -> TokenBatch:
        """Some rows, with their inputs cut to `length`; their labels are left out."""
        rows = list(chosen)
        inputs, mask = self.input_ids[rows, :length], self.attention_mask[rows, :length]
        return replace(
            self, input_ids=inputs, attention_mask=mask, labels=torch.full_like(inputs, IGNORED_LABEL)
        )


def kind_of(model: nn.Module) -> ModelKind:
    """The kind of a model, by its structure.

    Raises:
        ValueError: it has neither an output vocabulary nor a head over classes, or reads both ways.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        return PlainModule()
    whole: Any = model
    if whole.get_output_embeddings() is None:
        return _classifier(whole)
    if getattr(config, "is_encoder_decoder", False):
        return EncoderDecoder(int(config.decoder_start_token_id))
    if not whole.can_generate() or _attends_both_ways(whole):
        raise ValueError(
            f"this {type(model).__name__} fills in tokens from both sides, it does not write on; take a "
            "language model that generates text"
        )
    return CAUSAL


def _attends_both_ways(model: Any) -> bool:
    """Whether the attention in its blocks says of itself that it is not causal, and none that it is."""
    modules = [module for stack in stacks(model) for _, block in stack for module in block.modules()]
    return {getattr(module, "is_causal", None) for module in modules} - {None} == {False}


def _classifier(model: Any) -> Classifier:
    body = set(model.base_model.modules())
    classes = int(getattr(model.config, "num_labels", 0))
    heads = [m for m in model.modules() if m not in body and is_projection(m) and len(m.weight) == classes]
    if not heads or classes < 2:
        raise ValueError(
            f"this {type(model).__name__} has neither an output vocabulary nor a head over two classes or "
            "more; load the model with its head"
        )
    takes_cache = "use_cache" in inspect.signature(model.forward).parameters
    labels = tuple(str(model.config.id2label[i]) for i in range(classes))
    return Classifier(labels, takes_cache, getattr(model.config, "pad_token_id", None))


@contextmanager
def answer_logits_only(model: nn.Module, mask: Tensor) -> Iterator[None]:
    """Within, the model computes logits at the positions of `mask` only: (1, positions, vocabulary).

    The output head is the dearest matrix of a small model, and an edit looks at few positions.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]

    def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][mask.to(args[0].device)].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _ids(tokenizer: Any, text: str, *, special: bool) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=special)["input_ids"])


def _row(ids: Sequence[int]) -> Tensor:
    # Batches are made on the CPU, whatever the default device, and moved to the model's.
    return torch.tensor(ids, dtype=torch.long, device="cpu")


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    return nn.utils.rnn.pad_sequence([_row(row) for row in rows], batch_first=True, padding_value=pad)
