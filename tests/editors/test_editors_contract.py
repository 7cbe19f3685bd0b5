"""What every editor promises, on every model: a delta for what was asked, and a model left as it was.

Overrides change no parameter, and ROME, MEMIT and AlphaEdit edit decoder-only models alone, where they find a
subject: what of this they promise is tested with them (test_overrides, test_subject_editors).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from editors.delta import Delta, LowRank, applied, model_digest
from editors.finetune import BoundedFinetune, Finetune, FinetuneConfig, PlainFinetune
from editors.locate import default_modules, mlp_matrices
from editors.lora import Lora, LoraConfig
from editors.malmen import Malmen, MalmenConfig
from editors.mend import Mend, MendConfig
from editors.protocol import Editor, Kept
from editors.requests import EditRequest
from editors.ultraedit import UltraEdit, UltraEditConfig
from tests.editors.cases import ARCHITECTURES, TRAINED, Case, case_of, requests_for
from tests.editors.tools import PROMPTS, same_bits, snapshot, structure_of

MAKE: dict[str, Callable[[Any], Editor]] = {
    "malmen": lambda model: Malmen.untrained(model, MalmenConfig(rank=8, rate=8.0, share=1.0, caution=1.0)),
    "finetune": lambda _: Finetune(FinetuneConfig(epochs=6, learning_rate=0.1)),
    "finetune-linf": lambda _: BoundedFinetune(FinetuneConfig(epochs=6, learning_rate=0.1, limit=0.3)),
    "lora": lambda _: Lora(LoraConfig(epochs=6, learning_rate=0.1)),
    "mend": lambda model: Mend.untrained(model, MendConfig(rank=8, rate=1.0)),
    "ultraedit": lambda _: UltraEdit(UltraEditConfig(rate=1.0)),
}
# Where an editor's default is not the outputs of late MLPs.
DEFAULT_MODULES = {"mend": mlp_matrices}


# A Llama is what the fast tests of single editors edit, and the chain has layers like its own.
SLOW = ("llama", "chain")


@pytest.fixture(params=[pytest.param(a, marks=[pytest.mark.slow] * (a in SLOW)) for a in ARCHITECTURES])
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def case(architecture: str, request: pytest.FixtureRequest) -> Case:
    return case_of(architecture, request)


@pytest.fixture(params=list(MAKE))
def make(request: pytest.FixtureRequest) -> Callable[[Any], Editor]:
    return MAKE[request.param]


def edited(editor: Editor, case: Case, keep: Sequence[Kept] | None = None) -> Delta:
    return editor.edit(case.model, case.tokenizer, case.requests, case.kept if keep is None else keep)


def test_the_edit_is_a_delta_and_improves_what_was_asked(case: Case, make: Any) -> None:
    model = case.model
    editor: Editor = make(model)
    next(model.parameters()).requires_grad_(False)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before, structure = snapshot(model), structure_of(model)
    first = case.loss()
    seen: list[tuple[int, int]] = []
    delta = editor.edit(
        model,
        case.tokenizer,
        case.requests,
        case.kept,
        progress=lambda done, total, _: seen.append((done, total)),
    )
    assert same_bits(model, before)
    assert structure_of(model) == structure
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert seen
    assert all(done <= total for done, total in seen)

    expected = DEFAULT_MODULES.get(editor.name, default_modules)(model)
    assert set(delta.shifts) == {module.parameter for module in expected}
    with applied(model, delta):
        others = {name: tensor for name, tensor in before.items() if name not in delta.shifts}
        assert same_bits(model, {**snapshot(model), **others})
        assert case.loss() < 0.9 * first
    assert same_bits(model, before)
    assert case.loss() == first

    assert delta.manifest["editor"] == editor.name
    assert delta.manifest["editor_digest"] == editor.digest()
    json.dumps(delta.manifest)


def test_no_requests_change_nothing(case: Case, make: Any) -> None:
    delta = make(case.model).edit(case.model, case.tokenizer, [], case.kept)
    assert delta.shifts == {}
    assert delta.manifest["editor"] == make(case.model).name
    before = snapshot(case.model)
    with applied(case.model, delta):
        assert same_bits(case.model, before)


# Two matrices that no editor edits by itself.
PATTERNS = {
    "llama": r"layers\.[12]\.mlp\.up_proj",
    "gpt2": r"h\.[12]\.mlp\.c_fc",
    "opt": r"layers\.[12]\.fc1",
    "t5": r"(encoder|decoder)\.block\.1\..*\.wi$",
    "bert": r"layer\.[12]\.intermediate\.dense",
    "chain": r"^[34]$",
}


def test_only_declared_parameters_change(case: Case) -> None:
    pattern = PATTERNS[case.architecture]
    chosen = {module.parameter for module in default_modules(case.model, pattern)}
    for editor in (
        *(untrained(case.model, modules=pattern) for untrained in TRAINED.values()),
        UltraEdit(UltraEditConfig(modules=pattern)),
        Finetune(FinetuneConfig(modules=pattern, epochs=2)),
        Lora(LoraConfig(modules=pattern, epochs=2)),
    ):
        assert set(edited(editor, case).shifts) == chosen
        assert len(chosen) == 2


def test_same_seed_same_bytes(case: Case, make: Any) -> None:
    deltas = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        deltas.append(edited(make(case.model), case))
        # Nor does an edit draw from the generator that the caller uses.
        assert torch.initial_seed() == noise
        drawn = torch.rand(3)
        torch.manual_seed(noise)
        assert torch.equal(torch.rand(3), drawn)
    assert deltas[0].digest() == deltas[1].digest()
    assert float(next(iter(deltas[0].norms().values()))) > 0


def test_what_was_done_before_does_not_matter(case: Case, make: Any) -> None:
    """An editor is as good the second time, and after other corrections."""
    editor, few = make(case.model), dataclasses.replace(case, requests=case.requests[:2])
    expected = edited(make(case.model), few)
    edited(editor, dataclasses.replace(case, requests=case.requests[2:]))
    assert edited(editor, few).digest() == expected.digest()


def test_more_than_one_batch(case: Case, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of examples that the batch size does not divide gives what one batch gives."""
    requests = [EditRequest(str(i), f"{PROMPTS[i % 6]} {i}", f"answer {i}" * (1 + i % 3)) for i in range(9)]
    many = dataclasses.replace(case, requests=requests_for(case.architecture, requests))
    whole = edited(make(case.model), many)
    batched = _with_batches_of(4, monkeypatch, lambda: edited(make(case.model), many))
    for name in whole.shifts:
        scale = float(whole.dense(name).abs().max())
        # Adam divides by what may be tiny: rounding shows.
        torch.testing.assert_close(batched.dense(name), whole.dense(name), rtol=0.05, atol=0.02 * scale)


def _with_batches_of(size: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Delta]) -> Delta:
    import editors.gather as gathering

    original, sizes = gathering.collate, []

    def batches(examples: Any, pad: int) -> Any:
        return original_batches(examples, pad, size)

    def collate_and_count(examples: Any, pad: int) -> Any:
        sizes.append(len(examples))
        return original(examples, pad)

    original_batches = gathering.batches
    monkeypatch.setattr(gathering, "batches", batches)
    monkeypatch.setattr(gathering, "collate", collate_and_count)
    delta = run()
    assert {4, 1} <= set(sizes)
    return delta


@pytest.mark.slow
def test_two_models_in_one_process_do_not_mix(
    architecture: str, make: Any, request: pytest.FixtureRequest
) -> None:
    def cases() -> list[Case]:
        return [case_of(architecture, request, seed=seed) for seed in (0, 1)]

    expected = [edited(make(case.model), case).digest() for case in cases()]
    both = cases()
    digests = [model_digest(case.model) for case in both]
    editors = [make(case.model) for case in both]
    deltas = [edited(editor, case) for editor, case in zip(editors, both, strict=True)]
    assert [delta.digest() for delta in deltas] == expected
    assert expected[0] != expected[1]
    first, second = both
    alone = editors[1].edit(second.model, second.tokenizer, second.requests[:1])
    with applied(first.model, deltas[0]):
        assert model_digest(second.model) == digests[1]
        with applied(second.model, deltas[1]):
            again = editors[1].edit(second.model, second.tokenizer, second.requests[:1])
    # What an edited model answers already is asked of it otherwise, or not at all.
    assert alone.shifts
    assert again.digest() != alone.digest()
    assert [model_digest(case.model) for case in both] == digests


@pytest.mark.parametrize("kept", [False, True], ids=["nothing kept", "kept"])
@pytest.mark.parametrize("where", ["below", "edited"])
def test_a_model_that_is_not_finite_is_refused(case: Case, make: Any, where: str, kept: bool) -> None:
    editor = make(case.model)
    name = default_modules(case.model)[0].parameter
    if where == "below":
        name = "0.weight" if case.architecture == "chain" else re.sub(r"\.\d\.", ".0.", name, count=1)
    with torch.no_grad():
        case.model.get_parameter(name)[:, 2] = torch.nan
    before = snapshot(case.model)
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} of the model is not finite"):
        edited(editor, case, case.kept if kept else [])
    assert same_bits(case.model, before)


def test_a_model_in_half_precision(architecture: str, make: Any, request: pytest.FixtureRequest) -> None:
    case = case_of(architecture, request, dtype=torch.bfloat16)
    before, first = snapshot(case.model), case.loss()
    delta = edited(make(case.model), case)
    assert same_bits(case.model, before)
    assert all(delta.dense(name).dtype == torch.float32 for name in delta.shifts)
    with applied(case.model, delta):
        assert case.loss() < 0.9 * first
    assert same_bits(case.model, before)


@pytest.mark.parametrize("editor", [Finetune, Lora])
def test_small_steps_are_not_lost_in_half_precision(
    architecture: str, editor: Any, request: pytest.FixtureRequest
) -> None:
    """Steps far below the spacing of bf16 add up; taken in the model's own dtype most would round away."""
    case = case_of(architecture, request, dtype=torch.bfloat16)
    small = editor(dataclasses.replace(editor().config, epochs=8, learning_rate=1e-3))
    case.model.float()
    exact = edited(small, case, [])
    case.model.bfloat16()
    rounded = edited(small, case, [])
    for name in exact.shifts:
        ratio = float(rounded.dense(name).norm() / exact.dense(name).norm())
        assert 0.8 < ratio < 1.25


def test_the_state_that_the_caller_left_the_model_in_does_not_matter(case: Case, make: Any) -> None:
    """Neither dropout nor gradients of something else decide what an edit is; both stay the caller's."""
    expected = edited(make(case.model), case)
    case.model.train()
    for parameter in case.model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    assert edited(make(case.model), case).digest() == expected.digest()
    assert all(module.training for module in case.model.modules())
    assert all(p.grad is not None and bool((p.grad == 3).all()) for p in case.model.parameters())


# Adam keeps its counters, and PEFT makes its adapters, on the default device before they move.
ON_THE_MODELS_DEVICE = ("malmen", "mend", "ultraedit")


@pytest.mark.parametrize("name", ON_THE_MODELS_DEVICE)
def test_everything_is_made_on_the_models_device(case: Case, name: str) -> None:
    """Whatever the default device is: there, nothing can be computed with what is made without a device."""
    editor = MAKE[name](case.model)
    expected = edited(editor, case)
    with torch.device("meta"):
        found = edited(editor, case)
    assert found.digest() == expected.digest()


def test_a_weight_goes_no_further_than_its_limit(case: Case) -> None:
    """FT+L: an L-infinity bound in root mean squares of each matrix."""
    editor = BoundedFinetune(FinetuneConfig(epochs=12, learning_rate=0.1, limit=0.05))
    delta = edited(editor, case)
    for name in delta.shifts:
        bound = 0.05 * float(case.model.get_parameter(name).detach().square().mean().sqrt())
        assert float(delta.dense(name).abs().max()) == pytest.approx(bound, rel=1e-3)


def test_without_a_weight_on_locality_nothing_kept_counts(case: Case) -> None:
    """Plain FT-M."""
    plain = PlainFinetune(FinetuneConfig(epochs=4, learning_rate=0.1, locality_weight=0.0))
    assert edited(plain, case).digest() == edited(plain, case, []).digest()
    weighted = Finetune(FinetuneConfig(epochs=4, learning_rate=0.1))
    assert edited(weighted, case).digest() != edited(weighted, case, []).digest()


def test_a_lora_delta_is_low_rank(case: Case) -> None:
    delta = edited(Lora(LoraConfig(rank=3, epochs=2)), case)
    assert all(isinstance(shift, LowRank) and shift.left.shape[1] == 3 for shift in delta.shifts.values())
