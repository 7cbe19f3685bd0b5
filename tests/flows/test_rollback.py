"""A rollback that cannot succeed changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.promote import roll_back
from tasks import promotion
from tasks.ledger import Ledger
from tasks.models import resolve
from tasks.records import UserError
from tasks.registry import describe
from tests.flows.serving_tools import damage, known_model


def test_a_version_that_cannot_be_loaded_does_not_become_the_champion(
    tmp_path: Path, mlflow_store: str, tiny_llama, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path))
    known = known_model(tmp_path, mlflow_store, resolve(str(tiny_llama())))
    with Ledger(known.settings.ledger) as ledger:
        decided = {"ledger": ledger, "who": "ann", "why": "better", "tracking_uri": mlflow_store}
        promotion.promote(known.name, "3", expected_champion="2", **decided)
        damage(known, "2")
        with pytest.raises(UserError, match="not the one that was registered"):
            roll_back(known.settings, ledger, "ann", "to see it again")
        assert [row.action for row in ledger.promotion_log(known.name)][-1] == "promote"
    after = describe(known.name, tracking_uri=mlflow_store)
    assert (after.champion, after.previous) == ("3", "2")
