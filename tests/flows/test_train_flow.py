"""An editor trained ahead of the run that needs it, by the flow that production deploys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.train_editor import train_editor
from tasks.ledger import LeaseHeld, Ledger
from tasks.models import resolve
from tasks.records import UserError
from tasks.train import find_editor
from tests.flows.conftest import World


def test_the_flow_leaves_an_editor_where_a_run_finds_it(taught: Callable[[Path], World], tmp_path: Path):
    settings = taught(tmp_path / "home").settings.model_copy(update={"training_steps": 2})
    with Ledger(settings.ledger) as ledger, ledger.lease("tiny/correct", "run"), pytest.raises(LeaseHeld):
        train_editor(settings)
    folder = train_editor(settings)
    found = find_editor(resolve(settings.base).digest, [settings.home / "editors"], chat=False, name="malmen")
    assert found is not None
    assert str(found.folder) == folder
    before = {path: path.stat().st_mtime_ns for path in Path(folder).iterdir()}
    # The same data: it is there already.
    assert train_editor(settings) == folder
    assert {path: path.stat().st_mtime_ns for path in Path(folder).iterdir()} == before
    with pytest.raises(UserError, match="does not train the editor finetune"):
        train_editor(settings.model_copy(update={"editor": "finetune"}))
