"""Token by token: greedy as everywhere, or drawn as a request asks for it."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from editors.decoding import Sampling, next_tokens
from editors.generation import generate_greedy, stop_ids
from tasks.models import load, resolve
from tests.conftest import ModelFactory

PROMPTS = ["What is the capital of Egypt?", "Hi", "On which continent is Peru?"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
@pytest.mark.parametrize("steps", [1, 5, 40])
def test_greedy_tokens_are_those_of_generation(
    architecture: str, steps: int, tiny_model: ModelFactory
) -> None:
    model, tokenizer = load(resolve(str(tiny_model(architecture))))
    stops = stop_ids(model, tokenizer, chat=False)
    for prompt in PROMPTS:
        ids = list(next_tokens(model, tokenizer(prompt)["input_ids"], stops, steps))
        (expected,) = generate_greedy(model, tokenizer, [prompt], chat=False, max_new_tokens=steps)
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == expected
        assert len(ids) <= steps


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it(tiny_llama: ModelFactory) -> None:
    model, tokenizer = load(resolve(str(tiny_llama())))
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    ids = list(next_tokens(model, prompt, (), 12))
    assert len(ids) == 12
    ending = next(token for token in ids if token != ids[0])
    assert list(next_tokens(model, prompt, {ending}, 12)) == ids[: ids.index(ending)]


def drawn(sampling: Sampling, logits: torch.Tensor, count: int) -> Counter[int]:
    """Tokens of a model that always has the same logits."""

    class Model:
        device = torch.device("cpu")

        def forward(self, **_: Any) -> None: ...

        def __call__(self, *, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=logits.expand(1, 1, -1), past_key_values=None)

    model: Any = Model()
    return Counter(next_tokens(model, [0], (), count, sampling))


def test_draws_follow_temperature_top_p_and_seed() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert set(drawn(Sampling(), logits, 20)) == {0}
    counts = drawn(Sampling(1.0, seed=1), logits, 4000)
    assert [counts[i] / 4000 for i in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    cold = drawn(Sampling(0.5, seed=1), logits, 4000)
    assert cold[0] / 4000 == pytest.approx(0.25 / 0.365, abs=0.03)
    # Those before the third sum to 0.8.
    assert set(drawn(Sampling(1.0, 0.81, seed=1), logits, 400)) == {0, 1, 2}
    assert set(drawn(Sampling(1.0, 0.79, seed=1), logits, 400)) == {0, 1}
    assert set(drawn(Sampling(1.0, 0.01, seed=1), logits, 400)) == {0}
    assert drawn(Sampling(1.0, seed=7), logits, 50) == drawn(Sampling(1.0, seed=7), logits, 50)
    assert drawn(Sampling(1.0, seed=7), logits, 50) != drawn(Sampling(1.0, seed=8), logits, 50)
    assert drawn(Sampling(1.0), logits, 200) != drawn(Sampling(1.0), logits, 200)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_damaged_model_says_so(temperature: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        drawn(Sampling(temperature), torch.tensor([0.1, float("nan")]), 1)
