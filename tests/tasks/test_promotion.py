"""One champion at a time: promotion, rollback, and what is left of either when its process is killed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tasks import ledger_schema as schema
from tasks.ledger import LeaseHeld, LeaseLost, Ledger, Phase
from tasks.promotion import promote, recover, rollback
from tasks.records import UserError
from tasks.registry import describe, resolve_version, version_of
from tasks.tracking import tracking
from tests.killing import killed
from tests.tasks.ledger_tools import NOON

_names = itertools.count()


@pytest.fixture
def name() -> str:
    """A registered model name of the test's own."""
    return f"promotion-{next(_names)}"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


@pytest.fixture
def versions(name: str, mlflow_store: str, tmp_path: Path) -> list[str]:
    """Three versions, of nothing: a promotion only moves names."""
    with tracking(mlflow_store) as client:
        client.create_registered_model(name)
        numbers = [str(client.create_model_version(name, source=str(tmp_path)).version) for _ in range(3)]
        client.set_registered_model_alias(name, "candidate", numbers[-1])
    return numbers


Aliases = Callable[[], tuple[str | None, str | None, str | None]]


@pytest.fixture
def aliases(name: str, mlflow_store: str) -> Aliases:
    def read() -> tuple[str | None, str | None, str | None]:
        described = describe(name, tracking_uri=mlflow_store)
        return described.champion, described.previous, described.candidate

    return read


@pytest.fixture
def change(name: str, mlflow_store: str, ledger: Ledger) -> dict[str, Any]:
    """What every change of champion is given."""
    return {"ledger": ledger, "who": "ada", "why": "gates passed", "tracking_uri": mlflow_store}


def phases(ledger: Ledger, name: str) -> list[tuple[str, str | None, str | None, str]]:
    log = ledger.promotion_log(name)
    return [(row.action, row.from_version, row.to_version, str(row.phase)) for row in log]


def test_promote_and_roll_back_and_forward(
    name: str,
    versions: list[str],
    aliases: Aliases,
    change: dict[str, Any],
    ledger: Ledger,
    mlflow_store: str,
) -> None:
    promote(name, "1", expected_champion=None, **change)
    assert aliases() == ("1", None, "3")
    with pytest.raises(UserError, match="no version before its champion"):
        rollback(name, **change)
    promote(name, "3", expected_champion="1", run_id="run-7", **change)
    assert aliases() == ("3", "1", None)
    tags = describe(name, tracking_uri=mlflow_store).versions[2].tags
    assert (tags["mendflow.promoted_by"], tags["mendflow.reason"]) == ("ada", "gates passed")
    assert tags["mendflow.promoted_at"]
    promote(name, "3", expected_champion="1", **change)
    assert rollback(name, **change) == "1"
    assert aliases() == ("1", "3", None)
    assert rollback(name, **change) == "3"
    assert aliases() == ("3", "1", None)
    done = [row[:3] for row in phases(ledger, name) if row[3] == "done"]
    assert done == [
        ("promote", None, "1"),
        ("promote", "1", "3"),
        ("rollback", "3", "1"),
        ("rollback", "1", "3"),
    ]
    assert ledger.promotion_log(name)[-5].run_id == "run-7"


def test_a_candidate_measured_against_another_champion_is_refused(
    name: str, versions: list[str], aliases: Aliases, change: dict[str, Any], ledger: Ledger
) -> None:
    promote(name, "1", expected_champion=None, **change)
    promote(name, "2", expected_champion="1", **change)
    with pytest.raises(UserError, match="version 3 was compared with champion 1, but now the champion is 2"):
        promote(name, "3", expected_champion="1", **change)
    with pytest.raises(UserError, match="compared with champion none"):
        promote(name, "3", expected_champion=None, **change)
    with pytest.raises(UserError, match="no version 9"):
        promote(name, "9", expected_champion="2", **change)
    assert aliases() == ("2", "1", "3")
    assert phases(ledger, name)[-1] == ("promote", "1", "2", "done")


def test_two_changes_at_once_are_refused(
    name: str, versions: list[str], aliases: Aliases, change: dict[str, Any], ledger: Ledger
) -> None:
    with ledger.lease(f"{name}/champion", "grace"), pytest.raises(LeaseHeld, match="grace"):
        promote(name, "1", expected_champion=None, **change)
    assert aliases() == (None, None, "3")
    # The flow that promotes holds the lease on the model itself.
    with ledger.lease(name, "ada"):
        promote(name, "1", expected_champion=None, **change)


KILLED_AT = [
    ("client", "set_registered_model_alias", "before", 1),
    ("client", "set_registered_model_alias", "after", 1),
    ("client", "set_registered_model_alias", "before", 2),
    ("client", "set_registered_model_alias", "after", 2),
    ("client", "delete_registered_model_alias", "before", 1),
    ("client", "delete_registered_model_alias", "after", 1),
    ("client", "set_model_version_tag", "before", 2),
    ("ledger", "log_promotion", "after", 1),
    ("ledger", "log_promotion", "before", 2),
]


@pytest.mark.parametrize(
    ("at", "then"),
    [*((at, "recover") for at in KILLED_AT), (KILLED_AT[1], "promote"), (KILLED_AT[-1], "promote")],
)
def test_a_killed_promotion_is_finished_at_the_next_start(
    at: tuple[Any, ...],
    then: str,
    name: str,
    versions: list[str],
    aliases: Aliases,
    change: dict[str, Any],
    ledger: Ledger,
    mlflow_store: str,
) -> None:
    from mlflow import MlflowClient

    promote(name, "1", expected_champion=None, **change)
    with killed(MlflowClient if at[0] == "client" else Ledger, *at[1:]):
        promote(name, "3", expected_champion="1", **change)
    assert ledger.unfinished_promotion(name) is not None
    if then == "recover":
        finished = recover(name, ledger=ledger, tracking_uri=mlflow_store)
        assert finished is not None
        assert finished.to_version == "3"
    else:
        promote(name, "3", expected_champion="1", **change)
    assert aliases() == ("3", "1", None)
    assert describe(name, tracking_uri=mlflow_store).versions[2].tags["mendflow.promoted_by"] == "ada"
    assert phases(ledger, name)[-1] == ("promote", "1", "3", "done")
    assert recover(name, ledger=ledger, tracking_uri=mlflow_store) is None
    assert len([row for row in phases(ledger, name) if row[3] == "done"]) == 2


@pytest.mark.parametrize("at", [a for a in KILLED_AT if a[1] != "delete_registered_model_alias"], ids=str)
def test_a_killed_rollback_run_again_rolls_back_once(
    at: tuple[Any, ...],
    name: str,
    versions: list[str],
    aliases: Aliases,
    change: dict[str, Any],
    ledger: Ledger,
) -> None:
    from mlflow import MlflowClient

    promote(name, "1", expected_champion=None, **change)
    promote(name, "3", expected_champion="1", **change)
    with killed(MlflowClient if at[0] == "client" else Ledger, *at[1:]):
        rollback(name, **change)
    assert rollback(name, **change) == "1"
    assert aliases() == ("1", "3", None)
    assert phases(ledger, name)[-1] == ("rollback", "3", "1", "done")


def test_a_promotion_whose_version_is_gone_is_undone(
    name: str,
    versions: list[str],
    aliases: Aliases,
    change: dict[str, Any],
    ledger: Ledger,
    mlflow_store: str,
) -> None:
    from mlflow import MlflowClient

    promote(name, "1", expected_champion=None, **change)
    promote(name, "2", expected_champion="1", **change)
    with killed(MlflowClient, "set_registered_model_alias", "after"):
        promote(name, "3", expected_champion="2", **change)
    with tracking(mlflow_store) as client:
        client.delete_model_version(name, "3")
    assert recover(name, ledger=ledger, tracking_uri=mlflow_store) is None
    assert aliases() == ("2", "1", None)
    assert phases(ledger, name)[-1] == ("promote", "2", "3", str(Phase.FAILED))
    assert rollback(name, **change) == "1"


def test_a_champion_moved_by_hand_meanwhile_stays(
    name: str,
    versions: list[str],
    aliases: Aliases,
    change: dict[str, Any],
    ledger: Ledger,
    mlflow_store: str,
) -> None:
    from mlflow import MlflowClient

    promote(name, "1", expected_champion=None, **change)
    with killed(MlflowClient, "set_registered_model_alias", "after"):
        promote(name, "3", expected_champion="1", **change)
    with tracking(mlflow_store) as client:
        client.set_registered_model_alias(name, "champion", "2")
    assert recover(name, ledger=ledger, tracking_uri=mlflow_store) is None
    assert aliases()[0] == "2"
    assert phases(ledger, name)[-1][3] == "failed"


def test_versions_are_found_by_number_and_alias(name: str, mlflow_store: str, versions: list[str]) -> None:
    assert resolve_version(name, "@candidate", tracking_uri=mlflow_store) == versions[-1]
    assert resolve_version(name, "candidate", tracking_uri=mlflow_store) == versions[-1]
    assert resolve_version(name, "1", tracking_uri=mlflow_store) == "1"
    assert version_of(name, "champion", tracking_uri=mlflow_store) is None
    with pytest.raises(UserError, match="no version 'champion'; its aliases: candidate = 3; its newest"):
        resolve_version(name, "champion", tracking_uri=mlflow_store)
    with pytest.raises(UserError, match="newest version: none"):
        resolve_version("never-registered", "1", tracking_uri=mlflow_store)


def test_one_that_a_hanging_store_held_up_past_its_lease_moves_nothing_more(
    name: str,
    versions: list[str],
    aliases: Aliases,
    change: dict[str, Any],
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    promote(name, "1", expected_champion=None, **change)
    real, calls = MlflowClient.set_registered_model_alias, itertools.count()

    def hanging(client: MlflowClient, *arguments: str) -> None:
        real(client, *arguments)
        if next(calls) == 0:
            with ledger._database.writing() as connection:
                connection.execute(sa.update(schema.leases).values(expires_at=NOON))
            # Another process finishes what it finds, and goes on.
            promote(name, "3", expected_champion="2", **change)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", hanging)
    with pytest.raises(LeaseLost):
        promote(name, "2", expected_champion="1", **change)
    assert aliases() == ("3", "2", None)
    assert phases(ledger, name)[-4:] == [
        ("promote", "1", "2", "begun"),
        ("promote", "1", "2", "done"),
        ("promote", "2", "3", "begun"),
        ("promote", "2", "3", "done"),
    ]
    assert rollback(name, **change) == "2"
