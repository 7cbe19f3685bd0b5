"""MEND is gradient descent before it has learned, and the way back through its shifts is exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from editors.capture import Captured, answer_loss
from editors.gather import captures, encode_requests
from editors.hypereditor import Rows
from editors.locate import mlp_matrices
from editors.mend import Mend, MendConfig
from editors.requests import EditRequest, collate, pad_id
from editors.training import TrainingConfig, fit
from tests.editors.facts import learnt
from tests.editors.tools import PROMPTS, TARGETS, folder_of, load

REQUESTS = [
    EditRequest(str(i), prompt, target, ("Well?",) * (i % 2), chat=i % 3 > 0)
    for i, (prompt, target) in enumerate(zip(PROMPTS, TARGETS, strict=True))
]


def test_default_modules_are_both_matrices_of_the_last_three_blocks(request: pytest.FixtureRequest) -> None:
    for architecture, names in (
        ("llama", ["model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.down_proj"]),
        ("gpt2", ["transformer.h.{}.mlp.c_fc", "transformer.h.{}.mlp.c_proj"]),
    ):
        depth = {"llama": "num_hidden_layers", "gpt2": "n_layer"}[architecture]
        model, _ = load(folder_of(architecture, request, **{depth: 4}))
        expected = [name.format(block) for block in (1, 2, 3) for name in names]
        assert [module.name for module in mlp_matrices(model)] == expected
        assert [module.name for module in mlp_matrices(model, r"1\.mlp\.(gate|c_fc)")] == expected[:1]


def test_before_training_it_is_a_step_of_gradient_descent(loaded: Any) -> None:
    """Identity network, no normalisation, positive rate: W - rate * dL/dW (Mitchell et al., section 3.1)."""
    model, tokenizer = loaded
    editor = Mend.untrained(model, MendConfig(rank=8, normalise=False))
    delta = editor.edit(model, tokenizer, REQUESTS)
    for each in REQUESTS:
        # Several phrasings of a correction weigh as much as one.
        phrasings = collate(encode_requests(tokenizer, [each]), pad_id(tokenizer))
        (answer_loss(model, phrasings) / (1 + len(each.equivalents))).backward()
    for module in editor.modules_edited:
        rate = editor.rate(module, len(REQUESTS)).detach()
        gradient = model.get_parameter(module.parameter).grad
        assert rate > 0
        assert gradient.norm() > 1e-3
        difference = delta.dense(module.parameter) + rate * gradient
        assert float(difference.norm()) <= 1e-6 * float((rate * gradient).norm())


def test_answer_positions_alone_are_part_of_the_step(loaded: Any) -> None:
    """In the last block the prompt carries no gradient, so both are one there; below it they differ."""
    model, tokenizer = loaded
    shifts = [
        Mend.untrained(model, MendConfig(rank=8, normalise=False, tokens=tokens)).edit(
            model, tokenizer, REQUESTS
        )
        for tokens in ("all", "answer")
    ]
    for module in mlp_matrices(model):
        every, answer = (delta.dense(module.parameter) for delta in shifts)
        apart = float((every - answer).norm() / every.norm())
        assert apart < 1e-6 if ".2.mlp" in module.name else apart > 1e-3


def test_a_correction_said_in_many_ways_asks_for_no_more(loaded: Any) -> None:
    model, tokenizer = loaded
    editor = Mend.untrained(model, MendConfig(rank=4))
    once = editor.edit(model, tokenizer, [replace(request, equivalents=()) for request in REQUESTS])
    said = [replace(r, equivalents=(r.prompt,) * (4 if n % 2 else 0)) for n, r in enumerate(REQUESTS)]
    often = editor.edit(model, tokenizer, said)
    for module in editor.modules_edited:
        shift = once.dense(module.parameter)
        assert float(shift.norm()) > 0
        torch.testing.assert_close(often.dense(module.parameter), shift, rtol=1e-4, atol=1e-6)


@pytest.fixture
def stage(loaded: Any) -> tuple[Mend, Rows]:
    """An editor in double precision, with no weight at a corner of its clamp, and rows of two batches."""
    model, tokenizer = loaded
    editor = Mend.untrained(model, MendConfig(rank=4, rate=3.0)).double()
    parts = [
        {name: Captured(c.keys.double(), c.gradients.double(), c.counts) for name, c in part.items()}
        for requests in (REQUESTS[:2], REQUESTS[2:])
        for part in captures(
            model, editor.modules_edited, encode_requests(tokenizer, requests), 0, all_tokens=True
        )
    ]
    for part in parts:
        editor.observe(part)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in editor.networks.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        editor.rate_slope += 0.1
    return editor, lambda: iter(parts)


def test_the_gradient_of_the_shifts_against_finite_differences(
    stage: tuple[Mend, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through products, network, normalisation and rates; the chunks of rows do not divide their number."""
    editor, rows = stage
    monkeypatch.setattr("editors.mend.CHUNK", 7)
    generator = torch.Generator().manual_seed(1)
    wanted = {
        name: shift + torch.randn(shift.shape, generator=generator, dtype=torch.float64)
        for name, shift in editor.propose(rows, 6).shifts.items()
    }

    def loss() -> float:
        shifts = editor.propose(rows, 6).shifts
        return float(sum((shifts[name] - wanted[name]).square().sum() / 2 for name in shifts))

    proposal = editor.propose(rows, 6)
    proposal.backward({name: proposal.shifts[name] - wanted[name] for name in proposal.shifts})
    for name, parameter in editor.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        assert float(gradient.norm()) > 0, name
        direction = gradient / gradient.norm()
        step, original, values = 1e-6, parameter.data, []
        for sign in (1, -1):
            parameter.data = original + sign * step * direction
            values.append(loss())
        parameter.data = original
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(gradient.norm()), rel=1e-4), name


def test_few_rows_are_held_at_a_time(stage: tuple[Mend, Rows]) -> None:
    """Memory does not grow with the number of corrections: of all batches only the last is still held."""
    import weakref

    editor, rows = stage
    alive: list[weakref.ref[Tensor]] = []

    def fresh() -> Iterator[dict[str, Captured]]:
        for part in [*rows(), *rows()]:
            held = sum(reference() is not None for reference in alive)
            assert held <= len(editor.modules_edited)
            copies = {name: Captured(c.keys.clone(), c.gradients.clone()) for name, c in part.items()}
            alive.extend(weakref.ref(c.keys) for c in copies.values())
            yield copies
            del copies

    proposal = editor.propose(fresh, 6)
    proposal.backward(proposal.shifts)
    assert len(alive) == 8 * len(editor.modules_edited)


def test_rows_without_a_gradient_do_not_enter_the_statistics(loaded: Any) -> None:
    model, _ = loaded
    editor = Mend.untrained(model, MendConfig(rank=4))
    generator = torch.Generator().manual_seed(0)
    rows = {
        m.name: Captured(
            torch.randn(6, m.d_in, generator=generator),
            torch.cat([torch.randn(4, m.d_out, generator=generator), torch.zeros(2, m.d_out)]),
        )
        for m in editor.modules_edited
    }
    editor.observe(rows)
    for module in editor.modules_edited:
        keys, gradients = editor.moments(module)
        assert int(keys.count) == int(gradients.count) == 4 * 3
    shifts = editor.propose(lambda: iter([rows]), 1).shifts
    whole = {name: Captured(c.keys[:4], c.gradients[:4]) for name, c in rows.items()}
    for name, shift in editor.propose(lambda: iter([whole]), 1).shifts.items():
        assert torch.equal(shift, shifts[name])


@pytest.mark.slow
def test_training_beats_the_untrained_editor_on_held_out_facts(request: pytest.FixtureRequest) -> None:
    facts = learnt(folder_of("llama", request, initializer_range=0.1), countries=40)
    training = TrainingConfig(
        steps=40, validate_every=20, learning_rate=1e-2, locality_weight=1.0, batch_sizes=(1, 4, 8)
    )
    result = fit(
        facts.model,
        facts.tokenizer,
        facts.requests,
        facts.keep,
        facts.text,
        editor="mend",
        config=MendConfig(rank=16, rate=0.03),
        training=training,
    )
    assert isinstance(result.editor, Mend)
    assert result.learned
    assert max(row["score"] for row in result.history) > result.history[0]["score"] + 0.2
