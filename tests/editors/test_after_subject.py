"""Running a model from the subject on gives what running it whole gives, gradients too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from editors.after_subject import SubjectCache
from editors.capture import answer_logits, frozen
from editors.locate import blocks
from editors.neurons import mlp_of
from editors.replay import PrefixCache
from editors.requests import collate, pad_id
from editors.subject import place
from tests.editors.tools import folder_of, load


def test_from_the_subject_on_is_as_good_as_whole(loaded: Any) -> None:
    model, tokenizer = loaded
    prompts = [
        ("Egypt is where?", "Egypt", "Lima and more", False),
        ("What is the capital of Peru, and who says so?", "Peru", "x", True),
        ("One has heard that the currency of Japan is", "Japan", "the yen", False),
    ]
    rows = [place(tokenizer, p, target, s, chat=chat) for p, s, target, chat in prompts]
    placed = [row for row in rows if row is not None]
    assert len(placed) == 3
    batch = collate([row.example for row in placed], pad_id(tokenizer))
    torch.manual_seed(0)
    for lowest in (0, 1):
        mlp = mlp_of(model, blocks(model)[lowest][0])
        cache = PrefixCache(model, [mlp.gate])
        assert len(cache.below) == lowest
        known = SubjectCache(model, cache)
        with frozen(model):
            known.learn(placed, pad_id(tokenizer))
            assert all(map(known.knows, placed))
            whole, after = answer_logits(model, batch), known.logits(placed, batch)
            torch.testing.assert_close(after, whole, rtol=1e-4, atol=1e-4)
            gradients = []
            for from_subject in (False, True):
                said = torch.zeros(3, mlp.output.d_out, requires_grad=True)
                where = torch.tensor([0 if from_subject else row.position for row in placed])
                hook = _adds(said, where)
                handle = model.get_submodule(mlp.output.name).register_forward_hook(hook)
                with torch.enable_grad():
                    logits = known.logits(placed, batch) if from_subject else answer_logits(model, batch)
                    gradients += torch.autograd.grad(logits.log_softmax(-1)[:, 3].sum(), said)
                handle.remove()
        assert float(gradients[0].abs().max()) > 0
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)


def _adds(said: torch.Tensor, where: torch.Tensor) -> Any:
    """A hook that adds a vector to each row's output at one position."""
    return lambda _, __, output: output.index_put((torch.arange(3), where), said, accumulate=True)


def test_what_is_beyond_the_limit_is_not_kept(loaded: Any) -> None:
    model, tokenizer = loaded
    row = place(tokenizer, "What is the capital of Peru?", "x", "Peru", chat=True)
    assert row is not None
    last = mlp_of(model, blocks(model)[1][0])
    whole = SubjectCache(model, PrefixCache(model, [last.gate]))
    whole.learn([row], pad_id(tokenizer))
    (kept,) = whole._rows.values()
    assert kept.hidden is not None
    size = kept.before.nbytes + kept.hidden.nbytes
    for limit, fits in ((size, True), (size - 1, False), (10, False)):
        known = SubjectCache(model, PrefixCache(model, [last.gate]), limit=limit)
        known.learn([row], pad_id(tokenizer))
        assert known.knows(row) is fits


def test_what_examples_begin_with_is_kept_once(loaded: Any) -> None:
    model, tokenizer = loaded
    rows = [
        row
        for subject in ("Peru", "Japan")
        if (row := place(tokenizer, f"A long opening before {subject} is", "x", subject, chat=False))
    ]
    known = SubjectCache(model, PrefixCache(model, [mlp_of(model, blocks(model)[1][0]).gate]))
    known.learn(rows, pad_id(tokenizer))
    first, second = (known._rows[row] for row in rows)
    assert first.before is second.before
    assert first.hidden is not second.hidden


@pytest.mark.parametrize("architecture", ["mistral", "gemma3"])
def test_a_model_that_forgets_tokens_is_run_whole(architecture: str, request: pytest.FixtureRequest) -> None:
    """Its layers attend to a window, of which no more is kept."""
    model, tokenizer = load(folder_of(architecture, request))
    prompts = (("The capital of Peru is", "Peru"), ("On which of the continents is Egypt, and why?", "Egypt"))
    rows = [row for p, subject in prompts if (row := place(tokenizer, p, "x", subject, chat=False))]
    known = SubjectCache(model, PrefixCache(model, [mlp_of(model, blocks(model)[0][0]).gate]))
    known.learn(rows, pad_id(tokenizer))
    assert not any(map(known.knows, rows))
