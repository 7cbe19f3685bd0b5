"""Training an editor: its gradient is right, it learns, it resumes, and it refuses what it cannot use."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from editors.gather import answered_exactly
from editors.generation import generate_greedy
from editors.locate import default_modules
from editors.malmen import Malmen, MalmenConfig
from editors.mend import MendConfig
from editors.protocol import Kept, no_progress
from editors.replay import PrefixCache
from editors.requests import encode, has_end, pad_id
from editors.training import TrainingConfig, TrainingResult, _prose, _step, fit
from editors.training_cases import OPENING, Cases
from tests.conftest import ModelFactory
from tests.editors.facts import Facts, learnt
from tests.editors.tools import same_bits, snapshot, structure_of

# Untrained it does next to nothing, whatever rounding the machine has.
CONFIG = MalmenConfig(rank=16, rate=1.0, kept_weight=10.0)
TRAINING = TrainingConfig(
    steps=30, validate_every=10, learning_rate=1e-2, locality_weight=1.0, batch_sizes=(1, 4, 8)
)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    from tests import tiny_models

    return learnt(tiny_models.build(tmp_path_factory.mktemp("base"), "llama", initializer_range=0.1))


def run(facts: Facts, **changes: Any) -> TrainingResult:
    given = {"config": CONFIG, "training": TRAINING, **changes}
    return fit(facts.model, facts.tokenizer, facts.requests, facts.keep, facts.text, **given)


def test_the_base_knows_its_facts(facts: Facts) -> None:
    """Without this the other tests would say little."""
    examples = [encode(facts.tokenizer, k.prompt, k.answer, chat=False) for k in facts.keep]
    cache = PrefixCache(facts.model, default_modules(facts.model))
    assert sum(answered_exactly(facts.model, examples, 0, cache)) > 0.9 * len(examples)
    wrong = [encode(facts.tokenizer, r.prompt, r.target, chat=False) for r in facts.requests]
    assert not any(answered_exactly(facts.model, wrong, 0, cache))


def test_training_beats_the_untrained_editor(facts: Facts) -> None:
    before, structure = snapshot(facts.model), structure_of(facts.model)
    seen: list[tuple[int, int, str]] = []
    result = run(facts, progress=lambda *args: seen.append(args))
    assert [row["step"] for row in result.history] == [0, 10, 20, 30]
    first, best = result.history[0]["score"], max(row["score"] for row in result.history)
    assert result.learned
    assert best > first + 0.2
    assert result.statement == f"training raised the validation score from {first:.3f} to {best:.3f}"
    assert same_bits(facts.model, before)
    assert structure_of(facts.model) == structure
    assert all(p.grad is None and p.requires_grad for p in facts.model.parameters())
    assert seen[-1][:2] == (30, 30)
    assert "locality" in seen[-1][2]


def test_training_that_learns_nothing_says_so(facts: Facts) -> None:
    still = run(facts, training=dataclasses.replace(TRAINING, learning_rate=0.0))
    assert not still.learned
    assert "learned nothing" in still.statement
    assert len({row["score"] for row in still.history}) == 1


def test_the_best_editor_is_the_one_returned(facts: Facts) -> None:
    """Steps that are far too large ruin the editor; what is returned is what scored best."""
    large = dataclasses.replace(CONFIG, rate=2.0)
    wild = run(facts, config=large, training=dataclasses.replace(TRAINING, learning_rate=3.0, patience=2))
    scores = [row["score"] for row in wild.history]
    assert scores[-1] < max(scores)
    assert len(scores) - 1 - scores.index(max(scores)) <= 2
    steps = wild.history[scores.index(max(scores))]["step"]
    if steps == 0:
        untrained = run(facts, config=large, training=dataclasses.replace(TRAINING, learning_rate=0.0))
        assert wild.editor.digest() == untrained.editor.digest()


def test_a_rate_that_is_far_off_is_found_before_the_first_step(facts: Facts) -> None:
    """At the rate that it is given, one sum of products ruins the model."""
    still = dataclasses.replace(TRAINING, steps=1, learning_rate=0.0)
    config = MendConfig(rank=8, rate=3.0)
    before, after = run(facts, editor="mend", config=config, training=still).history
    assert after["locality"] > before["locality"] + 0.2
    assert after["score"] > before["score"]


def test_same_seed_same_bytes(facts: Facts) -> None:
    short = dataclasses.replace(TRAINING, steps=8, validate_every=4)
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        random.seed(noise)
        results.append(run(facts, training=short))
    assert results[0].editor.digest() == results[1].editor.digest()
    assert results[0].history == results[1].history
    other = run(facts, training=dataclasses.replace(short, seed=1))
    assert other.editor.digest() != results[0].editor.digest()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("killed_after", [1, 5, 6, 10, 12])
def test_a_killed_run_goes_on_as_if_it_had_not_been(facts: Facts, tmp_path: Path, killed_after: int) -> None:
    # A rate at which every step counts; five steps between checkpoints.
    training = dataclasses.replace(TRAINING, steps=12, validate_every=5)
    expected = run(facts, training=training)
    before = snapshot(facts.model)

    def kill(done: int, total: int, note: str) -> None:
        if note.startswith("loss") and done == killed_after:
            raise KilledError

    with pytest.raises(KilledError):
        run(facts, training=training, checkpoint=tmp_path, progress=kill)
    assert same_bits(facts.model, before)
    steps: list[int] = []
    resumed = run(
        facts,
        training=training,
        checkpoint=tmp_path,
        progress=lambda done, _, note: steps.append(done) if note.startswith("loss") else None,
    )
    assert resumed.history == expected.history
    assert resumed.editor.digest() == expected.editor.digest()
    assert steps[0] == killed_after - (killed_after - 1) % 5  # not from the beginning
    # A finished run that is started again is finished.
    again = run(facts, training=training, checkpoint=tmp_path)
    assert again.editor.digest() == expected.editor.digest()
    assert again.history == expected.history


@pytest.mark.parametrize(
    "damage", ["cut tensors", "missing tensors", "cut json", "foreign json", "other editor"]
)
def test_a_damaged_checkpoint_is_discarded(
    facts: Facts, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    training = dataclasses.replace(TRAINING, steps=4, validate_every=2)
    config = dataclasses.replace(CONFIG, rank=8) if damage == "other editor" else CONFIG
    expected = run(facts, training=training)
    run(facts, training=training, config=config, checkpoint=tmp_path)
    (tensors,) = tmp_path.glob("*.safetensors")
    state = tmp_path / "training.json"
    if damage == "cut tensors":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "missing tensors":
        tensors.unlink()
    elif damage == "cut json":
        state.write_text(state.read_text()[:-10])
    elif damage == "foreign json":
        state.write_text("[]")
    again = run(facts, training=training, checkpoint=tmp_path)
    assert "is discarded, and training starts again" in caplog.text
    assert again.editor.digest() == expected.editor.digest()
    assert again.history == expected.history


def test_a_resumed_run_has_the_minutes_that_were_left(facts: Facts, tmp_path: Path) -> None:
    training = dataclasses.replace(TRAINING, steps=20, minutes=10, validate_every=5)

    def kill(done: int, total: int, note: str) -> None:
        if note.startswith("loss") and done == 6:
            raise KilledError

    with pytest.raises(KilledError):
        run(facts, training=training, checkpoint=tmp_path, progress=kill)
    state = tmp_path / "training.json"
    kept = json.loads(state.read_text())
    assert 0 < kept["seconds"] < 600
    state.write_text(json.dumps({**kept, "seconds": 601.0}))
    resumed = run(facts, training=training, checkpoint=tmp_path)
    assert [row["step"] for row in resumed.history] == [0, 5]


@pytest.fixture
def stage(facts: Facts) -> tuple[Cases, Callable[[], float]]:
    """Cases around an editor with no weight at a corner of its clamp, and its meta-loss as a function."""
    editor = Malmen.untrained(facts.model, dataclasses.replace(CONFIG, rank=4, depth=1))
    generator = torch.Generator().manual_seed(0)
    cases = Cases(facts.model, facts.tokenizer, editor, facts.requests, facts.keep, 0, lambda *_: None)
    for captured in cases.rows(dict.fromkeys(cases.training, 3))():
        editor.observe(captured)
    editor.study(facts.model, _prose(facts.tokenizer, facts.text), cases.kept_known, pad_id(facts.tokenizer))
    with torch.no_grad():
        for parameter in editor.networks.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        editor.rate_slope += 0.1
        editor.strength_slope -= 0.1
    return cases, lambda: _step(cases, TRAINING, 6, random.Random(3))


def slope(function: Callable[[], float], parameter: torch.Tensor, direction: torch.Tensor, h: float) -> float:
    original, values = parameter.data, []
    for step in (h, -h):
        parameter.data = original + step * direction
        values.append(function())
    parameter.data = original
    above, below = values
    return (above - below) / (2 * h)


@pytest.mark.parametrize("name", ["log_rate", "log_strength", "rate_slope", "strength_slope"])
def test_meta_gradient_of_the_scalars(stage: Any, name: str) -> None:
    """The two-stage gradient, through the shifted model, the solve and the network, against differences."""
    cases, meta_loss = stage
    assert meta_loss() > 0.1
    parameter = getattr(cases.editor, name)
    gradient = parameter.grad.clone()
    assert abs(float(gradient[0])) > 1e-2
    assert slope(meta_loss, parameter, torch.ones_like(parameter), 0.01) == pytest.approx(
        float(gradient.sum()), rel=0.02
    )


@pytest.mark.parametrize("name", ["down", "up", "bias", "scale", "offset"])
def test_meta_gradient_of_the_network(stage: Any, name: str) -> None:
    cases, meta_loss = stage
    meta_loss()
    parameter = dict(cases.editor.named_parameters())[f"networks.96x48.blocks.0.{name}"]
    gradient = parameter.grad.clone()
    # Along the gradient itself, and in one weight, the one that matters most.
    along = gradient / gradient.norm()
    assert slope(meta_loss, parameter, along, 3e-3) == pytest.approx(float(gradient.norm()), rel=0.03)
    one = torch.zeros_like(gradient)
    one.view(-1)[gradient.abs().argmax()] = 1
    assert slope(meta_loss, parameter, one, 1e-2) == pytest.approx(float((gradient * one).sum()), rel=0.05)


def test_a_damaged_base_is_refused(facts: Facts) -> None:
    broken = copy.deepcopy(facts.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in broken.parameters():
            parameter += 50 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    with pytest.raises(ValueError, match=r"more than guessing would give: is it the right checkpoint"):
        run(dataclasses.replace(facts, model=broken))
    with torch.no_grad():
        next(broken.parameters())[:] = torch.nan
    name = next(name for name, _ in broken.named_parameters())
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} of the model is not finite"):
        run(dataclasses.replace(facts, model=broken))


def test_a_base_that_only_guesses_is_not_damaged(tiny_llama: ModelFactory, facts: Facts) -> None:
    """A small random model is at the logarithm of its vocabulary; the check must not refuse it as broken."""
    from editors.training import _check_base
    from tests.editors.tools import load

    model, tokenizer = load(tiny_llama(initializer_range=0.02))
    _check_base(model, tokenizer, facts.text)


def test_what_is_too_little_is_refused(facts: Facts) -> None:
    for fewer in (
        dataclasses.replace(facts, requests=facts.requests[:11]),
        dataclasses.replace(facts, keep=facts.keep[:11]),
    ):
        with pytest.raises(ValueError, match="give at least 12 of each"):
            run(fewer)
    with pytest.raises(ValueError, match="no prose was given"):
        run(dataclasses.replace(facts, text=[]))
    foreign = [Kept(kept.prompt, "Cairo and Paris", chat=False) for kept in facts.keep]
    with pytest.raises(ValueError, match=r"none of .* has the answer the base gives"):
        run(dataclasses.replace(facts, keep=foreign))


def test_answers_without_an_end_are_kept_by_their_openings(facts: Facts) -> None:
    """As those of raw text are, which goes on and on."""
    prompts = [text[:length] for text in facts.text for length in range(4, 14)]
    begun = generate_greedy(facts.model, facts.tokenizer, prompts, chat=False, max_new_tokens=8)
    keep = [Kept(prompt, answer, False) for prompt, answer in zip(prompts, begun, strict=True)]
    examples = [encode(facts.tokenizer, k.prompt, k.answer, chat=False) for k in keep]
    cache = PrefixCache(facts.model, default_modules(facts.model))
    given = answered_exactly(facts.model, examples, 0, cache)
    keep = [k for k, exact in zip(keep, given, strict=True) if exact or has_end(k.prompt, chat=False)]
    assert len(keep) >= 12

    def cases(keep: list[Kept]) -> Cases:
        editor = Malmen.untrained(facts.model, CONFIG)
        return Cases(facts.model, facts.tokenizer, editor, facts.requests, keep, 0, no_progress)

    made = cases(keep)
    for openings in (made.kept_unseen, made.kept_validation):
        assert {len(example.target_ids) for example in openings} == {OPENING}
        assert all(answered_exactly(facts.model, openings, 0, cache))
    with pytest.raises(ValueError, match="none of"):
        cases([Kept(kept.prompt, f"No {kept.answer}", False) for kept in keep])


def test_requests_without_equivalents_train_too(facts: Facts) -> None:
    bare = [dataclasses.replace(r, equivalents=()) for r in facts.requests[:12]]
    few = dataclasses.replace(facts, requests=bare, keep=facts.keep[:12])
    result = run(few, training=dataclasses.replace(TRAINING, steps=2, validate_every=1))
    assert len(result.history) == 3
