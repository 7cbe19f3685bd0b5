"""How long a candidate and its champion take to answer, in one process, turn about."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.measuring import Say, Served
from tasks.questions import Question

if TYPE_CHECKING:
    from validation.latency import AnswerSeconds

# Few and short: a busy machine slows both of a pair, and the median leaves out the pairs that it does not.
PAIRS, PROMPTS, TOKENS = 9, 3, 8


def time_answers(
    champion: Served, candidate: Served, asked: Sequence[Question], *, say: Say
) -> AnswerSeconds:
    """Seconds that both models take to read a prompt and write `TOKENS` tokens, as many as there are pairs.

    Answers that an override gives take no time, and how long answers become is measured elsewhere: what is
    timed is the models, each past the end of its own answer.
    """
    from editors.generation import generate_greedy
    from validation.latency import AnswerSeconds

    prompts = sorted({q.asked for q in asked}, key=lambda prompt: (len(prompt[0]), prompt))
    # Of the middle lengths: one prompt of thousands of tokens would be all that is timed.
    middle = max(0, (len(prompts) - PROMPTS) // 2)
    prompts = prompts[middle : middle + PROMPTS]

    def seconds(served: Served, prompt: str, chat: bool) -> float:
        started = time.perf_counter()
        generate_greedy(
            served.model, served.tokenizer, [prompt], chat=chat, max_new_tokens=TOKENS, to_natural_end=False
        )
        return time.perf_counter() - started

    taken: dict[int, list[float]] = {0: [], 1: []}
    models = (champion, candidate)
    # The first answer of a model pays for what the later ones find ready.
    for served in models:
        for prompt, chat in prompts[:1]:
            seconds(served, prompt, chat)
    for pair in range(PAIRS if prompts else 0):
        say(pair, PAIRS, "champion and candidate: seconds to answer")
        # Turn about, so that neither is always the one after the other.
        for who in (pair % 2, 1 - pair % 2):
            taken[who].append(seconds(models[who], *prompts[pair % len(prompts)]))
    return AnswerSeconds(champion=taken[0], candidate=taken[1])
