"""What people write into the tag `approval`, and rejection: never promoted, and logged once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.approval import TAG, Decision, ask, carried_out, read_decision, say, undecided, unreadable, waiting
from tasks.ledger import Ledger
from tasks.promotion import promote, recover, reject, rollback
from tasks.records import UserError
from tasks.registry import RegisteredModel, describe
from tasks.tracking import tracking
from tests.killing import Killed, kill

_names = itertools.count()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


@pytest.fixture
def name(mlflow_store: str, tmp_path: Path) -> str:
    """A model of three versions, the first of which serves and the last of which is the candidate."""
    name = f"approval-{next(_names)}"
    with tracking(mlflow_store) as client:
        client.create_registered_model(name)
        for _ in range(3):
            client.create_model_version(name, source=str(tmp_path))
        client.set_registered_model_alias(name, "candidate", "3")
    return name


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("approved by Ann: read the report", Decision("3", True, "Ann", "read the report")),
        ("  Rejected BY ann smith :\nodd: it rhymes\n", Decision("3", False, "ann smith", "odd: it rhymes")),
        ("approved", None),
        ("approved by Ann", None),
        ("approved by Ann: ", None),
        ("approved by : fine", None),
        ("approved: fine", None),
        ("disapproved by Ann: no", None),
        ("pending", None),
    ],
)
def test_a_decision_takes_a_name_and_a_note(written: str, read: Decision | None) -> None:
    assert read_decision("3", written) == read


_words = st.text(st.characters(exclude_characters=":", exclude_categories=["C", "Z"]), min_size=1)


@given(st.booleans(), _words, st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))
def test_a_decision_is_read_as_it_was_written(approved: bool, who: str, note: str) -> None:
    decision = Decision("7", approved, who, note)
    assert read_decision("7", decision.text) == decision


def test_the_newest_version_waits_until_somebody_decides(name: str, mlflow_store: str) -> None:
    def model() -> RegisteredModel:
        return describe(name, tracking_uri=mlflow_store)

    def tag(version: int) -> str | None:
        return model().versions[version - 1].tags.get(TAG)

    ask(name, "2", tracking_uri=mlflow_store)
    assert [version.number for version in waiting(model())] == ["2"]
    ask(name, "3", tracking_uri=mlflow_store)
    assert (tag(2), tag(3)) == ("superseded by version 3", "pending")

    say(name, ["1"], "approved", tracking_uri=mlflow_store)
    assert [version.number for version in unreadable(model())] == ["1"]
    say(name, ["2", "3"], "Approved by Ann: fine", tracking_uri=mlflow_store)
    say(name, ["1"], "rejected by Bob: odd", tracking_uri=mlflow_store)
    # Rejections first, and the newest approval before one that it makes void.
    found = undecided(model())
    assert [decision.version for decision in found] == ["1", "3", "2"]
    # A run that asks again meanwhile does not take back what was written.
    ask(name, "3", tracking_uri=mlflow_store)
    assert undecided(model()) == found
    for decision in found:
        carried_out(name, decision, tracking_uri=mlflow_store)
    assert undecided(model()) == unreadable(model()) == waiting(model()) == []
    # Asked anew, the same words are a new decision.
    ask(name, "3", tracking_uri=mlflow_store)
    assert tag(3) == "pending"
    say(name, ["3"], "approved by Ann: fine", tracking_uri=mlflow_store)
    assert [decision.version for decision in undecided(model())] == ["3"]


def test_what_is_promoted_by_other_means_waits_no_more(name: str, mlflow_store: str, ledger: Ledger) -> None:
    ask(name, "3", tracking_uri=mlflow_store)
    promote(name, "3", expected_champion=None, ledger=ledger, who="bob", why="", tracking_uri=mlflow_store)
    model = describe(name, tracking_uri=mlflow_store)
    assert model.versions[2].tags[TAG] == "approved by bob: "
    assert waiting(model) == undecided(model) == unreadable(model) == []


def test_a_rejected_version_is_never_promoted(name: str, mlflow_store: str, ledger: Ledger) -> None:
    change: dict[str, Any] = {
        "ledger": ledger,
        "who": "ann",
        "why": "it rhymes",
        "tracking_uri": mlflow_store,
    }
    promote(name, "1", expected_champion=None, **change)
    reject(name, "3", **change)
    assert describe(name, tracking_uri=mlflow_store).candidate is None
    with pytest.raises(UserError, match=r"version 3 was rejected by ann: it rhymes; .* never promoted"):
        promote(name, "3", expected_champion="1", **change)
    before = ledger.promotion_log(name)
    assert reject(name, "3", **{**change, "who": "bob"}).who == "ann"
    promote(name, "2", expected_champion="1", **change)
    assert reject(name, "3", **change).who == "ann"
    assert [row.action for row in ledger.promotion_log(name)[len(before) :]] == ["promote", "promote"]
    # What serves or has served is rolled back, and not rejected.
    for version in ("1", "2"):
        with pytest.raises(UserError, match=f"version {version} has served already"):
            reject(name, version, **change)
    with pytest.raises(UserError, match="no version 9"):
        reject(name, "9", **change)
    assert rollback(name, **change) == "1"


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_what_was_interrupted_is_finished_before_a_version_is_rejected(
    action: str, name: str, mlflow_store: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    change: dict[str, Any] = {"ledger": ledger, "who": "ann", "why": "w", "tracking_uri": mlflow_store}
    promote(name, "1", expected_champion=None, **change)
    if action == "rollback":
        promote(name, "2", expected_champion="1", **change)
    with monkeypatch.context() as patch:
        kill(patch, MlflowClient, "set_registered_model_alias", "after")
        more = {"version": "2", "expected_champion": "1"} if action == "promote" else {}
        with pytest.raises(Killed):
            {"promote": promote, "rollback": rollback}[action](name, **more, **change)
    reject(name, "3", **change)
    assert recover(name, ledger=ledger, tracking_uri=mlflow_store) is None
    state = describe(name, tracking_uri=mlflow_store)
    assert (state.champion, state.previous) == (("2", "1") if action == "promote" else ("1", "2"))
    assert [(row.action, str(row.phase)) for row in ledger.promotion_log(name)[-3:]] == [
        (action, "begun"),
        (action, "done"),
        ("reject", "done"),
    ]
