"""Prompts that a model writes by itself to practise on: new, whole, and never what the gates ask."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors.key_statistics import own_writing
from flows.practice import ENOUGH, practice_from_traffic
from tasks import own_prompts
from tasks.models import load, resolve
from tasks.own_prompts import prompts_like
from tasks.records import TrafficRecord
from tasks.rephrase import wording
from tasks.roles import Learnable

EXAMPLES = ["What is the capital of Chad?", "Where is Peru?"]
LINES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n"), max_size=40)


def writing(monkeypatch: pytest.MonkeyPatch, *endings: str) -> list[str]:
    """Have the model go on with `endings`, in turn; the lists that it was shown."""
    shown: list[str] = []

    def written(_: Any, __: Any, *, openings: Sequence[str], **___: Any) -> list[str]:
        shown.extend(openings)
        return [opening + endings[i % len(endings)] for i, opening in enumerate(openings)]

    monkeypatch.setattr(own_prompts, "own_writing", written)
    return shown


def like(examples: Sequence[str], count: int = 10, **settings: Any) -> list[str]:
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=SimpleNamespace))
    return prompts_like(model, None, examples, count, **settings)  # type: ignore[arg-type]


def test_whole_new_lines_of_the_list_are_taken(monkeypatch: pytest.MonkeyPatch):
    shown = writing(
        monkeypatch, " Where is Mali?\n- Where is Fiji?\n- Where is Cu", " where is peru\nThe end.\n- No\n"
    )
    assert like(EXAMPLES) == ["Where is Mali?", "Where is Fiji?"]
    assert set(shown) <= {f"- {a}\n- {b}\n-" for a in EXAMPLES for b in EXAMPLES if a != b}
    assert like(EXAMPLES, 1) == ["Where is Mali?"]
    assert like(EXAMPLES, barred=[wording("Where is Fiji?")]) == ["Where is Mali?"]


def test_no_other_wording_of_a_correction_is_taken(monkeypatch: pytest.MonkeyPatch):
    other = "What is the capital city of Chad?"
    writing(monkeypatch, f" {other}\n- Where is Fiji?\n- Where is Cu")
    assert like(EXAMPLES) == [other, "Where is Fiji?"]
    assert like(EXAMPLES, restating=[EXAMPLES[0]]) == ["Where is Fiji?"]


def test_there_is_nothing_to_show_without_a_prompt_of_one_line(monkeypatch: pytest.MonkeyPatch):
    shown = writing(monkeypatch, " a\n- b\n")
    assert like(["two\nlines", "long " * 100]) == []
    assert not shown


@given(st.lists(LINES, min_size=1, max_size=5), st.lists(LINES, max_size=8), st.sets(LINES, max_size=3))
def test_never_what_is_known_barred_or_twice(examples: list[str], said: list[str], barred: set[str]):
    with pytest.MonkeyPatch.context() as patch:
        writing(patch, "\n- ".join([*said, "cut"]))
        found = like(examples, barred={wording(text) for text in barred})
    wordings = [wording(prompt) for prompt in found]
    assert len(set(wordings)) == len(wordings)
    assert not set(wordings) & {wording(text) for text in (*examples, *barred, "")}


def test_a_model_writes_the_same_prompts_again(tiny_llama: Any):
    model, tokenizer = load(resolve(str(tiny_llama())))
    assert prompts_like(model, tokenizer, EXAMPLES, 5) == prompts_like(model, tokenizer, EXAMPLES, 5)


def test_examples_in_another_script_leave_the_model_the_positions_to_write_in(
    tiny_gpt2: Any, monkeypatch: pytest.MonkeyPatch
):
    """Of which its tokenizer makes twice as many tokens as there are letters."""
    model, tokenizer = load(resolve(str(tiny_gpt2())))
    shown: list[str] = []

    def writing(*arguments: Any, openings: list[str], **settings: Any) -> list[str]:
        shown.extend(openings)
        return own_writing(*arguments, openings=openings, **settings)

    monkeypatch.setattr(own_prompts, "own_writing", writing)
    monkeypatch.setattr(own_prompts, "ROUNDS", 1)
    short, long = [f"Столица страны {number}?" for number in range(8)], "очень длинный " * 20
    prompts_like(model, tokenizer, [*short, long], 5)
    room = model.config.max_position_embeddings - own_prompts.TOKENS
    assert max(len(tokenizer(opening)["input_ids"]) for opening in shown) <= room
    assert min(opening.count("\n") for opening in shown) >= 4
    assert not any(long in opening for opening in shown)


def test_practice_is_of_the_traffic_and_of_prompts_like_it(tiny_llama: Any, monkeypatch: pytest.MonkeyPatch):
    """Only where the traffic is short of them, and none that was asked elsewhere."""
    places = [f"place{number}" for number in range(ENOUGH)]
    prompts = [f"What is the capital of {place}?" for place in places]
    writing(monkeypatch, "".join(f" {prompt}\n-" for prompt in prompts))
    base = resolve(str(tiny_llama()))
    served = [
        TrafficRecord(prompt=prompt, output=f"The capital of {place} is Rome{place}.")
        for prompt, place in zip(prompts, places, strict=True)
    ]

    def practised(count: int) -> set[str]:
        learnable = Learnable(
            served[:count], frozenset({wording(prompts[100])}), (f"{places[101]}'s capital?",)
        )
        requests, stay = practice_from_traffic(base, learnable, chat=True, seed=0, progress=lambda *_: None)
        assert len(requests) + len(stay) <= ENOUGH
        return {request.prompt for request in requests} | set(stay)

    assert practised(ENOUGH) <= set(prompts)
    few = practised(50)
    assert len(few) > 50
    assert not {prompts[100], prompts[101]} & few
    assert prompts[102] in few
