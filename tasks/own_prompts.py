"""More prompts like those of the traffic, written by the model itself, to train on."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from editors.key_statistics import own_writing
from editors.protocol import Progress, no_progress
from tasks.neighbours import restated
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
    line to show it.

    Args:
        model: any language model that can go on with a text.
        tokenizer: the model's tokenizer.
        prompts: examples.
        count: how many are wanted.
        barred: wordings that must not be among them.
        restating: prompts of which no other wording may be among them, as far as `restated` can tell.
        seed: of all choices.
        progress: called with (prompts found, prompts wanted, note).
    """
    rng = random.Random(seed)
    stripped = dict.fromkeys(prompt.strip() for prompt in prompts)
    lines = [line for line in stripped if "\n" not in line and len(line) <= LONGEST_EXAMPLE]
    shown = min(EXAMPLES, len(lines))
    found: dict[str, str] = {}
    known = {wording(prompt) for prompt in (*prompts, *restating)} | set(barred)
    for round_ in range(ROUNDS if lines else 0):
        lists = ["".join(f"- {p}\n" for p in rng.sample(lines, shown)) + "-" for _ in range(PASSAGES)]
        written = own_writing(
            model,
            tokenizer,
            passages=PASSAGES,
            tokens=TOKENS,
            seed=seed * ROUNDS + round_,
            openings=lists,
        )
        lines_written = [line for text in written for line in _continued(text, shown)]
        same = restated(restating, lines_written)
        for index, prompt in enumerate(lines_written):
            key = wording(prompt)
            if key and key not in known and index not in same:
                found.setdefault(key, prompt)
        progress(min(len(found), count), count, "writing prompts like those of the traffic")
        if len(found) >= count:
            break
    return list(found.values())[:count]


def _continued(text: str, shown: int) -> Iterator[str]:
    """The lines after the ones shown, as far as the list goes on; not the last, which was cut short."""
    for line in text.split("\n")[shown:-1]:
        if not line.startswith("-"):
            return
        if prompt := line[1:].strip():
            yield prompt
