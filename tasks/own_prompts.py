"""More prompts like those of the traffic, written by the model itself, to train on."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from editors.key_statistics import own_writing
from editors.protocol import Progress, no_progress
from tasks.neighbours import restated
from tasks.records import UserError
from tasks.rephrase import wording

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What one passage shows the model, and what it may write after that.
EXAMPLES, LONGEST_EXAMPLE = 8, 300
TOKENS = 64
PASSAGES, ROUNDS = 16, 16


def prompts_like(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    count: int,
    *,
    barred: Collection[str] = (),
    restating: Sequence[str] = (),
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[str]:
    """At most `count` new prompts of the kind of `prompts`: the model goes on with lists of them.

    Nothing is asked of them but that they are new: a prompt that makes no sense has an answer too, which an
    edit must leave alone. Fewer come where the model repeats itself, none where there are no examples of one
    line to show it. It is shown fewer of them where it has not the positions for more.

    Args:
        model: any language model that can go on with a text.
        tokenizer: the model's tokenizer.
        prompts: examples.
        count: how many are wanted.
        barred: wordings that must not be among them.
        restating: prompts of which no other wording may be among them, as far as `restated` can tell.
        seed: of all choices.
        progress: called with (prompts found, prompts wanted, note).

    Raises:
        UserError: what the model writes is not finite.
    """
    rng = random.Random(seed)
    stripped = dict.fromkeys(prompt.strip() for prompt in prompts)
    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    lines = [line for line in stripped if "\n" not in line and len(line) <= LONGEST_EXAMPLE]
    lines = [line for line in lines if _that_fit([line], tokenizer, room)]
    shown = min(EXAMPLES, len(lines))
    found: dict[str, str] = {}
    known = {wording(prompt) for prompt in (*prompts, *restating)} | set(barred)
    for round_ in range(ROUNDS if lines else 0):
        lists = [_that_fit(rng.sample(lines, shown), tokenizer, room) for _ in range(PASSAGES)]
        try:
            written = own_writing(
                model,
                tokenizer,
                passages=PASSAGES,
                tokens=TOKENS,
                seed=seed * ROUNDS + round_,
                openings=[_list(examples) for examples in lists],
            )
        except ValueError as error:
            raise UserError(f"the model cannot write prompts of its own: {error}") from error
        lines_written = [
            line
            for text, examples in zip(written, lists, strict=True)
            for line in _continued(text, len(examples))
        ]
        same = restated(restating, lines_written)
        for index, prompt in enumerate(lines_written):
            key = wording(prompt)
            if key and key not in known and index not in same:
                found.setdefault(key, prompt)
        progress(min(len(found), count), count, "writing prompts like those of the traffic")
        if len(found) >= count:
            break
    return list(found.values())[:count]


def _list(examples: Sequence[str]) -> str:
    """A list of examples that is to be gone on with."""
    return "".join(f"- {example}\n" for example in examples) + "-"


def _that_fit(examples: list[str], tokenizer: PreTrainedTokenizerBase, room: int | None) -> list[str]:
    """As many of the examples as leave the model the positions to write in."""
    while room and examples and len(tokenizer(_list(examples), verbose=False)["input_ids"]) + TOKENS > room:
        examples = examples[:-1]
    return examples


def _continued(text: str, shown: int) -> Iterator[str]:
    """The lines after the ones shown, as far as the list goes on; not the last, which was cut short."""
    for line in text.split("\n")[shown:-1]:
        if not line.startswith("-"):
            return
        if prompt := line[1:].strip():
            yield prompt
