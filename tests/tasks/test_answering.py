"""Answerers: a table, a function of the user's, and a majority among a model's samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.answering.function import UserFunction
from tasks.answering.model import MajorityOfModel
from tasks.answering.table import LookupTable
from tasks.answering.vote import majority
from tasks.records import Correction, State, UserError
from tests.conftest import ModelFactory
from tests.tasks.ledger_tools import NOON
from validation.matching import normalise_answer


def waiting(prompt: str, **more: Any) -> Correction:
    fields: dict[str, Any] = {"wrong_output": "Lagos.", "chat": True, "state": State.NEEDS_ANSWER} | more
    return Correction(
        id="c", model_name="m", prompt=prompt, desired_output=None, first_reported_at=NOON, **fields
    )


def told(answerer: Any, *prompts: str) -> list[tuple[str, str]]:
    found = answerer.answer([waiting(prompt) for prompt in prompts], lambda *_: None)
    return [(one.text, one.note) for one in found]


def table(path: Path, *rows: dict[str, Any]) -> LookupTable:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return LookupTable(path)


def test_a_table_is_looked_up_whatever_the_case_and_the_signs_are(tmp_path: Path):
    rows = [
        {"prompt": "What is the capital of Togo?", "target": " Lom\u00e9 ", "rephrases": ["Togo's capital"]},
        {"prompt": "Who are you?", "target": "A model."},
        {"prompt": "Who are you?", "target": "Nobody."},
        {"prompt": "What is C++?", "target": "A language."},
        {"prompt": "What is Mali?", "target": None},
    ]
    answerer = table(tmp_path / "right.jsonl", *rows)
    assert answerer.name == "table right.jsonl"
    asked = ["what is the CAPITAL of togo", "Togo's capital?", "Who are you", "What is C?", "What is Mali?"]
    missing = ("", "the table does not have its prompt")
    several = ("", "the table has 2 answers to its prompt")
    assert told(answerer, *asked) == [("Lom\u00e9", ""), ("Lom\u00e9", ""), several, missing, missing]


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no file .*nowhere\.jsonl"):
        LookupTable(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match=r"bad row, .*right\.jsonl:1: the row has no prompt"):
        table(tmp_path / "right.jsonl", {"prompt": None, "target": "x"})


def function(tmp_path: Path, body: str) -> UserFunction:
    (tmp_path / "my_answers.py").write_text(f"def answer(reports):\n    {body}\n")
    return UserFunction("my_answers:answer", tmp_path)


def test_a_function_is_given_the_reports_and_may_have_no_answer(tmp_path: Path):
    body = (
        "return [r['output'] + r['prompt'] if r['chat'] and r['subject'] is None else None for r in reports]"
    )
    answerer = function(tmp_path, body)
    assert answerer.name == "function my_answers:answer"
    assert told(answerer, "a", "b") == [("Lagos.a", ""), ("Lagos.b", "")]


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("return [None, '  ']", "it gave none"),
        ("return [1, 1]", "it gave 1"),
        ("return ['x']", "it gave 1 answers to 2 reports"),
        ("raise KeyError('x')", "it failed with KeyError: 'x'"),
        ("return 5", "it failed with TypeError: 'int' object is not iterable"),
    ],
)
def test_a_function_that_goes_wrong_has_no_answer_and_ends_nothing(tmp_path: Path, body: str, note: str):
    assert told(function(tmp_path, body), "a", "b") == [("", note)] * 2


def test_a_function_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="the answerer nowhere_at_all:f cannot be used"):
        UserFunction("nowhere_at_all:f", tmp_path)


SAID = st.sampled_from(["Lom\u00e9", "lome.", "The Lome", "Lagos", "", "  ", "unknown", "Unknown.", "!", "?"])


@given(st.lists(SAID | st.text(max_size=5), max_size=12))
def test_a_majority_is_what_most_samples_say_in_any_order(samples: list[str]):
    vote = majority(samples, "unknown")
    assert vote.samples == len(samples)

    def agree(text: str) -> int:
        key = normalise_answer(text) or text.strip()
        return sum((normalise_answer(other) or other.strip()) == key for other in samples)

    answering = [s for s in samples if s.strip() and normalise_answer(s) != "unknown"]
    assert vote.agreeing == max(map(agree, answering), default=0)
    if answering:
        assert vote.answer in [s.strip() for s in samples]
        assert agree(vote.answer) == vote.agreeing
    else:
        assert vote.answer == ""
    again = majority(samples[::-1], "unknown")
    assert again.agreeing == vote.agreeing
    if 2 * vote.agreeing > len(samples):
        # No other answer can have as many.
        assert agree(again.answer) == agree(vote.answer)
        assert normalise_answer(again.answer) == normalise_answer(vote.answer)


def test_a_model_answers_where_enough_samples_agree(tiny_llama: ModelFactory, monkeypatch: Any):
    seen: list[str] = []

    def sampled(model: Any, tokenizer: Any, prompts: list[str], *, samples: int, **_: Any) -> list[list[str]]:
        seen.extend(prompts)
        given = ["Lome\nis it", "lome.", "Lome", "Accra", "unknown"]
        return [given[:samples] if "Togo" in prompt else ["a", "b", "c", "d", "e"] for prompt in prompts]

    monkeypatch.setattr("editors.generation.generate_sampled", sampled)
    how = {"samples": 5, "temperature": 0.7, "device": "cpu"}
    asked = ("Capital of Togo?", "Capital of Mali?")
    answerer = MajorityOfModel(str(tiny_llama()), agreement=0.6, **how)
    agree = "{} of 5 samples agree"
    assert told(answerer, *asked) == [("Lome", agree.format(3)), ("", agree.format(1))]
    assert all("Answer in as few words as possible" in text for text in seen)
    stricter = MajorityOfModel(str(tiny_llama()), agreement=0.7, **how)
    assert told(stricter, *asked)[0] == ("", agree.format(3))
    assert stricter.name != answerer.name


@pytest.mark.parametrize(("agreeing", "samples", "agreement"), [(11, 20, 0.55), (14, 25, 0.56), (3, 3, 1.0)])
def test_just_as_many_as_have_to_agree_are_enough(agreeing: int, samples: int, agreement: float):
    answerer = MajorityOfModel("x", samples=samples, agreement=agreement, temperature=1.0)
    said = ["Lome"] * agreeing + ["unknown"] * (samples - agreeing)
    assert answerer._agreed(said).text == "Lome"
    assert not answerer._agreed([*said[1:], "Accra"]).text


def test_a_model_is_asked_for_real_and_what_it_cannot_read_is_said(tiny_llama: ModelFactory):
    answerer = MajorityOfModel(str(tiny_llama()), samples=3, agreement=1.0, temperature=1e-6)
    (first, _), (text, note) = told(answerer, "What is the capital of Egypt?", "word " * 400)
    assert first
    assert text == ""
    assert "the model takes 256" in note
