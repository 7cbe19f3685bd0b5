"""Answers are timed on both models turn about, and are of the same length whatever a model would say."""

from __future__ import annotations

import time
from typing import Any

from editors.overrides import Override, Overrides
from tasks.measuring import Served
from tasks.questions import Question
from tasks.timing import PAIRS, TOKENS, time_answers
from tests.conftest import ModelFactory
from tests.editors.tools import load
from validation.latency import seconds_ratio
from validation.outcomes import EDIT

ASKED = [
    Question(EDIT, str(place), f"Where is place {place}?", "Here", chat=place % 2 == 0) for place in range(6)
]


def served(folder: Any, seconds: float, turns: list[str], who: str) -> Served:
    """A model that waits so long before every token."""
    model, tokenizer = load(folder)

    def wait(*_: Any) -> None:
        turns.append(who)
        time.sleep(seconds)

    model.register_forward_pre_hook(wait)
    answers = (Override(q.prompt, "Here", q.id, chat=q.chat) for q in ASKED)
    return Served(model, tokenizer, Overrides(answers))


def silent(done: int, total: int, note: str) -> None:
    pass


def test_a_slower_candidate_is_told_from_its_champion(tiny_llama: ModelFactory) -> None:
    turns: list[str] = []
    champion = served(tiny_llama(), 0.01, turns, "champion")
    candidate = served(tiny_llama(), 0.04, turns, "candidate")
    # One that would end at once is timed over as many tokens as one that goes on.
    candidate.model.config.eos_token_id = list(range(candidate.model.config.vocab_size))
    found = time_answers(champion, candidate, ASKED, say=silent)
    assert len(found.champion) == len(found.candidate) == PAIRS
    assert seconds_ratio(found).value > 1.5
    whole = [turns[place] for place in range(0, len(turns), TOKENS)]
    assert turns == [who for who in whole for _ in range(TOKENS)]
    assert {tuple(whole[place : place + 2]) for place in range(2, len(whole), 2)} == {
        ("champion", "candidate"),
        ("candidate", "champion"),
    }


def test_nothing_asked_is_nothing_timed(tiny_llama: ModelFactory) -> None:
    model = served(tiny_llama(), 0, [], "either")
    assert not time_answers(model, model, [], say=silent).champion
