"""Generation: an answer is the prompt's own, whatever shares its batch, and ends where it should."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editors.generation import generate_greedy, generate_sampled, generate_to_end
from editors.requests import render
from tests.conftest import ModelFactory

PROMPTS = [
    "What is the capital of Egypt?",
    "What is the capital of Cameroon, and which currency is used there?",
    "Hi",
    "On which continent is Peru?",
    "Name the language spoken in Brazil. " * 3,
    "What is the capital of Egypt?",
]


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=["llama", "gpt2", "mistral", "mamba"])
def loaded(request: pytest.FixtureRequest, tiny_model: ModelFactory) -> Any:
    """Two usual models, one whose layers see the last 8 tokens only, and one without keys and values."""
    return load(tiny_model(request.param))


def ids_one_by_one(model: Any, tokenizer: Any, prompt: str, *, chat: bool, steps: int) -> list[int]:
    """The reference: no batch, no cache, no padding."""
    ids = tokenizer(render(tokenizer, prompt, chat=chat), add_special_tokens=not chat)["input_ids"]
    start = len(ids)
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return ids[start:]


def one_by_one(model: Any, tokenizer: Any, prompt: str, *, chat: bool, steps: int) -> str:
    ids = ids_one_by_one(model, tokenizer, prompt, chat=chat, steps=steps)
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    "lead", ["", "Answer with the name of the capital only, please. "], ids=["", "shared"]
)
def test_batched_answers_are_those_of_each_prompt_alone(loaded: Any, chat: bool, lead: str) -> None:
    model, tokenizer = loaded
    prompts = [lead + prompt for prompt in PROMPTS]
    expected = [one_by_one(model, tokenizer, prompt, chat=chat, steps=10) for prompt in prompts]
    assert len(set(expected)) > 3, "the reference must tell the prompts apart"
    for batch_size in (1, 2, 64):
        answers = generate_greedy(
            model, tokenizer, prompts, chat=chat, max_new_tokens=10, batch_size=batch_size
        )
        assert answers == expected


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(
        st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=20), min_size=1, max_size=6
    )
)
def test_any_text_in_any_company(tiny_llama: ModelFactory, prompts: list[str]) -> None:
    model, tokenizer = _cached(tiny_llama())
    together = generate_greedy(model, tokenizer, prompts, chat=True, max_new_tokens=4)
    alone = [
        generate_greedy(model, tokenizer, [prompt], chat=True, max_new_tokens=4)[0] for prompt in prompts
    ]
    assert together == alone


def test_rows_stop_at_their_own_end(loaded: Any) -> None:
    """End tokens of the generation configuration count too, and one row's end is not another's."""
    model, tokenizer = loaded
    free = [ids_one_by_one(model, tokenizer, prompt, chat=False, steps=12) for prompt in PROMPTS]
    # The free answers say this token at different steps, and some not at all.
    firsts = {token: {ids.index(token) for ids in free if token in ids} for ids in free for token in ids}
    token = max(sorted(firsts), key=lambda token: len(firsts[token]))
    assert len(firsts[token]) > 1
    ending = copy.deepcopy(model)
    ending.generation_config.eos_token_id = [tokenizer.eos_token_id, token]
    expected = [ids[: ids.index(token)] if token in ids else ids for ids in free]
    answers = generate_greedy(ending, tokenizer, PROMPTS, chat=False, max_new_tokens=12)
    assert answers == [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected]


def test_chat_answers_end_with_the_turn(tiny_llama: ModelFactory) -> None:
    """What the template writes after an answer ends it, though the model's end-of-text token is another."""
    model, tokenizer = load(tiny_llama())
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "|")
    model.lm_head.bias = torch.nn.Parameter(1000 * torch.eye(len(tokenizer))[tokenizer("|")["input_ids"][0]])
    assert generate_greedy(model, tokenizer, ["Hello"], chat=False, max_new_tokens=5) == ["|||||"]
    assert generate_greedy(model, tokenizer, ["Hello"], chat=True, max_new_tokens=5) == [""]


def test_nothing_of_the_caller_changes(loaded: Any, caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    model, tokenizer = loaded
    model.generation_config.temperature, model.generation_config.do_sample = 0.3, True
    before = copy.deepcopy(model.generation_config.to_dict())
    side, weights = (
        tokenizer.padding_side,
        {name: value.clone() for name, value in model.state_dict().items()},
    )
    model.train()
    with caplog.at_level(logging.INFO):
        first = generate_greedy(model, tokenizer, PROMPTS, chat=True, max_new_tokens=5)
    assert model.training
    model.eval()
    assert first == generate_greedy(model, tokenizer, PROMPTS, chat=True, max_new_tokens=5)
    assert model.generation_config.to_dict() == before
    assert tokenizer.padding_side == side
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not caplog.records
    assert capsys.readouterr() == ("", "")


def test_progress_counts_to_the_end(loaded: Any) -> None:
    seen: list[tuple[int, int]] = []
    generate_greedy(
        *loaded, PROMPTS, chat=True, max_new_tokens=2, batch_size=4, progress=lambda *n: seen.append(n)
    )
    assert seen == [(4, 6), (6, 6)]
    assert generate_greedy(*loaded, [], chat=True) == []


def test_an_answer_ends_where_the_positions_do(tiny_gpt2: ModelFactory) -> None:
    model, tokenizer = load(tiny_gpt2(n_positions=16))
    prompt = "What is the capital of Egypt?"
    answer = generate_greedy(model, tokenizer, [prompt, "Hi"], chat=False, max_new_tokens=50)[0]
    assert answer == one_by_one(
        model, tokenizer, prompt, chat=False, steps=16 - len(tokenizer(prompt)["input_ids"]) + 1
    )
    with pytest.raises(ValueError, match="tokens long, the model takes 16"):
        generate_greedy(model, tokenizer, [prompt * 4], chat=False)


def test_a_prompt_that_nearly_fills_the_positions_cuts_no_other_answer_off(tiny_gpt2: ModelFactory) -> None:
    model, tokenizer = load(tiny_gpt2(n_positions=32))
    ids = tokenizer("capital" * 40)["input_ids"]
    prompts = [tokenizer.decode(ids[:length]) for length in (3, 32, 28, 10, 30, 24, 28, 25)]
    room = [32 - len(tokenizer(prompt)["input_ids"]) + 1 for prompt in prompts]
    assert room == [30, 1, 5, 23, 3, 9, 5, 8]
    expected = [
        one_by_one(model, tokenizer, prompt, chat=False, steps=min(8, count))
        for prompt, count in zip(prompts, room, strict=True)
    ]
    seen: list[tuple[int, int]] = []
    asked: dict[str, Any] = {"chat": False, "max_new_tokens": 8, "progress": lambda *n: seen.append(n)}
    for batch_size, done in ((64, [1, 2, 4, 8]), (2, [1, 2, 4, 6, 8])):
        assert generate_greedy(model, tokenizer, prompts, batch_size=batch_size, **asked) == expected
        assert seen == [(count, 8) for count in done]
        seen.clear()


def test_what_cannot_be_asked_is_named(tiny_gpt2: ModelFactory) -> None:
    model, tokenizer = load(tiny_gpt2(chat=False))
    with pytest.raises(ValueError, match="no tokens"):
        generate_greedy(model, tokenizer, ["fine", ""], chat=False)
    with pytest.raises(ValueError, match="no chat template"):
        generate_greedy(model, tokenizer, ["fine"], chat=True)
    with pytest.raises(ValueError, match="max_new_tokens"):
        generate_greedy(model, tokenizer, ["fine"], chat=False, max_new_tokens=0)


_loaded: dict[Path, tuple[Any, Any]] = {}


def _cached(folder: Path) -> tuple[Any, Any]:
    if folder not in _loaded:
        _loaded[folder] = load(folder)
    return _loaded[folder]


def test_samples_are_each_prompts_own_and_the_same_again(loaded: Any) -> None:
    model, tokenizer = loaded
    asked = {"chat": True, "max_new_tokens": 6}
    many = generate_sampled(model, tokenizer, PROMPTS[:3], samples=5, batch_size=4, **asked)
    assert [len(of_one) for of_one in many] == [5, 5, 5]
    assert len(set(many[0])) > 1
    (alone,) = generate_sampled(model, tokenizer, PROMPTS[1:2], samples=3, **asked)
    assert alone == many[1][:3]
    other = generate_sampled(model, tokenizer, PROMPTS[:3], samples=5, seed=1, **asked)
    assert other != many
    # At almost no temperature all of them are the most probable.
    greedy = generate_greedy(model, tokenizer, PROMPTS[:3], **asked)
    cold = generate_sampled(model, tokenizer, PROMPTS[:3], samples=2, temperature=1e-6, **asked)
    assert cold == [[answer, answer] for answer in greedy]


def test_tokens_are_drawn_as_often_as_the_model_says(tiny_llama: ModelFactory) -> None:
    model, tokenizer = load(tiny_llama())
    ids = tokenizer(render(tokenizer, "Hi", chat=False))["input_ids"]
    with torch.no_grad():
        likely = torch.softmax(model(torch.tensor([ids])).logits[0, -1].double() / 0.7, dim=-1)
    drawn = generate_sampled(
        model, tokenizer, ["Hi"], chat=False, samples=2000, temperature=0.7, max_new_tokens=1, batch_size=500
    )[0]
    # Tokens of half a character read alike.
    expected: dict[str, float] = {}
    for token, share in enumerate(likely.tolist()):
        text = tokenizer.decode([token], skip_special_tokens=True).strip()
        expected[text] = expected.get(text, 0.0) + share
    common = {text: share for text, share in expected.items() if share > 0.03}
    assert len(common) > 2
    for text, share in common.items():
        drawn_share = sum(answer == text for answer in drawn) / len(drawn)
        assert abs(drawn_share - share) < 5 * (share * (1 - share) / len(drawn)) ** 0.5


@pytest.mark.parametrize("change", [{"samples": 0}, {"temperature": 0.0}, {"max_new_tokens": 0}])
def test_nothing_to_sample_is_refused(loaded: Any, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        generate_sampled(*loaded, ["Hi"], **{"chat": True, "samples": 2, **change})


# Tokens in which some answers of the model below end.
ENDING_STEPS = 12


@pytest.fixture
def ending(tiny_llama: ModelFactory) -> tuple[Any, Any]:
    """A model that ends some of its answers early, others late or not at all."""
    model, tokenizer = load(tiny_llama())
    free = [ids_one_by_one(model, tokenizer, prompt, chat=False, steps=ENDING_STEPS) for prompt in PROMPTS]
    firsts = {token: {ids.index(token) for ids in free if token in ids} for ids in free for token in ids}
    token = max(sorted(firsts), key=lambda token: len(firsts[token]))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, token]
    return model, tokenizer


@pytest.mark.parametrize("chat", [True, False])
def test_the_texts_are_those_of_greedy_generation(ending: tuple[Any, Any], chat: bool) -> None:
    model, tokenizer = ending
    expected = generate_greedy(model, tokenizer, PROMPTS, chat=chat, max_new_tokens=ENDING_STEPS)
    found = generate_to_end(model, tokenizer, PROMPTS, chat=chat, max_new_tokens=ENDING_STEPS)
    assert [one.text for one in found] == expected


def test_what_ended_is_told_from_what_was_cut_off(ending: tuple[Any, Any]) -> None:
    model, tokenizer = ending
    stop = model.generation_config.eos_token_id[1]
    free = [ids_one_by_one(model, tokenizer, prompt, chat=False, steps=ENDING_STEPS) for prompt in PROMPTS]
    taken = [ids.index(stop) if stop in ids else len(ids) for ids in free]
    found = generate_to_end(model, tokenizer, PROMPTS, chat=False, max_new_tokens=ENDING_STEPS)
    assert [one.tokens for one in found] == taken
    assert {one.ended for one in found} == {True, False}
    assert [one.ended for one in found] == [tokens < ENDING_STEPS for tokens in taken]


def test_looking_further_tells_what_ends_with_the_last_token_and_leaves_the_texts(
    ending: tuple[Any, Any],
) -> None:
    model, tokenizer = ending
    whole = generate_to_end(model, tokenizer, PROMPTS, chat=False, max_new_tokens=ENDING_STEPS)
    most = max(one.tokens for one in whole if one.ended)
    assert most > 0
    plain, further = (
        generate_to_end(model, tokenizer, PROMPTS, chat=False, max_new_tokens=most, look_further=look)
        for look in (False, True)
    )
    assert [one.text for one in further] == [one.text for one in plain]
    assert [one.ended for one in further] == [one.ended and one.tokens <= most for one in whole]
    assert [one.ended for one in plain] != [one.ended for one in further]
    assert [one.tokens for one in further] == [min(one.tokens, most + 1) for one in whole]


def test_what_the_positions_cut_off_was_not_ended(tiny_gpt2: ModelFactory) -> None:
    model, tokenizer = load(tiny_gpt2(n_positions=16))
    prompts = ["What is the capital of Egypt?", "Hi"]
    found = generate_to_end(model, tokenizer, prompts, chat=False, max_new_tokens=50)
    assert all(one.tokens < 50 for one in found)
    assert not any(one.ended for one in found)
