"""What every editor promises, on every model: a delta for what was asked, and a model left as it was."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from editors.capture import answer_loss
from editors.delta import Delta, applied, model_digest
from editors.finetune import BoundedFinetune, Finetune, FinetuneConfig
from editors.gather import encode_requests
from editors.hypereditor import HyperEditor
from editors.locate import default_modules, mlp_matrices
from editors.lora import Lora, LoraConfig
from editors.malmen import Malmen, MalmenConfig
from editors.mend import Mend, MendConfig
from editors.protocol import (
    EDITOR_FILE,
    WEIGHTS_FILE,
    Editor,
    EditorMismatchError,
    Kept,
    load_editor,
)
from editors.requests import EditRequest, collate, pad_id
from editors.ultraedit import UltraEdit, UltraEditConfig
from tests.editors.tools import PROMPTS, folder_of, load, same_bits, snapshot, structure_of

# Targets of one token and of many; equivalents for some; raw text and chat.
REQUESTS = [
    EditRequest("a", PROMPTS[0], "a", ("Tell me: Egypt's capital?", "Egypt: capital?")),
    EditRequest("b", PROMPTS[1], "The capital of Cameroon is Yaounde, where the yen is not used."),
    EditRequest("c", PROMPTS[3], "South America", ("Where is Peru?",)),
    EditRequest("d", PROMPTS[4], "yen", chat=False),
]
KEPT = [Kept(PROMPTS[2], "Hello."), Kept(PROMPTS[5], "Portuguese.", chat=False)]

MAKE: dict[str, Callable[[Any], Editor]] = {
    "malmen": lambda model: Malmen.untrained(model, MalmenConfig(rank=8, rate=8.0)),
    "finetune": lambda _: Finetune(FinetuneConfig(epochs=6, learning_rate=0.1)),
    "finetune-linf": lambda _: BoundedFinetune(FinetuneConfig(epochs=6, learning_rate=0.1, limit=0.3)),
    "lora": lambda _: Lora(LoraConfig(epochs=6, learning_rate=0.1)),
    "mend": lambda model: Mend.untrained(model, MendConfig(rank=8, rate=1.0)),
    "ultraedit": lambda _: UltraEdit(UltraEditConfig(rate=1.0)),
}
# Those that are trained, with a network that is quick to make.
TRAINED: dict[str, Callable[..., HyperEditor]] = {
    "malmen": lambda model, **settings: Malmen.untrained(model, MalmenConfig(rank=8, **settings)),
    "mend": lambda model, **settings: Mend.untrained(model, MendConfig(rank=8, **settings)),
}
# Where an editor's default is not the outputs of late MLPs.
DEFAULT_MODULES = {"mend": mlp_matrices}


@pytest.fixture(params=["llama", "gpt2"])
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=list(MAKE))
def make(request: pytest.FixtureRequest) -> Callable[[Any], Editor]:
    return MAKE[request.param]


@pytest.fixture(params=list(TRAINED))
def untrained(request: pytest.FixtureRequest) -> Callable[..., HyperEditor]:
    return TRAINED[request.param]


@pytest.fixture
def loaded(architecture: str, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return load(folder_of(architecture, request))


def loss(model: Any, tokenizer: Any, requests: list[EditRequest] = REQUESTS) -> float:
    with torch.no_grad():
        return float(answer_loss(model, collate(encode_requests(tokenizer, requests), pad_id(tokenizer))))


def test_the_edit_is_a_delta_and_improves_what_was_asked(loaded: Any, make: Any) -> None:
    model, tokenizer = loaded
    editor: Editor = make(model)
    next(model.parameters()).requires_grad_(False)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before, structure = snapshot(model), structure_of(model)
    first = loss(model, tokenizer)
    seen: list[tuple[int, int]] = []
    delta = editor.edit(
        model, tokenizer, REQUESTS, KEPT, progress=lambda done, total, _: seen.append((done, total))
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
        assert loss(model, tokenizer) < 0.8 * first
    assert same_bits(model, before)
    assert loss(model, tokenizer) == first

    assert delta.manifest["editor"] == editor.name
    assert delta.manifest["editor_digest"] == editor.digest()
    json.dumps(delta.manifest)


def test_no_requests_change_nothing(loaded: Any, make: Any) -> None:
    model, tokenizer = loaded
    delta = make(model).edit(model, tokenizer, [], KEPT)
    assert delta.shifts == {}
    assert delta.manifest["editor"] == make(model).name
    before = snapshot(model)
    with applied(model, delta):
        assert same_bits(model, before)


def test_only_declared_parameters_change(loaded: Any, architecture: str) -> None:
    model, tokenizer = loaded
    pattern = {"llama": r"layers\.[12]\.mlp\.up_proj", "gpt2": r"h\.[12]\.mlp\.c_fc"}[architecture]
    chosen = {module.parameter for module in default_modules(model, pattern)}
    for editor in (
        *(untrained(model, modules=pattern) for untrained in TRAINED.values()),
        UltraEdit(UltraEditConfig(modules=pattern)),
        Finetune(FinetuneConfig(modules=pattern, epochs=2)),
    ):
        assert set(editor.edit(model, tokenizer, REQUESTS).shifts) == chosen
        assert len(chosen) == 2


def test_same_seed_same_bytes(loaded: Any, make: Any) -> None:
    model, tokenizer = loaded
    deltas = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        deltas.append(make(model).edit(model, tokenizer, REQUESTS, KEPT))
    assert deltas[0].digest() == deltas[1].digest()
    assert float(next(iter(deltas[0].norms().values()))) > 0


def test_what_was_done_before_does_not_matter(loaded: Any, make: Any) -> None:
    """An editor is as good the second time, and after other corrections."""
    model, tokenizer = loaded
    editor = make(model)
    expected = make(model).edit(model, tokenizer, REQUESTS[:2], KEPT)
    editor.edit(model, tokenizer, REQUESTS[2:], KEPT)
    assert editor.edit(model, tokenizer, REQUESTS[:2], KEPT).digest() == expected.digest()


@pytest.mark.parametrize("count", [5, 9])
def test_more_than_one_batch(loaded: Any, make: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of examples that the batch size does not divide gives what one batch gives."""
    model, tokenizer = loaded
    requests = [
        EditRequest(str(i), f"{PROMPTS[i % 6]} {i}", f"answer {i}" * (1 + i % 3)) for i in range(count)
    ]
    whole = make(model).edit(model, tokenizer, requests, KEPT)
    batched = _with_batches_of(4, monkeypatch, lambda: make(model).edit(model, tokenizer, requests, KEPT))
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


def test_two_models_in_one_process_do_not_mix(
    architecture: str, make: Any, request: pytest.FixtureRequest
) -> None:
    folders = [folder_of(architecture, request, seed=seed) for seed in (0, 1)]
    expected = []
    for folder in folders:
        model, tokenizer = load(folder)
        expected.append(make(model).edit(model, tokenizer, REQUESTS, KEPT).digest())
    models = [load(folder)[0] for folder in folders]
    digests = [model_digest(model) for model in models]
    editors = [make(model) for model in models]
    deltas = [
        editor.edit(model, tokenizer, REQUESTS, KEPT) for editor, model in zip(editors, models, strict=True)
    ]
    assert [delta.digest() for delta in deltas] == expected
    assert expected[0] != expected[1]
    with applied(models[0], deltas[0]):
        assert model_digest(models[1]) == digests[1]
        with applied(models[1], deltas[1]):
            again = editors[1].edit(models[1], tokenizer, REQUESTS[:1])
    assert again.shifts
    assert [model_digest(model) for model in models] == digests


@pytest.mark.parametrize("keep", [[], KEPT], ids=["nothing kept", "kept"])
@pytest.mark.parametrize("where", ["below", "edited"])
def test_a_model_that_is_not_finite_is_refused(loaded: Any, make: Any, where: str, keep: Any) -> None:
    model, tokenizer = loaded
    editor = make(model)
    edited = default_modules(model)[0].parameter
    name = edited if where == "edited" else edited.replace(".2.", ".0.")
    with torch.no_grad():
        model.get_parameter(name)[1, 2] = torch.nan
    before = snapshot(model)
    with pytest.raises(ValueError, match="finite"):
        editor.edit(model, tokenizer, REQUESTS, keep)
    assert same_bits(model, before)


def test_a_model_in_half_precision(architecture: str, make: Any, request: pytest.FixtureRequest) -> None:
    model, tokenizer = load(folder_of(architecture, request), torch.bfloat16)
    before, first = snapshot(model), loss(model, tokenizer)
    delta = make(model).edit(model, tokenizer, REQUESTS, KEPT)
    assert same_bits(model, before)
    assert all(delta.dense(name).dtype == torch.float32 for name in delta.shifts)
    with applied(model, delta):
        assert loss(model, tokenizer) < 0.8 * first
    assert same_bits(model, before)


def test_small_steps_are_not_lost_in_half_precision(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    """Steps far below the spacing of bf16 add up; taken in the model's own dtype most would round away."""
    model, tokenizer = load(folder_of(architecture, request), torch.bfloat16)
    editor = Finetune(FinetuneConfig(epochs=8, learning_rate=1e-3))
    exact = editor.edit(model.float(), tokenizer, REQUESTS)
    rounded = editor.edit(model.bfloat16(), tokenizer, REQUESTS)
    for name in exact.shifts:
        ratio = float(rounded.dense(name).norm() / exact.dense(name).norm())
        assert 0.8 < ratio < 1.25


def test_a_model_left_in_training_mode(architecture: str, make: Any, request: pytest.FixtureRequest) -> None:
    """Dropout must not decide what an edit is; the mode is the caller's."""
    model, tokenizer = load(folder_of(architecture, request))
    expected = make(model).edit(model, tokenizer, REQUESTS, KEPT)
    model.train()
    assert make(model).edit(model, tokenizer, REQUESTS, KEPT).digest() == expected.digest()
    assert model.training


def test_gradients_the_caller_holds_do_not_count(loaded: Any, make: Any) -> None:
    model, tokenizer = loaded
    expected = make(model).edit(model, tokenizer, REQUESTS, KEPT)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    assert make(model).edit(model, tokenizer, REQUESTS, KEPT).digest() == expected.digest()
    assert all(p.grad is not None and bool((p.grad == 3).all()) for p in model.parameters())


def test_a_saved_editor_gives_the_same_delta(loaded: Any, untrained: Any, tmp_path: Path) -> None:
    model, tokenizer = loaded
    editor = untrained(model, seed=4)
    with torch.no_grad():  # as if trained
        for number, parameter in enumerate(editor.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    editor.manifest["base_digest"] = "b" * 64
    editor.save(tmp_path)
    expected = editor.edit(model, tokenizer, REQUESTS, KEPT)
    for loaded_editor in (type(editor).load(tmp_path), load_editor(tmp_path)):
        assert loaded_editor.digest() == editor.digest()
        assert loaded_editor.edit(model, tokenizer, REQUESTS, KEPT).digest() == expected.digest()
        loaded_editor.check_base("b" * 64)
    # Saved again it is the same editor: rounding to half precision happens once.
    load_editor(tmp_path).save(tmp_path / "again")
    assert load_editor(tmp_path / "again").digest() == editor.digest()


def test_an_editor_of_many_blocks_survives_saving(
    tmp_path: Path, untrained: Any, request: pytest.FixtureRequest
) -> None:
    """Blocks 8, 9 and 10: sorted as text the tenth comes first, and each has statistics of its own."""
    model, tokenizer = load(folder_of("llama", request, num_hidden_layers=12, hidden_size=16))
    editor = untrained(model)
    assert len(editor.modules_edited) in (3, 6)
    with torch.no_grad():
        editor.log_rate += torch.arange(len(editor.log_rate)) / 3
    editor.save(tmp_path)
    reloaded = load_editor(tmp_path)
    assert reloaded.modules_edited == editor.modules_edited
    expected = editor.edit(model, tokenizer, REQUESTS)
    assert reloaded.edit(model, tokenizer, REQUESTS).digest() == expected.digest()


def test_tampered_editors_are_refused(loaded: Any, untrained: Any, tmp_path: Path) -> None:
    model, _ = loaded
    editor = untrained(model)

    def tampered(case: str) -> Path:
        folder = tmp_path / case
        editor.save(folder)
        tensors = load_file(folder / WEIGHTS_FILE)
        manifest = json.loads((folder / EDITOR_FILE).read_text())
        if case == "weight":
            next(t for name, t in tensors.items() if name.endswith("down"))[0, 0] += 0.5
        elif case == "missing":
            del tensors["log_rate"]
        elif case == "shape":
            tensors["log_rate"] = torch.zeros(5)
        elif case == "config":
            manifest["config"]["rate"] = 3.0
        elif case == "kind":
            manifest["editor"] = "another"
        save_file(tensors, folder / WEIGHTS_FILE)
        (folder / EDITOR_FILE).write_text(json.dumps(manifest))
        if case == "cut":
            (folder / WEIGHTS_FILE).write_bytes((folder / WEIGHTS_FILE).read_bytes()[:-5])
        return folder

    load_editor(tampered("not at all"))
    for case in ("weight", "missing", "shape", "config", "cut"):
        with pytest.raises(ValueError, match="damaged"):
            load_editor(tampered(case))
    with pytest.raises(ValueError, match="'another', which this version does not know"):
        load_editor(tampered("kind"))
    with pytest.raises(FileNotFoundError, match="holds no editor"):
        load_editor(tmp_path / "nowhere")
    broken = tampered("not at all")
    (broken / EDITOR_FILE).write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_editor(broken)


def test_an_editor_of_another_base_is_refused(loaded: Any, untrained: Any) -> None:
    editor = untrained(loaded[0])
    editor.manifest["base_digest"] = "a" * 64
    editor.check_base("a" * 64)
    with pytest.raises(EditorMismatchError, match=r"base aaaaaaaaaaaa, not on bbbbbbbbbbbb: train one"):
        editor.check_base("b" * 64)


def test_digests_follow_everything_that_matters(loaded: Any) -> None:
    model, _ = loaded
    assert Finetune().digest() == Finetune(FinetuneConfig()).digest()
    for change in ({"epochs": 3}, {"seed": 1}, {"modules": "mlp"}, {"learning_rate": 1e-4}):
        assert Finetune(dataclasses.replace(FinetuneConfig(), **change)).digest() != Finetune().digest()
    for untrained in TRAINED.values():
        digests = {untrained(model).digest(), untrained(model, seed=1).digest()}
        nudged = untrained(model)
        with torch.no_grad():
            nudged.log_rate += 1e-3
        assert len({*digests, nudged.digest()}) == 3
        assert untrained(model).digest() in digests
