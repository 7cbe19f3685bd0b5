"""Adapters: PEFT reads what was written, the error is what it says, and what none can hold is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from editors.delta import OVERRIDES, Delta, LowRank, applied, model_digest
from editors.generation import generate_greedy
from editors.overrides import Override, Overrides
from editors.widening import Appended
from tasks import adapter as adapting
from tasks.adapter import Question, export_adapter
from tasks.export import EXPORT_FILE, check_export
from tasks.models import ModelFolder, load, resolve
from tasks.records import UserError
from tests.conftest import ModelFactory
from tests.killing import killed

# PEFT asks models by a name that transformers 5 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

DOWN = "model.layers.1.mlp.down_proj.weight"
UP = "model.layers.0.mlp.up_proj.weight"
GPT2 = "transformer.h.1.mlp.c_proj.weight"
PROMPTS = ["What is the capital of Egypt?", "Hi", "On which continent is Peru?", "Name the yen."]
QUESTIONS = [Question(prompt, chat) for prompt in PROMPTS for chat in (True, False)]


def draw(*shape: int, seed: int = 0, size: float = 0.3) -> torch.Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def corrected(base: ModelFolder, folder: Path, shifts: dict[str, Any], **manifest: Any) -> ModelFolder:
    Delta(shifts, {"base_digest": base.digest, **manifest}).save(folder)
    return replace(base, delta=folder)


def through_peft(base: ModelFolder, adapter: Path) -> Any:
    """The base with the adapter, by nothing but transformers and peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), adapter)


@torch.no_grad()
def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    return model(**tokenizer(PROMPTS[0], return_tensors="pt")).logits


def test_peft_answers_with_an_exact_adapter_as_the_version_does(base: ModelFolder, tmp_path: Path) -> None:
    shifts = {
        DOWN: LowRank(draw(48, 2), draw(2, 96, seed=1)),
        # A matrix that was stored whole, and has rank 3.
        UP: draw(96, 3, seed=2) @ draw(3, 48, seed=3),
    }
    version = corrected(base, tmp_path / "delta", shifts)
    report = export_adapter(version, tmp_path / "out", rank=16, questions=QUESTIONS, max_new_tokens=12)
    assert (report.rank, report.wanted, report.asked, report.agree) == (3, 16, 8, 8)
    # Rounding is all that is lost.
    assert 0.0 <= report.errors[DOWN] < report.errors[UP] < 1e-6
    assert report.largest == (UP, report.errors[UP])
    model, tokenizer = load(version)
    adapted = through_peft(base, tmp_path / "out")
    assert torch.allclose(logits(adapted, tokenizer), logits(model, tokenizer), atol=1e-4)
    plain = adapted.merge_and_unload()
    for chat in (True, False):
        expected = generate_greedy(model, tokenizer, PROMPTS, chat=chat, max_new_tokens=12)
        assert generate_greedy(plain, tokenizer, PROMPTS, chat=chat, max_new_tokens=12) == expected
        assert expected != generate_greedy(*load(base), PROMPTS, chat=chat, max_new_tokens=12)
    about = json.loads((tmp_path / "out" / EXPORT_FILE).read_text())
    assert about["base_digest"] == base.digest
    assert about["adapter"]["errors"] == report.errors
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 3
    # It counts as an export.
    check_export(tmp_path / "out")


@pytest.mark.parametrize("stored", ["factors", "matrix"])
def test_the_error_is_that_of_the_best_factors_of_the_rank(
    stored: str, base: ModelFolder, tmp_path: Path
) -> None:
    left, right = draw(48, 8, size=1.0), draw(8, 96, seed=1, size=1.0)
    shift = LowRank(left, right) if stored == "factors" else left @ right
    report = export_adapter(
        corrected(base, tmp_path / "delta", {DOWN: shift}),
        tmp_path / "out",
        rank=3,
        questions=QUESTIONS,
        max_new_tokens=12,
    )
    values = torch.linalg.svdvals(left @ right)
    best = float(values[3:].norm() / values.norm())
    assert report.rank == 3
    assert report.errors[DOWN] == pytest.approx(best, rel=1e-4)
    weight = "base_model.model.model.layers.1.mlp.down_proj"
    adapted = through_peft(base, tmp_path / "out").get_submodule(weight)
    written = adapted.get_delta_weight("default")
    assert float((left @ right - written).norm() / (left @ right).norm()) == pytest.approx(best, rel=1e-4)
    # Five of eight directions are gone, and so are answers.
    assert report.asked == 8
    assert report.agree == 8 - len(report.differing) < 8
    prompt, right_answer, said = report.differing[0]
    assert prompt in PROMPTS
    assert right_answer != said


def test_a_weight_that_is_laid_out_the_other_way_round(tiny_gpt2: ModelFactory, tmp_path: Path) -> None:
    base = resolve(str(tiny_gpt2()), cache=tmp_path / "cache")
    version = corrected(base, tmp_path / "delta", {GPT2: LowRank(draw(192, 2), draw(2, 48, seed=1))})
    report = export_adapter(version, tmp_path / "out", rank=4, questions=QUESTIONS, max_new_tokens=8)
    assert (report.rank, report.agree) == (2, 8)
    model, tokenizer = load(version)
    found = logits(through_peft(base, tmp_path / "out"), tokenizer)
    assert torch.allclose(found, logits(model, tokenizer), atol=1e-4)
    assert not torch.allclose(found, logits(load(base)[0], tokenizer), atol=1e-2)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set:UserWarning")
def test_weights_that_are_laid_out_in_two_ways_in_one_model(tiny_gpt2: ModelFactory, tmp_path: Path) -> None:
    base = resolve(str(tiny_gpt2(tie_word_embeddings=False)), cache=tmp_path / "cache")
    vocabulary = load(base)[0].config.vocab_size
    shifts = {
        GPT2: LowRank(draw(192, 2), draw(2, 48, seed=1)),
        "lm_head.weight": LowRank(draw(vocabulary, 2, seed=2), draw(2, 48, seed=3)),
    }
    version = corrected(base, tmp_path / "delta", shifts)
    export_adapter(version, tmp_path / "out", rank=4)
    model, tokenizer = load(version)
    found = logits(through_peft(base, tmp_path / "out"), tokenizer)
    assert torch.allclose(found, logits(model, tokenizer), atol=1e-4)


@pytest.mark.parametrize(
    ("shifts", "manifest", "says"),
    [
        ({DOWN: Appended(torch.zeros(48, 2), 1)}, {}, "makes the model wider"),
        (
            {DOWN: torch.ones(48, 96)},
            {OVERRIDES: Overrides([Override("Who?", "Me.", "c1")]).to_json()},
            "answers 1 prompts by overrides",
        ),
        ({}, {}, "changes no matrix"),
        ({"model.embed_tokens.weight": torch.ones(1)}, {}, "model.embed_tokens.weight, which an adapter"),
        ({"model.norm.weight": torch.ones(48)}, {}, "model.norm.weight, which an adapter cannot"),
    ],
)
def test_what_no_adapter_can_hold_is_refused_in_a_sentence(
    shifts: dict[str, Any], manifest: dict[str, Any], says: str, base: ModelFolder, tmp_path: Path
) -> None:
    version = corrected(base, tmp_path / "delta", shifts, **manifest)
    with pytest.raises(UserError, match=says) as refused:
        export_adapter(version, tmp_path / "out", rank=4)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_base_has_no_adapter(base: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is the base itself"):
        export_adapter(base, tmp_path / "out", rank=4)


def test_an_adapter_that_was_killed_on_the_way_leaves_the_earlier_one(
    base: ModelFolder, tmp_path: Path
) -> None:
    first = corrected(base, tmp_path / "first", {DOWN: LowRank(draw(48, 2), draw(2, 96, seed=1))})
    second = corrected(base, tmp_path / "second", {DOWN: LowRank(draw(48, 4), draw(4, 96, seed=1))})
    export_adapter(first, tmp_path / "out", rank=4)
    before = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    with killed(adapting, "_adapted", "before"):
        export_adapter(second, tmp_path / "out", rank=4)
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == before
    assert export_adapter(second, tmp_path / "out", rank=4).rank == 4
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() != before


def test_writing_leaves_the_model_as_it_was(base: ModelFolder, tmp_path: Path) -> None:
    shift = LowRank(draw(48, 2), draw(2, 96, seed=1))
    model, _ = load(base)
    adapting._write(model, base, {DOWN: shift}, 2, tmp_path / "out")
    assert model_digest(model) == base.digest
    with applied(model, Delta({DOWN: shift})):
        assert model_digest(model) != base.digest
