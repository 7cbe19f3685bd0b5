"""The first champion of a model is a base that somebody named."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.correct import correct
from flows.settings import CorrectSettings
from flows.stages import check_base, find_champion
from tasks.ledger import Ledger
from tasks.records import UserError
from tasks.registry import describe


def test_reports_about_a_misspelt_name_make_no_model_of_it(tmp_path: Path, mlflow_store: str, tiny_llama):
    def settings(**more: str) -> CorrectSettings:
        return CorrectSettings(model_name="typo", home=tmp_path, tracking_uri=mlflow_store, **more)

    with Ledger(settings().ledger) as ledger:
        with pytest.raises(UserError, match=r"no champion of typo: correct the name.* --base REF"):
            find_champion.fn(settings(), ledger)
        assert describe("typo", tracking_uri=mlflow_store).versions == ()
        made = find_champion.fn(settings(base=str(tiny_llama())), ledger)
        assert made.version == "1"
        # It does not have to be named again.
        assert find_champion.fn(settings(), ledger) == made
        check_base(settings(), made)


def test_a_base_that_has_served_nobody_yet_is_made_the_champion(
    tmp_path: Path, mlflow_store: str, tiny_llama
):
    settings = CorrectSettings(
        model_name="new", home=tmp_path, tracking_uri=mlflow_store, base=str(tiny_llama())
    )
    run = correct(settings)
    assert (run.outcome, run.champion) == ("nothing to do", "1")
    assert describe("new", tracking_uri=mlflow_store).champion == "1"
    with pytest.raises(UserError, match="has no experiment 'elsewhere'"):
        correct(settings.model_copy(update={"experiment": "elsewhere"}))
