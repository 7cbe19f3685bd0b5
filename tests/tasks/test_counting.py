"""Answers with their tokens: one that ends is told from one that was cut off, and no text differs by it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from editors.generation import generate_greedy
from tasks.counting import Counted, generate_counted
from tests.conftest import ModelFactory
from tests.editors.test_generation import PROMPTS, ids_one_by_one
from tests.editors.tools import load

STEPS = 12


@pytest.fixture
def ending(tiny_llama: ModelFactory) -> tuple[Any, Any]:
    """A model that ends some of its answers early, others late or not at all."""
    model, tokenizer = load(tiny_llama())
    free = [ids_one_by_one(model, tokenizer, prompt, chat=False, steps=STEPS) for prompt in PROMPTS]
    firsts = {token: {ids.index(token) for ids in free if token in ids} for ids in free for token in ids}
    token = max(sorted(firsts), key=lambda token: len(firsts[token]))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, token]
    return model, tokenizer


@pytest.mark.parametrize("chat", [True, False])
def test_the_texts_are_those_of_greedy_generation(ending: tuple[Any, Any], chat: bool) -> None:
    model, tokenizer = ending
    expected = generate_greedy(model, tokenizer, PROMPTS, chat=chat, max_new_tokens=STEPS)
    found = generate_counted(model, tokenizer, PROMPTS, chat=chat, max_new_tokens=STEPS)
    assert [one.text for one in found] == expected
    assert "decode" not in vars(tokenizer)


def test_what_ended_is_told_from_what_was_cut_off(ending: tuple[Any, Any]) -> None:
    model, tokenizer = ending
    stop = model.generation_config.eos_token_id[1]
    free = [ids_one_by_one(model, tokenizer, prompt, chat=False, steps=STEPS) for prompt in PROMPTS]
    taken = [ids.index(stop) if stop in ids else len(ids) for ids in free]
    found = generate_counted(model, tokenizer, PROMPTS, chat=False, max_new_tokens=STEPS)
    assert [one.tokens for one in found] == taken
    assert {one.ended(STEPS) for one in found} == {0.0, 1.0}
    for room in (2, STEPS):
        assert [one.ended(room) for one in found] == [float(tokens < room) for tokens in taken]


def test_where_the_positions_end_nothing_is_known(tiny_gpt2: ModelFactory) -> None:
    model, tokenizer = load(tiny_gpt2(n_positions=16))
    prompts = ["What is the capital of Egypt?", "Hi"]
    found = generate_counted(model, tokenizer, prompts, chat=False, max_new_tokens=50)
    assert all(one.tokens < 50 for one in found)
    assert all(math.isnan(one.ended(50)) for one in found)
    assert Counted("", 0, 1).ended(50) == 1.0
