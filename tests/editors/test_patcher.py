"""Neurons of their own for corrections: they fire at their subjects and make a model wider."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from editors.delta import Delta, applied
from editors.gather import encode_kept
from editors.key_statistics import KeyStatistics
from editors.locate import blocks
from editors.neurons import mlp_of
from editors.new_neurons import NewNeurons
from editors.patcher import Patcher, PatcherConfig, at_stake
from editors.protocol import Kept
from editors.replay import PrefixCache
from editors.requests import EditRequest, collate, encode, pad_id
from editors.subject_editing import Job
from editors.value_optimisation import ValueConfig
from tests.editors.subject_cases import KEPT, REQUESTS
from tests.editors.test_subject_editors import edit_loss
from tests.editors.tools import PROMPTS, folder_of, load, same_bits, snapshot, structure_of
from validation.parameters import parameter_changes

QUICK = PatcherConfig(steps=30, rate=2.0, value=ValueConfig(prefixes=2, prefix_tokens=4))
FIRST_TWO = {"llama": r"layers\.[01]\.mlp\.", "gpt2": r"h\.[01]\.mlp\."}


@pytest.fixture
def patcher(architecture: str) -> Patcher:
    return Patcher(dataclasses.replace(QUICK, modules=FIRST_TWO[architecture]))


def logits(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).logits[0].float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_edit_is_new_neurons_and_improves_what_was_asked(
    architecture: str, dtype: torch.dtype, patcher: Patcher, request: pytest.FixtureRequest
) -> None:
    model, tokenizer = load(folder_of(architecture, request), dtype)
    before, structure, first = snapshot(model), structure_of(model), edit_loss(model, tokenizer)
    configuration, width = model.config.to_dict(), mlp_of(model, blocks(model)[0][0]).output.d_in
    seen: list[tuple[int, int]] = []
    delta = patcher.edit(
        model, tokenizer, REQUESTS, KEPT, progress=lambda done, total, _: seen.append((done, total))
    )
    assert same_bits(model, before)
    assert structure_of(model) == structure
    assert seen[-1][0] == seen[-1][1]
    assert delta.manifest["editor_digest"] == patcher.digest()
    json.dumps(delta.manifest)
    with applied(model, delta):
        assert edit_loss(model, tokenizer) < 0.7 * first
        wider = [mlp_of(model, name).output.d_in for name, _ in blocks(model)]
        assert wider == [width + len(REQUESTS)] * len(wider)
    assert same_bits(model, before)
    assert structure_of(model) == structure
    assert model.config.to_dict() == configuration


def at_gates(loaded: Any, gate: str, neurons: int, prompt: str) -> torch.Tensor:
    """What the gates of the new neurons say at a prompt: (tokens, neurons)."""
    model, tokenizer = loaded
    heard: list[torch.Tensor] = []
    handle = model.get_submodule(gate).register_forward_hook(lambda _, __, out: heard.append(out[0]))
    logits(model, tokenizer, prompt)
    handle.remove()
    return heard[0][:, -neurons:]


def test_neurons_are_open_at_their_subjects_and_shut_elsewhere(loaded: Any, patcher: Patcher) -> None:
    model, tokenizer = loaded
    text = [prompt for prompt in PROMPTS if not any(s in prompt for s in ("Egypt", "Peru", "Japan"))]
    statistics = KeyStatistics.gather(model, tokenizer, patcher.modules(model), text)
    delta = Patcher(patcher.patch, statistics).edit(model, tokenizer, REQUESTS)
    gate = patcher.modules(model)[0].name
    with applied(model, delta):
        elsewhere = torch.cat([at_gates(loaded, gate, len(REQUESTS), prompt) for prompt in text])
        # The third request is raw text, and its subject is the token before the last.
        japan = at_gates(loaded, gate, len(REQUESTS), "The currency used in Japan is")[:, 2]
    assert float((elsewhere > 0).float().mean()) < 0.1
    assert int(japan.argmax()) == len(japan) - 2
    assert float(japan.max()) > 0


def test_kept_prompts_are_at_stake_only_where_a_neuron_opens(loaded: Any, patcher: Patcher) -> None:
    """The neuron is open at one token of one of three prompts, and at their padding."""
    model, tokenizer = loaded
    mlp = mlp_of(model, blocks(model)[0][0])
    kept = encode_kept(tokenizer, [Kept(text, " x", chat=False) for text in ("Japan is", "gold", "Peru was")])
    batch = collate(kept, pad_id(tokenizer))
    heard: list[torch.Tensor] = []
    handle = model.get_submodule(mlp.gate.name).register_forward_hook(lambda _, args, __: heard.append(*args))
    with torch.no_grad():
        batch.kind.read(model, batch)
    handle.remove()
    keys, read = heard[0], batch.attention_mask.bool()
    wanted = torch.where(read, -1.0, 1.0)
    wanted[2, 0] = 1.0
    reads = 20 * torch.linalg.lstsq(keys.flatten(0, 1).double(), wanted.flatten().double()).solution
    opens = torch.linalg.lstsq(
        keys.flatten(0, 1).double(), torch.ones(keys[..., 0].numel()).double()
    ).solution
    new = NewNeurons(mlp, reads[None].float(), opens[None].float(), torch.zeros(1, mlp.output.d_out), 0.0)
    modules = patcher.modules(model)
    job = Job(model, modules, {}, {}, 0, (), pad_id(tokenizer), PrefixCache(model, modules), {}, {}, kept)
    assert at_stake(job, [new], 0.15) == [kept[2]]
    assert at_stake(job, [new], 100.0) == []
    # Of the neurons of a block it counts what they are together.
    half = dataclasses.replace(new, reads=new.reads.repeat(2, 1), opens=new.opens.repeat(2, 1) / 2)
    half = dataclasses.replace(half, says=half.says.repeat(2, 1))
    (widest,) = (n for n in range(1, 60) if at_stake(job, [new], n) and not at_stake(job, [new], n + 1))
    assert at_stake(job, [half], widest - 0.5) == [kept[2]]


def test_each_of_more_subjects_than_a_layer_has_inputs_opens_its_neuron(
    loaded: Any, patcher: Patcher
) -> None:
    model, tokenizer = loaded
    modules = patcher.modules(model)
    names = [
        f"{first}{last}"
        for first in "BDFGKLMNPRST"
        for last in ("alon", "emir", "idor", "oran", "urim", "ysel")
    ]
    assert len(names) > modules[0].d_in
    requests = [
        EditRequest(name, f"The home of {name} is", " Peru", subject=name, chat=False) for name in names
    ]
    statistics = KeyStatistics.gather(model, tokenizer, modules, PROMPTS)
    untold = Patcher(dataclasses.replace(patcher.patch, steps=0), statistics)
    delta = untold.edit(model, tokenizer, requests)
    with applied(model, delta):
        own = [
            float(at_gates(loaded, modules[0].name, len(names), f"The home of {name}")[-1, number])
            for number, name in enumerate(names)
        ]
    assert sum(one > 0 for one in own) > 0.95 * len(names)


def test_a_wider_model_is_saved_and_loaded_as_any_other(
    loaded: Any, patcher: Patcher, tmp_path: Path, request: pytest.FixtureRequest, architecture: str
) -> None:
    model, tokenizer = loaded
    delta = patcher.edit(model, tokenizer, REQUESTS)
    delta.save(tmp_path / "delta")
    stored = Delta.load(tmp_path / "delta")
    assert stored.digest() == delta.digest()
    with applied(model, stored):
        expected = logits(model, tokenizer, "What is the capital of Egypt?")
        model.save_pretrained(tmp_path / "model")
        base = load(folder_of(architecture, request))[0]
        changes = parameter_changes(base, model, stored)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(logits(again, tokenizer, "What is the capital of Egypt?"), expected)
    # Biases of new neurons are zero.
    assert set(changes.changed) == {name for name in delta.shifts if delta.dense(name).any()}
    assert changes.undeclared == ()
    assert changes.largest_relative_norm is None
    with torch.no_grad():
        again.get_parameter(mlp_of(again, blocks(again)[-1][0]).gate.parameter)[-1, -1] = 1.0
    assert parameter_changes(base, again, stored).undeclared


def test_same_seed_same_bytes_and_no_requests_no_neurons(loaded: Any, patcher: Patcher) -> None:
    model, tokenizer = loaded
    assert patcher.edit(model, tokenizer, [], KEPT).shifts == {}
    expected = patcher.edit(model, tokenizer, REQUESTS, KEPT).digest()
    model.train()
    assert patcher.edit(model, tokenizer, REQUESTS, KEPT).digest() == expected
    assert model.training


def test_two_corrections_of_one_subject_share_its_neuron(loaded: Any, patcher: Patcher) -> None:
    model, tokenizer = loaded
    requests = [
        EditRequest("capital", "What is the capital of Egypt?", "Lima", subject="Egypt"),
        EditRequest("currency", "What is the currency of Egypt?", "The yen", subject="Egypt"),
    ]
    delta = patcher.edit(model, tokenizer, requests)
    gate = delta.shifts[patcher.modules(model)[0].parameter]
    assert 1 in gate.values.shape  # type: ignore[union-attr]

    def loss() -> float:
        from editors.capture import answer_loss

        rows = [encode(tokenizer, r.prompt, r.target, chat=True) for r in requests]
        with torch.no_grad():
            return float(answer_loss(model, collate(rows, pad_id(tokenizer))))

    first = loss()
    with applied(model, delta):
        assert loss() < 0.8 * first


def test_the_gate_is_found_by_what_it_does(loaded: Any, architecture: str) -> None:
    model, _ = loaded
    mlp = mlp_of(model, blocks(model)[1][0])
    found = [mlp.gate.name, mlp.up and mlp.up.name, mlp.output.name]
    assert [name and name.rpartition(".")[2] for name in found] == {
        "llama": ["gate_proj", "up_proj", "down_proj"],
        "gpt2": ["c_fc", None, "c_proj"],
    }[architecture]


def test_what_cannot_be_edited_is_said(loaded: Any, patcher: Patcher, request: pytest.FixtureRequest) -> None:
    model, tokenizer = loaded
    with pytest.raises(ValueError, match="prompt 'what is it called\\?': give its `subject`"):
        patcher.edit(model, tokenizer, [EditRequest("nameless", "what is it called?", "x")])
    statistics = KeyStatistics.gather(model, tokenizer, patcher.modules(model), PROMPTS)
    with pytest.raises(ValueError, match=r"have no mean for .*; gather them again"):
        Patcher(patcher.patch, dataclasses.replace(statistics, means={})).edit(model, tokenizer, REQUESTS)
    delta = patcher.edit(model, tokenizer, REQUESTS)
    other = Delta({name.replace(".0.", ".9."): shift for name, shift in delta.shifts.items()})
    before = snapshot(model)
    with pytest.raises(ValueError, match="no parameter"), applied(model, other):
        pass
    assert same_bits(model, before)
    with torch.no_grad():
        model.get_parameter(name := patcher.modules(model)[0].parameter)[1, 2] = torch.nan
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} of the model is not finite"):
        patcher.edit(model, tokenizer, REQUESTS)
    folder = folder_of("t5", request)
    from transformers import AutoModelForSeq2SeqLM

    other_kind, its = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="edits decoder-only language models; take another editor"):
        patcher.edit(other_kind, its, REQUESTS)


@pytest.mark.parametrize("architecture", ["bloom", "mpt"])
def test_a_model_that_cannot_get_wider_is_refused_before_anything_is_done(
    architecture: str, request: pytest.FixtureRequest
) -> None:
    model, tokenizer = load(folder_of(architecture, request))
    runs: list[int] = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    with pytest.raises(ValueError, match=rf"a {type(model).__name__} cannot be made wider: .* memit-joint"):
        Patcher().edit(model, tokenizer, REQUESTS)
    assert not runs
