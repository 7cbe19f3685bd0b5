"""What must stay is held against the base's log-probabilities, in memory that has a bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import editors.descent as descent
import editors.joint_descent as joint_descent
from editors import objective
from editors.finetune import Finetune, FinetuneConfig
from editors.gather import encode_kept
from editors.joint_memit import JointMemit, JointMemitConfig
from editors.objective import as_many_as_fit
from editors.protocol import Kept
from editors.replay import PrefixCache
from editors.requests import EditRequest, pad_id
from tests.editors.subject_cases import QUICK
from tests.editors.tools import folder_of, load

REQUESTS = [EditRequest("a", "What is the capital of Egypt?", "Lima", subject="Egypt")]
KEPT = [Kept(f"What is number {number}?", "A number" + " or so" * (number % 3)) for number in range(20)]


def test_what_does_not_fit_is_left_out_at_random(request: pytest.FixtureRequest) -> None:
    model, tokenizer = load(folder_of("llama", request))
    kept, pad = encode_kept(tokenizer, KEPT), pad_id(tokenizer)
    width = 4 * model.config.vocab_size
    size = width * sum(len(example.target_ids) for example in kept)
    assert as_many_as_fit(model, kept, pad, 0, size) is kept
    some = as_many_as_fit(model, kept, pad, 0, size // 2)
    assert width * sum(len(example.target_ids) for example in some) <= size // 2
    assert len(some) > 6
    assert set(some) < set(kept)
    assert some == as_many_as_fit(model, kept, pad, 0, size // 2) != kept[: len(some)]
    assert some != as_many_as_fit(model, kept, pad, 1, size // 2)
    assert len(as_many_as_fit(model, kept, pad, 0, 0)) == 1
    assert as_many_as_fit(model, [], pad, 0) == []


@pytest.mark.parametrize("name", ["finetune", "memit-joint"])
def test_the_log_probabilities_held_have_a_bound(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(folder_of("llama", request))
    held: list[int] = []

    def counted(*args: Any) -> Any:
        result = log_probabilities(*args)
        held.append(sum(rows.nbytes for rows in result.values()))
        return result

    log_probabilities = objective.log_probabilities
    monkeypatch.setattr(objective.as_many_as_fit, "__defaults__", (40_000,))
    for module in (descent, joint_descent):
        monkeypatch.setattr(module, "log_probabilities", counted)
    editor = {
        "finetune": Finetune(FinetuneConfig(epochs=2)),
        "memit-joint": JointMemit(JointMemitConfig(steps=2, value=QUICK)),
    }[name]
    assert editor.edit(model, tokenizer, REQUESTS, KEPT).shifts
    assert 0 < held[0] <= 40_000


def test_few_logits_are_in_memory_at_a_time_and_the_gradient_is_that_of_all(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(folder_of("llama", request))
    kept, pad = encode_kept(tokenizer, KEPT), pad_id(tokenizer)
    cache = PrefixCache(model, [])
    seen: list[int] = []

    def counted(*args: Any) -> Tensor:
        logits = answer_logits(*args)
        seen.append(len(logits))
        return logits

    def run(together: int) -> tuple[float, Tensor]:
        monkeypatch.setattr(objective, "ANSWER_TOKENS", together)
        monkeypatch.setattr(objective, "TOKENS", 20 * together)
        seen.clear()
        model.zero_grad()
        references = objective.log_probabilities(model, kept, pad, cache)
        weighted = [(e, 1.0, None if i % 2 else 0.9 * references[e]) for i, e in enumerate(kept)]
        loss = objective.weighted_backward(model, weighted, pad, cache)
        gradient = model.get_output_embeddings().weight.grad
        assert gradient is not None
        return loss, gradient.clone()

    answer_logits = objective.answer_logits
    monkeypatch.setattr(objective, "answer_logits", counted)
    whole, of_whole = run(10_000)
    assert len(seen) == 2
    longest = max(len(example.target_ids) for example in kept)
    for together in (longest + 3, 1):
        loss, gradient = run(together)
        assert len(seen) > 4
        assert max(seen) <= max(together, longest)
        assert loss == pytest.approx(whole, rel=1e-4)
        torch.testing.assert_close(gradient, of_whole, rtol=1e-3, atol=1e-4)
