"""What may be thrown away, what stays whatever its age, and that what is removed is gone from the disk."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from tasks import approval
from tasks.evidence import evidence_of
from tasks.ledger import LeaseHeld, Ledger
from tasks.promotion import promote, rollback
from tasks.records import UserError
from tasks.register import DELTA_TAG, KEY_TAG, NO_DELTA
from tasks.registry import describe, tag_version
from tasks.retention import LEFT_OVER, RUN, TRAINING, VERSION, find, remove
from tasks.tracking import tracking
from tasks.verdicts import COMPARED_TAG, RUN_TAG
from tests.killing import killed

_names = itertools.count()
_SIZE = 1000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


Store = Callable[..., str]
OWN = {KEY_TAG: "k"}


@pytest.fixture
def store(mlflow_store: str, tmp_path: Path) -> Store:
    """`store(name)` stores a model of some bytes, as a run does before it makes a version of it; its id."""

    def store(name: str, tags: dict[str, str] = OWN) -> str:
        with tracking(mlflow_store) as client:
            if client.get_experiment_by_name(name) is None:
                client.create_experiment(name, artifact_location=(tmp_path / "artifacts").as_uri())
            experiment = client.get_experiment_by_name(name).experiment_id
            model_id = client.create_logged_model(experiment, name=name, tags=tags).model_id
            folder = tmp_path / f"of-{model_id}" / "delta"
            folder.mkdir(parents=True)
            (folder / "weights").write_bytes(bytes(_SIZE))
            client.log_model_artifacts(model_id, str(folder.parent))
            client.finalize_logged_model(model_id, "READY")
        return str(model_id)

    return store


@pytest.fixture
def name(mlflow_store: str, store: Store, ledger: Ledger) -> str:
    """A model of ten versions: 1 (the base), 2, 3, 4 and 6 have served, and 6 was rolled back from."""
    name = f"retention-{next(_names)}"
    with tracking(mlflow_store) as client:
        client.create_registered_model(name)
        for _ in range(10):
            model_id = store(name)
            client.create_model_version(name, source=f"models:/{model_id}", model_id=model_id, tags=OWN)
        client.set_registered_model_alias(name, "candidate", "10")
    tag_version(name, "1", {DELTA_TAG: NO_DELTA}, tracking_uri=mlflow_store)
    before = None
    for version in ("1", "2", "3", "4", "6"):
        promote(
            name, version, expected_champion=before, ledger=ledger, who="a", why="", tracking_uri=mlflow_store
        )
        before = version
    rollback(name, ledger=ledger, who="a", why="", tracking_uri=mlflow_store)
    return name


def going(name: str, mlflow_store: str, home: Path, ledger: Ledger, keep: int, days: float = 0) -> list[str]:
    found = find(name, home=home, tracking_uri=mlflow_store, ledger=ledger, keep=keep, days=days)
    assert {one.what for one in found} <= {VERSION}
    assert {one.bytes for one in found} <= {_SIZE}
    return [one.name for one in found]


def test_what_serves_may_serve_or_is_gone_back_to_stays(
    name: str, mlflow_store: str, tmp_path: Path, ledger: Ledger
) -> None:
    # Champion 4, previous 6, candidate 10; 1 is the base.
    assert going(name, mlflow_store, tmp_path, ledger, keep=1) == ["2", "3", "5", "7", "8"]
    assert going(name, mlflow_store, tmp_path, ledger, keep=2) == ["2", "3", "5", "7"]
    # The last three champions are 4, 6 and 3.
    assert going(name, mlflow_store, tmp_path, ledger, keep=3) == ["2", "5"]
    assert going(name, mlflow_store, tmp_path, ledger, keep=1, days=1) == []
    # Another registered model has no files of its own for a copy.
    with tracking(mlflow_store) as client:
        client.copy_model_version(f"models:/{name}/2", f"{name}-copy")
        client.create_registered_model(f"{name}-other")
        client.create_model_version(f"{name}-other", source=client.get_model_version(name, "8").source)
    assert going(name, mlflow_store, tmp_path, ledger, keep=1) == ["3", "5", "7"]
    tag_version(name, "4", {COMPARED_TAG: "3"}, tracking_uri=mlflow_store)
    assert going(name, mlflow_store, tmp_path, ledger, keep=1) == ["5", "7"]
    # That of the version before, to which a rollback goes.
    tag_version(name, "6", {COMPARED_TAG: "5"}, tracking_uri=mlflow_store)
    assert going(name, mlflow_store, tmp_path, ledger, keep=1) == ["7"]
    tag_version(name, "6", {COMPARED_TAG: "4"}, tracking_uri=mlflow_store)
    approval.ask(name, "5", tracking_uri=mlflow_store)
    approval.say(name, ["7"], "approved by Ann: fine", tracking_uri=mlflow_store)
    assert going(name, mlflow_store, tmp_path, ledger, keep=1) == []


def test_what_people_stored_under_the_same_name_themselves_is_left_alone(
    name: str, mlflow_store: str, store: Store, tmp_path: Path, ledger: Ledger
) -> None:
    before = going(name, mlflow_store, tmp_path, ledger, keep=1)
    store(name, {})
    stored = store(name, {})
    with tracking(mlflow_store) as client:
        client.create_model_version(name, source=f"models:/{stored}", model_id=stored)
    assert going(name, mlflow_store, tmp_path, ledger, keep=1) == before


@pytest.mark.parametrize("path", ["..", "{}", "../other"])
def test_a_path_is_no_models_name(tmp_path: Path, path: str) -> None:
    (tmp_path / "project" / "mine").mkdir(parents=True)
    named = path.format(tmp_path / "project")
    done = CliRunner().invoke(
        app, ["clean", named, "--home", str(tmp_path / "home"), "--days", "0", "--remove"]
    )
    assert isinstance(done.exception, UserError)
    assert "cannot be a model's name" in str(done.exception)
    assert (tmp_path / "project" / "mine").is_dir()


def test_what_is_removed_is_gone_from_the_disk_also_after_an_interruption(
    name: str,
    mlflow_store: str,
    store: Store,
    tmp_path: Path,
    ledger: Ledger,
) -> None:
    from mlflow import MlflowClient

    stored = tmp_path / "artifacts" / "models"
    before = set(stored.iterdir())
    for number in ("3", "4"):
        tag_version(name, number, {RUN_TAG: f"run{number}"}, tracking_uri=mlflow_store)
        (evidence_of(tmp_path) / f"run{number}").mkdir(parents=True)
    # Judged by the same as one that is kept; and what nobody but an intruder writes.
    tag_version(name, "9", {RUN_TAG: "run3"}, tracking_uri=mlflow_store)
    tag_version(name, "2", {RUN_TAG: "run4"}, tracking_uri=mlflow_store)
    tag_version(name, "5", {RUN_TAG: "../of-others"}, tracking_uri=mlflow_store)
    (tmp_path / "of-others").mkdir()
    found = find(name, home=tmp_path, tracking_uri=mlflow_store, ledger=ledger, keep=1, days=0)
    with killed(MlflowClient, "delete_model_version", "after"):
        remove(found, name, home=tmp_path, tracking_uri=mlflow_store)
    assert set(stored.iterdir()) == before
    found = find(name, home=tmp_path, tracking_uri=mlflow_store, ledger=ledger, keep=1, days=0)
    assert [one.what for one in found] == [VERSION] * 4 + [LEFT_OVER]
    remove(found, name, home=tmp_path, tracking_uri=mlflow_store)
    assert len([folder for folder in stored.iterdir() if any(folder.rglob("weights"))]) == len(before) - 5
    numbers = [version.number for version in describe(name, tracking_uri=mlflow_store).versions]
    assert numbers == ["1", "4", "6", "9", "10"]
    assert sorted(kept.name for kept in evidence_of(tmp_path).iterdir()) == ["run3", "run4"]
    assert (tmp_path / "of-others").is_dir()
    assert find(name, home=tmp_path, tracking_uri=mlflow_store, ledger=ledger, keep=1, days=0) == []


def test_folders_are_listed_first_and_removed_when_the_user_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for days, folder in enumerate(["runs/m/a", "runs/m/b", "runs/m/c", "runs/other/a", "training/mend/x"]):
        file = home / folder / "part" / "file"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(_SIZE))
        for path in (file, file.parent, file.parent.parent):
            os.utime(path, (time.time() - 86400 * (50 + days),) * 2)

    def clean(*arguments: str) -> Result:
        command = ["clean", "m", "--home", str(home), *arguments]
        return CliRunner().invoke(app, command, env={"COLUMNS": "300"})

    listed = clean("--keep", "2").output
    for part in (RUN, str(home / "runs/m/c"), TRAINING, str(home / "training/mend/x"), "1.0 kB"):
        assert part in listed
    assert str(home / "runs/m/b") not in listed
    assert f"2 may go, 2.0 kB: `mendflow clean m --keep 2 --days 30 --remove --home {home}`" in listed
    assert (home / "runs/m/c").is_dir()
    assert "nothing may go" in clean("--keep", "2", "--days", "60").output
    # One that may be under way, of whatever model.
    fresh = home / "training" / "mend" / "fresh" / "file"
    fresh.parent.mkdir()
    fresh.touch()
    assert str(fresh.parent) not in clean("--keep", "2", "--days", "0").output
    with Ledger(f"sqlite:///{home / 'ledger.db'}") as ledger, ledger.lease("m/correct", "a run"):
        assert isinstance(clean("--keep", "2", "--remove").exception, LeaseHeld)
    assert (home / "runs/m/c").is_dir()
    assert "2 removed, 2.0 kB" in clean("--keep", "2", "--remove").output
    assert not (home / "runs/m/c").exists()
    assert not (home / "training/mend/x").exists()
    assert (home / "runs/m/b").is_dir()
    assert (home / "runs/other/a").is_dir()
