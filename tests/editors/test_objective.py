"""What must stay is held against the base's log-probabilities, in memory that has a bound."""

from __future__ import annotations

from typing import Any

import pytest

import editors.descent as descent
import editors.joint_descent as joint_descent
from editors import objective
from editors.finetune import Finetune, FinetuneConfig
from editors.gather import encode_kept
from editors.joint_memit import JointMemit, JointMemitConfig
from editors.objective import as_many_as_fit
from editors.protocol import Kept
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
