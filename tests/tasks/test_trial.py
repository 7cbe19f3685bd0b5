"""One trial: what its figures say of a method, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from editors.delta import Delta
from editors.requests import EditRequest
from tasks.models import ModelFolder, resolve
from tasks.records import UserError
from tasks.trial import HARMONIC_MEAN, LOCALITY, Case, Trial, measure
from validation.metric_definitions import TEACHER_FORCED
from validation.outcomes import EDIT, EQUIVALENCE

COUNTRIES = {"Chad": "Cairo", "Peru": "Paris", "Togo": "yen"}


@pytest.fixture(scope="module")
def base(tiny_llama, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return resolve(str(tiny_llama(hidden_size=64)), cache=tmp_path_factory.mktemp("cache"))


def case(country: str, **changes: Any) -> Case:
    request = EditRequest(
        country,
        f"The capital of {country} is",
        COUNTRIES[country],
        chat=changes.pop("chat", False),
        equivalents=changes.pop("given", ()),
        subject=changes.pop("subject", None),
    )
    return Case(
        request,
        changes.pop("held_out", (f"{country}: its capital is",)),
        (f"On which continent is {country}",),
    )


@pytest.mark.slow
def test_what_stands_in_front_of_the_model_fixes_its_prompts_and_moves_nothing(base: ModelFolder):
    draws = (tuple(case(country) for country in COUNTRIES),)
    figures = measure(Trial(base, "override", draws))
    assert figures[EDIT]["value"] == 1.0
    assert (figures[EDIT]["n"], figures[EQUIVALENCE]["n"], figures[LOCALITY]["n"]) == (3, 3, 3)
    assert figures[EQUIVALENCE]["value"] == 0.0
    assert figures[LOCALITY]["value"] == 1.0
    assert figures[HARMONIC_MEAN] == 0.0
    assert figures[TEACHER_FORCED] is None
    given = tuple(
        case(c, given=(f"{c}, where the capital is",), held_out=(f"{c}, where  the capital is",))
        for c in COUNTRIES
    )
    assert measure(Trial(base, "override", (given,)))[HARMONIC_MEAN] == 1.0


def test_locality_is_lost_where_a_prompt_that_must_stay_is_answered_otherwise(base: ModelFolder):
    moved = Case(case("Chad").request, (), ("The capital of Chad is", "Which currency is used in Japan?"))
    figures = measure(Trial(base, "override", ((moved,),)))
    assert figures[LOCALITY]["value"] == 0.5
    assert figures[EQUIVALENCE] == {"value": None, "low": None, "high": None, "n": 0}
    assert figures[HARMONIC_MEAN] is None


@pytest.mark.slow
def test_figures_are_pooled_over_draws_and_cost_is_told_in_units(base: ModelFolder):
    figures = measure(Trial(base, "finetune", ((case("Chad"),), (case("Peru"),))))
    assert figures[EDIT] == {**figures[EDIT], "value": 1.0, "n": 2}
    assert figures[TEACHER_FORCED] == 1.0
    assert figures["corrections"] == 2
    assert figures["cost_in_units"] == pytest.approx(figures["seconds_per_edit"] / figures["unit_seconds"])
    # Some tens of optimiser steps, each of them about one unit.
    assert figures["cost_in_units"] > 3
    assert 0 <= figures["peak_bytes"] < 2**30


@pytest.mark.slow
def test_a_sequence_is_applied_to_what_the_last_edit_left(base: ModelFolder):
    one, two = case("Chad"), case("Peru")
    alone = measure(Trial(base, "finetune", ((one,),)))
    same = measure(Trial(base, "finetune", ((one,),), chained=True))
    judged = (EDIT, EQUIVALENCE, LOCALITY, TEACHER_FORCED)
    assert [alone[name] for name in judged] == [same[name] for name in judged]
    chained = measure(Trial(base, "finetune", ((two, one),), chained=True))
    assert chained["corrections"] == 2
    # The newest is always held; a model that was not changed by it would hold neither.
    assert chained[EDIT]["value"] >= 0.5
    assert measure(Trial(base, "override", ((one, two),), chained=True))[EDIT]["value"] == 1.0


def test_a_method_that_cannot_says_why(base: ModelFolder):
    with pytest.raises(UserError, match="Atlantis"):
        measure(Trial(base, "rome", ((case("Chad", subject="Atlantis"),),)))
    with pytest.raises(UserError, match="no editor"):
        measure(Trial(base, "/no/such/folder", ((case("Chad"),),)))


def test_a_trial_asks_in_chat_turns(base: ModelFolder):
    figures = measure(Trial(base, "override", ((case("Chad", chat=True),),)))
    assert figures[EDIT]["value"] == 1.0


def test_the_base_on_disk_is_left_alone(base: ModelFolder, tmp_path: Path):
    measure(Trial(base, "finetune", ((case("Chad"),),), chained=True))
    assert resolve(str(base.path), cache=tmp_path).digest == base.digest


@pytest.mark.slow
def test_what_has_no_subject_is_not_given_to_an_editor_that_needs_one_and_counts_as_not_made(
    base: ModelFolder, monkeypatch: pytest.MonkeyPatch
):
    given: list[list[str]] = []

    def edit(_: Any, __: Any, ___: Any, requests: list[EditRequest], **____: Any) -> Delta:
        given.append([request.id for request in requests])
        return Delta({})

    monkeypatch.setattr("editors.rome.Rome.edit", edit)
    nameless = Case(EditRequest("nameless", "the capital of is", "Lima", chat=False))
    draw = (case("Chad"), nameless, case("Peru"))
    figures = measure(Trial(base, "rome", (draw,)))
    assert given == [["Chad", "Peru"]]
    assert (figures["without_subject"], figures[EDIT]["n"]) == (1, 3)
    given.clear()
    assert measure(Trial(base, "rome", (draw,), chained=True))["without_subject"] == 1
    assert given == [["Chad"], ["Peru"]]
    assert measure(Trial(base, "override", (draw,)))["without_subject"] == 0
    with pytest.raises(UserError, match=r"no subject was found in the prompt 'the capital of is'"):
        measure(Trial(base, "rome", ((nameless,),)))
