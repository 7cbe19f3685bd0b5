"""Explaining a prompt: the corrections that touch it, and what each version answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from editors.delta import Delta
from editors.override import OverrideEditor
from editors.requests import EditRequest
from tasks.explain import answers, touching
from tasks.models import load, resolve
from tasks.records import Correction, State, UserError
from tasks.rephrase import rephrase, wording
from tests.tasks.ledger_tools import NOON


def correction(id_: str, prompt: str, state: State = State.ACTIVE, **fields: object) -> Correction:
    about = {"model_name": "m", "wrong_output": "", "desired_output": "x", "chat": True}
    return Correction(id=id_, prompt=prompt, state=state, first_reported_at=NOON, **{**about, **fields})


CORRECTIONS = [
    correction("peru", "What is the capital of Peru?"),
    correction("phrased", "Name Togo's seat of government", equivalents=("What is the capital of Togo?",)),
    correction("egg", "How long does an egg boil?"),
    correction("togo", "What is the capital of Togo?", State.CONFLICTING),
]


def test_the_correction_of_a_prompt_comes_first_then_one_it_is_a_phrasing_of_then_the_nearest() -> None:
    found = touching("what is the capital of TOGO", CORRECTIONS)
    assert [one.correction.id for one in found] == ["togo", "phrased", "peru"]
    assert [one.phrasing for one in found] == ["What is the capital of Togo?"] * 2 + [""]
    assert [one.similarity for one in found[:2]] == [1.0, 1.0]
    assert 0.1 < found[2].similarity < 1
    assert [
        one.correction.id for one in touching("What is the capital of Togo?", CORRECTIONS, nearest=0)
    ] == [
        "togo",
        "phrased",
    ]


def test_a_phrasing_by_rule_is_one_of_the_correction() -> None:
    made = rephrase(CORRECTIONS[0].prompt, chat=True)[-1].text
    assert wording(made) != wording(CORRECTIONS[0].prompt)
    (found,) = touching(made.upper(), CORRECTIONS, nearest=0)
    assert (found.correction.id, found.phrasing) == ("peru", made)


@pytest.mark.parametrize("prompt", ["", "?!", "Zzyzx qqq"])
def test_a_prompt_like_none_is_touched_by_none(prompt: str) -> None:
    assert touching(prompt, CORRECTIONS) == []
    assert touching(prompt, []) == []


def test_each_version_answers_as_it_is_served(tmp_path: Path, tiny_llama) -> None:
    base = resolve(str(tiny_llama()))
    delta = OverrideEditor().edit(*load(base), [EditRequest("a", "The capital of Egypt is", "Cairo.")])
    Delta({}, {**delta.manifest, "base_digest": base.digest}).save(tmp_path / "delta")
    served = dataclasses.replace(base, delta=tmp_path / "delta")
    models = {"base": base, "champion": base, "candidate": served}
    said = answers("the capital of Egypt is", models, chat=True)
    assert list(said) == list(models)
    assert said["candidate"] == "Cairo."
    assert said["base"] == said["champion"] != "Cairo."
    with pytest.raises(UserError, match="give a shorter prompt"):
        answers("Egypt " * 5000, models, chat=True)
