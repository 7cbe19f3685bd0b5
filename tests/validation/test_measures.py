"""The measures that run a model: perplexity, divergence, teacher forcing, and which parameters changed."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from editors.delta import Delta, LowRank, add_in_place
from editors.requests import encode
from editors.widening import Appended
from validation.divergence import answer_log_probs, locality_kl, teacher_forced_success
from validation.parameters import parameter_changes
from validation.perplexity import perplexity
from validation.probes import ARITHMETIC, CODE, PROSE, probes
from validation.thresholds import load_gates

ModelFactory = Callable[..., Path]

PROMPTS = ["What is the capital of Egypt?", "On which continent is Peru?", "Name it."]
ANSWERS = ["The capital of Egypt is Cairo.", "South America.", ""]
OPERATIONS = {"+": operator.add, "-": operator.sub, "x": operator.mul, "/": operator.floordiv}


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(
        folder
    )


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def loaded(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return load(request.getfixturevalue(request.param)())


def one_by_one(model: Any, tokenizer: Any, prompt: str, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and labels at the answer positions, straight from the definition."""
    example = encode(tokenizer, prompt, answer, chat=True)
    with torch.no_grad():
        logits = model(torch.tensor([example.prompt_ids + example.target_ids])).logits[0]
    first = len(example.prompt_ids) - 1
    return logits[first:-1].log_softmax(-1), torch.tensor(example.target_ids)


def test_perplexity_is_that_of_each_text_alone(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    texts = [
        "The capital of Egypt is Cairo.",
        "x",
        "",
        "The yen is used in Japan, and the fox jumps over it.",
    ]
    sums = perplexity(model, tokenizer, texts, batch_size=3, max_tokens=12)
    for text, (nll, tokens) in zip(texts, sums, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:12]])
        if ids.numel() < 2:
            assert (nll, tokens) == (0.0, 0)
            continue
        with torch.no_grad():
            expected = float(model(ids, labels=ids).loss)
        assert tokens == ids.shape[1] - 1
        assert nll / tokens == pytest.approx(expected, rel=1e-4)


def test_an_unchanged_model_has_not_moved(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    model.train()
    champion = answer_log_probs(model, tokenizer, PROMPTS, ANSWERS, chat=True, batch_size=2)
    assert locality_kl(model, tokenizer, PROMPTS, ANSWERS, champion, chat=True, batch_size=2) == [0.0] * 3
    assert model.training, "the model's mode is its own"
    for kept in champion:
        assert kept.log_probs.exp().sum(-1) == pytest.approx(1.0, abs=1e-5)
        assert kept.token_ids.shape[1] == 128


def test_divergence_agrees_with_its_definition(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    before = [one_by_one(model, tokenizer, *pair)[0] for pair in zip(PROMPTS, ANSWERS, strict=True)]
    whole = answer_log_probs(model, tokenizer, PROMPTS, ANSWERS, chat=True, top=10**6)
    part = answer_log_probs(model, tokenizer, PROMPTS, ANSWERS, chat=True, top=20)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    after = [one_by_one(model, tokenizer, *pair)[0] for pair in zip(PROMPTS, ANSWERS, strict=True)]
    expected = [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(before, after, strict=True)]
    assert min(expected) > 0.05
    assert locality_kl(model, tokenizer, PROMPTS, ANSWERS, whole, chat=True) == pytest.approx(
        expected, rel=1e-3
    )
    for bound, kl in zip(
        locality_kl(model, tokenizer, PROMPTS, ANSWERS, part, chat=True), expected, strict=True
    ):
        assert 0.3 * kl < bound <= kl * 1.001


def test_teacher_forcing_counts_the_tokens_ranked_first(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    expected = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        log_probs, labels = one_by_one(model, tokenizer, prompt, answer)
        expected.append(float((log_probs.argmax(-1) == labels).float().mean()))
    assert teacher_forced_success(model, tokenizer, PROMPTS, ANSWERS, chat=True) == pytest.approx(expected)


def test_a_model_of_nans_is_nowhere_near(tiny_llama: ModelFactory) -> None:
    model, tokenizer = load(tiny_llama())
    champion = answer_log_probs(model, tokenizer, PROMPTS, ANSWERS, chat=True)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = math.nan
    assert locality_kl(model, tokenizer, PROMPTS, ANSWERS, champion, chat=True) == [math.inf] * 3
    assert teacher_forced_success(model, tokenizer, PROMPTS, ANSWERS, chat=True) == [0.0] * 3
    assert all(math.isnan(nll) for nll, _ in perplexity(model, tokenizer, ["The fox jumps."]))


def test_changes_are_found_and_held_against_what_was_declared(tiny_llama: ModelFactory) -> None:
    base, _ = load(tiny_llama())
    candidate, _ = load(tiny_llama())
    declared = "model.layers.1.mlp.down_proj.weight"
    shift = torch.zeros_like(base.get_parameter(declared))
    shift[0, 0] = 1e-3
    delta = Delta({declared: shift})
    nothing = parameter_changes(base, candidate, delta)
    assert (nothing.changed, nothing.undeclared, nothing.non_finite) == ((), (declared,), ())
    assert nothing.largest_relative_norm == 0
    with torch.no_grad():
        candidate.get_parameter(declared)[0, 0] += 1e-3
        candidate.model.norm.weight[0] = math.inf
        candidate.model.embed_tokens.weight[0, 0] += 1.0
    found = parameter_changes(base.state_dict(), candidate, delta)
    assert found.changed == ("model.embed_tokens.weight", declared, "model.norm.weight")
    assert found.undeclared == ("model.embed_tokens.weight", "model.norm.weight")
    assert found.non_finite == ("model.norm.weight",)
    assert found.compared == nothing.compared == len(list(candidate.parameters()))


def test_a_shift_is_what_the_delta_says_and_no_other(tiny_llama: ModelFactory) -> None:
    base, _ = load(tiny_llama())
    name = "model.layers.1.mlp.down_proj.weight"
    rows, columns = base.get_parameter(name).shape
    delta = Delta({name: LowRank(torch.randn(rows, 2) * 0.1, torch.randn(2, columns))})
    candidate, _ = load(tiny_llama())
    add_in_place(candidate, delta)
    once = parameter_changes(base, candidate, delta)
    assert (once.changed, once.undeclared) == ((name,), ())
    expected = float(delta.dense(name).norm() / base.get_parameter(name).detach().norm())
    assert once.largest_relative_norm == pytest.approx(expected, rel=1e-3)
    add_in_place(candidate, delta)
    twice = parameter_changes(base, candidate, delta)
    assert twice.undeclared == (name,)
    assert twice.largest_relative_norm == pytest.approx(2 * expected, rel=1e-3)
    with torch.no_grad():
        candidate.get_parameter(name)[0, 0] = math.nan
    assert math.isnan(parameter_changes(base, candidate, delta).largest_relative_norm)


def test_what_is_appended_has_no_relative_norm_and_what_is_changed_beside_it_has() -> None:
    class Mlp(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(2, width, bias=False), nn.Linear(width, 2, bias=False)

    base, wider = Mlp(3), Mlp(4)
    shifts = {"up.weight": Appended(torch.full((1, 2), 1e6), 0), "down.weight": Appended(torch.ones(2, 1), 1)}
    with torch.no_grad():
        for name, shift in shifts.items():
            joined = torch.cat([base.get_parameter(name), shift.values], shift.dim)
            wider.get_parameter(name).copy_(joined)
    found = parameter_changes(base, wider, Delta(shifts))
    assert (found.undeclared, found.largest_relative_norm) == ((), None)
    both = Delta({"up.weight": shifts["up.weight"], "down.weight": torch.ones(2, 4)})
    assert parameter_changes(base, wider, both).largest_relative_norm is not None
    assert parameter_changes(base, base, Delta({})).largest_relative_norm == 0


def test_parameters_missing_added_or_of_another_type_are_undeclared(tiny_llama: ModelFactory) -> None:
    base, _ = load(tiny_llama())
    candidate, _ = load(tiny_llama())
    state = dict(base.state_dict())
    state["gone.weight"] = torch.zeros(1)
    del state["model.norm.weight"]
    name = "model.layers.0.mlp.up_proj.weight"
    state[name] = state[name].half()
    assert parameter_changes(state, candidate, Delta({})).undeclared == (
        "gone.weight",
        name,
        "model.norm.weight",
    )


def test_the_prose_is_plenty_and_plain() -> None:
    texts = probes()[PROSE]
    assert len(texts) >= 60
    assert len(set(texts)) == len(texts)
    assert all(60 <= len(text.split()) <= 90 for text in texts)
    together = " ".join(texts).casefold()
    assert not [word for word in ("capital of", "currency", "country", "continent") if word in together]


def test_code_and_arithmetic_are_as_many_as_their_gates_need_and_what_they_say() -> None:
    texts = probes()
    for metric in (CODE, ARITHMETIC):
        assert load_gates().gates[metric].minimum_n <= len(set(texts[metric])) == len(texts[metric]) >= 24
        assert all(3 < len(text.split()) <= 40 for text in texts[metric])
    assert any("\n    " in text for text in texts[CODE])
    assert not any("\\" in text for text in texts[CODE])
    sums = re.findall(r"(?<![+] )(\d+) ([+x/-]) (\d+) = (\d+)", " ".join(texts[ARITHMETIC]))
    assert len(sums) > 24
    for left, sign, right, result in sums:
        assert OPERATIONS[sign](int(left), int(right)) == int(result), f"{left} {sign} {right} = {result}"
