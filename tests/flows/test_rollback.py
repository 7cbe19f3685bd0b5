"""What must not move a champion: a rollback that cannot succeed, and a fault that is not the champion's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.approve import carry_out_written
from flows.promote import brought_back, roll_back
from flows.revalidate import revalidate
from flows.stages import version_at
from tasks import approval, promotion
from tasks.ledger import Ledger
from tasks.models import ModelFolder, resolve
from tasks.records import StoreFailedError, UserError
from tasks.registry import CHAMPION, describe
from tests.flows.serving_tools import Known, damage, known_model


@pytest.fixture
def known(tmp_path: Path, mlflow_store: str, tiny_llama, monkeypatch: pytest.MonkeyPatch) -> Known:
    """A model whose version 3 was promoted over version 2."""
    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path))
    known = known_model(tmp_path, mlflow_store, resolve(str(tiny_llama())))
    with Ledger(known.settings.ledger) as ledger:
        decided = {"ledger": ledger, "who": "ann", "why": "better", "tracking_uri": mlflow_store}
        promotion.promote(known.name, "3", expected_champion="2", **decided)
    return known


def unmoved(known: Known) -> bool:
    after = describe(known.name, tracking_uri=known.settings.tracking)
    with Ledger(known.settings.ledger) as ledger:
        actions = {row.action for row in ledger.promotion_log(known.name)}
    return (after.champion, after.previous, actions) == ("3", "2", {promotion.PROMOTE})


def test_a_version_that_cannot_be_loaded_does_not_become_the_champion(known: Known):
    damage(known, "2")
    with (
        Ledger(known.settings.ledger) as ledger,
        pytest.raises(UserError, match="not the one that was registered"),
    ):
        roll_back(known.settings, ledger, "ann", "to see it again")
    assert unmoved(known)


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), UserError("Hugging Face did not give it")]
)
def test_a_fault_of_the_machine_rolls_nothing_back(
    known: Known, monkeypatch: pytest.MonkeyPatch, fault: Exception
):
    def fails(folder: ModelFolder, *_: Any, **__: Any) -> Any:
        raise fault

    monkeypatch.setattr("flows.revalidate.load", fails)
    with pytest.raises(type(fault), match=str(fault.args[-1])):
        revalidate(known.settings, roll_back_failing=True)
    assert unmoved(known)


def fail(*_: Any, **__: Any) -> Any:
    raise StoreFailedError("the connection was lost")


def test_a_store_that_fails_after_a_rollback_brings_nothing_back(
    known: Known, monkeypatch: pytest.MonkeyPatch
):
    with Ledger(known.settings.ledger) as ledger:
        roll_back(known.settings, ledger, "ann", "to see it again")
        champion = version_at(known.settings, CHAMPION)
        monkeypatch.setattr("flows.promote.version_at", fail)
        with pytest.raises(StoreFailedError, match="lost"):
            brought_back(known.settings, ledger, champion)


def test_an_approval_that_a_store_fails_to_carry_out_is_not_refused(
    known: Known, monkeypatch: pytest.MonkeyPatch
):
    store, written = known.settings.tracking, "approved by Ann: read the report"
    approval.say(known.name, ["1"], written, tracking_uri=store)
    monkeypatch.setattr("flows.approve.carry_out", fail)
    with Ledger(known.settings.ledger) as ledger, pytest.raises(StoreFailedError, match="lost"):
        carry_out_written(known.settings, ledger)
    assert describe(known.name, tracking_uri=store).versions[0].tags[approval.TAG] == written
