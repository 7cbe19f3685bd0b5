"""An editor trained ahead of the run that needs it, by the flow that production deploys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.settings import CorrectSettings
from flows.train_editor import train_editor
from tasks.ledger import LeaseHeld, Ledger
from tasks.models import resolve
from tasks.records import UserError
from tasks.train import find_editor
from tests.flows.conftest import World


@pytest.mark.slow
def test_the_flow_leaves_an_editor_where_a_run_finds_it(taught: Callable[[Path], World], tmp_path: Path):
    # Of those that a run would try, the one that is trained.
    tried = {"editor": "auto", "methods": ("finetune", "malmen")}
    settings = taught(tmp_path / "home").settings.model_copy(update={"training_steps": 2, **tried})
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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": ("finetune", "rome")}, "does not train the editor finetune, rome"),
        ({"gates": "gates.yaml"}, "gates.yaml is refused at"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
):
    monkeypatch.chdir(tmp_path)
    Path("gates.yaml").write_text("gates: 3\n")
    given = {"model_name": "m", "home": tmp_path / "home", **changes}
    with pytest.raises(UserError, match=says):
        train_editor(CorrectSettings.model_validate(given))
    assert not (tmp_path / "home").exists()
