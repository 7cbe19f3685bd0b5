"""What editors that write at the subject promise: a delta for what was asked, and a model left as it was."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from editors.alphaedit import AlphaEdit
from editors.capture import answer_loss
from editors.delta import applied
from editors.key_statistics import KeyStatistics
from editors.locate import default_modules
from editors.memit import Memit
from editors.patcher import Patcher, PatcherConfig
from editors.requests import EditRequest, collate, pad_id
from editors.rome import Rome
from editors.subject_editing import SubjectEditor
from editors.value_optimisation import ValueConfig, read_contexts
from tests.editors.subject_cases import KEPT, MAKE, QUICK, REQUESTS, TEXT, TWO_LAYERS
from tests.editors.tools import folder_of, load, same_bits, snapshot, structure_of


@pytest.fixture(params=list(MAKE))
def make(request: pytest.FixtureRequest) -> Callable[..., SubjectEditor]:
    return MAKE[request.param]


def edit_loss(model: Any, tokenizer: Any) -> float:
    examples = [
        row.example
        for context in read_contexts(tokenizer, REQUESTS, ["Egypt", "Peru", "Japan"], [])
        for row in context.rows
    ]
    with torch.no_grad():
        return float(answer_loss(model, collate(examples, pad_id(tokenizer))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_edit_is_a_delta_and_improves_what_was_asked(
    architecture: str, dtype: torch.dtype, make: Any, request: pytest.FixtureRequest
) -> None:
    model, tokenizer = load(folder_of(architecture, request), dtype)
    statistics = KeyStatistics.gather(model, tokenizer, default_modules(model, depth=(0, 0.7)), TEXT)
    editor, strong = (
        make(statistics),
        ValueConfig(steps=20, rate=0.1, clamp=3.0, prefixes=0, weight_decay=0.0),
    )
    editor = make(statistics, strong) if editor.name == "rome" else make(statistics, strong, strength=1e-3)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before, structure, first = snapshot(model), structure_of(model), edit_loss(model, tokenizer)
    seen: list[tuple[int, int]] = []
    delta = editor.edit(
        model, tokenizer, REQUESTS, progress=lambda done, total, _: seen.append((done, total))
    )
    assert same_bits(model, before)
    assert structure_of(model) == structure
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert seen[-1][0] == seen[-1][1]
    assert set(delta.shifts) == {module.parameter for module in editor.modules(model)}
    assert all(delta.dense(name).dtype == torch.float32 for name in delta.shifts)
    with applied(model, delta):
        assert edit_loss(model, tokenizer) < 0.95 * first
    assert same_bits(model, before)
    assert delta.manifest["editor"] == editor.name
    assert delta.manifest["editor_digest"] == editor.digest()
    json.dumps(delta.manifest)


@pytest.mark.parametrize("name", [*MAKE, "patcher"])
def test_a_model_that_joins_rows_before_its_mlps_is_edited_alike(
    name: str, request: pytest.FixtureRequest
) -> None:
    """As an OPT does: its MLPs read (rows * length, d)."""
    patcher = Patcher(PatcherConfig(steps=2, value=QUICK))
    digests = []
    for joins in (False, True):
        model, tokenizer = load(folder_of("llama", request))
        for layer in model.model.layers if joins else []:
            layer.mlp.forward = _joined(layer.mlp.forward)
        editor = patcher if name == "patcher" else MAKE[name]()
        editor.statistics = KeyStatistics.gather(model, tokenizer, editor.modules(model), TEXT)
        digests.append(editor.edit(model, tokenizer, REQUESTS, KEPT).digest())
    assert digests[0] == digests[1]


def _joined(forward: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return lambda hidden: forward(hidden.flatten(0, 1)).view(hidden.shape)


def test_no_requests_change_nothing(loaded: Any, make: Any) -> None:
    assert make().edit(*loaded, [], KEPT).shifts == {}


def test_same_seed_same_bytes_whatever_state_the_model_is_in(loaded: Any, make: Any) -> None:
    model, tokenizer = loaded
    editor = make()
    expected = editor.edit(model, tokenizer, REQUESTS, KEPT)
    torch.manual_seed(77)
    state = torch.random.get_rng_state()
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert editor.edit(model, tokenizer, REQUESTS, KEPT).digest() == expected.digest()
    assert model.training
    assert all(p.grad is not None and bool((p.grad == 1).all()) for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    other = make(seed=editor.config.seed + 1)
    assert other.digest() != editor.digest()
    assert other.edit(model, tokenizer, REQUESTS, KEPT).digest() != expected.digest()


@pytest.mark.parametrize("block", [0, 2])
def test_a_model_that_is_not_finite_is_refused(loaded: Any, make: Any, block: int) -> None:
    model, tokenizer = loaded
    name = default_modules(model)[0].parameter.replace(".2.", f".{block}.")
    with torch.no_grad():
        model.get_parameter(name)[1, 2] = torch.nan
    before = snapshot(model)
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} of the model is not finite"):
        make().edit(model, tokenizer, REQUESTS, KEPT)
    assert same_bits(model, before)


def test_statistics_given_are_used_and_kept_on_disk(loaded: Any, make: Any, tmp_path: Path) -> None:
    model, tokenizer = loaded
    without = make()
    gathered = KeyStatistics.gather(model, tokenizer, without.modules(model), seed=without.config.seed)
    gathered.save(tmp_path / "statistics")
    stored = KeyStatistics.load(tmp_path / "statistics")
    assert stored.tokens == gathered.tokens > 200
    expected = without.edit(model, tokenizer, REQUESTS)
    assert make(stored).edit(model, tokenizer, REQUESTS).digest() == expected.digest()
    assert make(stored).digest() != without.digest()
    text = KeyStatistics.gather(model, tokenizer, without.modules(model), TEXT)
    assert make(text).edit(model, tokenizer, REQUESTS).digest() != expected.digest()

    (tmp_path / "statistics").write_bytes((tmp_path / "statistics").read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        KeyStatistics.load(tmp_path / "statistics")
    with pytest.raises(ValueError, match=r"do not fit .*: gather them for this model"):
        make(KeyStatistics({}, 0)).edit(model, tokenizer, REQUESTS)
    broken = KeyStatistics({name: m * torch.nan for name, m in stored.moments.items()}, stored.tokens)
    with pytest.raises(ValueError, match="not finite"):
        make(broken).edit(model, tokenizer, REQUESTS)


def test_chunks_give_what_one_batch_gives(loaded: Any, make: Any, statistics: KeyStatistics) -> None:
    """For ROME a chunk's values do not see the requests before it, so only the least-squares ones."""
    if make is MAKE["rome"]:
        pytest.skip("ROME's chunks are in sequence by definition")
    model, tokenizer = loaded
    whole, parts = (
        make(statistics, dataclasses.replace(QUICK, chunk=size)).edit(model, tokenizer, REQUESTS)
        for size in (16, 2)
    )
    for name in whole.shifts:
        scale = float(whole.dense(name).abs().max())
        torch.testing.assert_close(parts.dense(name), whole.dense(name), rtol=0.05, atol=0.03 * scale)


def test_what_cannot_be_edited_is_said_by_name(
    loaded: Any, architecture: str, make: Any, statistics: KeyStatistics
) -> None:
    model, tokenizer = loaded
    before = snapshot(model)
    nameless = EditRequest("nameless", "what is it called?", "x")
    with pytest.raises(ValueError, match="prompt 'what is it called\\?': give its `subject`"):
        make().edit(model, tokenizer, [nameless])
    if make is MAKE["rome"]:
        with pytest.raises(ValueError, match="ROME edits one module, `modules` names 2"):
            make(statistics, modules=TWO_LAYERS[architecture]).edit(model, tokenizer, REQUESTS)
    else:
        inner = {"llama": r"layers\.0\.mlp\.up_proj", "gpt2": r"h\.0\.mlp\.c_fc"}[architecture]
        own = KeyStatistics.gather(model, tokenizer, default_modules(model, inner), TEXT)
        if make is MAKE["memit-joint"]:
            # Its values are outputs of the module itself, wherever that writes.
            edited = make(own, modules=inner).edit(model, tokenizer, REQUESTS)
            assert [name for name, shift in edited.shifts.items() if shift.any()] == list(edited.shifts)
            return
        with pytest.raises(ValueError, match="does not write to the residual stream"):
            make(own, modules=inner).edit(model, tokenizer, REQUESTS)
    assert same_bits(model, before)


def test_defaults_lie_where_the_papers_edit() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=8, num_hidden_layers=32,
                         num_attention_heads=1, num_key_value_heads=1)  # fmt: skip
    model = LlamaForCausalLM(config)
    (only,) = Rome().modules(model)
    assert only.name == "model.layers.5.mlp.down_proj"
    expected = [f"model.layers.{n}.mlp.down_proj" for n in (5, 6, 7, 8)]
    assert [m.name for m in Memit().modules(model)] == expected
    assert [m.name for m in AlphaEdit().modules(model)] == expected


def test_other_kinds_of_model_are_refused(make: Any, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = folder_of("t5", request)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="edits decoder-only language models; take another editor"):
        make().edit(model, tokenizer, REQUESTS)
