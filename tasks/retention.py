"""What of a model may be thrown away: old versions, what interruptions left, folders of runs, checkpoints."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tasks import approval
from tasks.evidence import evidence_of
from tasks.ledger import Ledger, Phase
from tasks.promotion_log import CHANGES
from tasks.register import DELTA_TAG, KEY_TAG, NO_DELTA
from tasks.registry import RegisteredModel, all_versions, describe, quotable
from tasks.tracking import has_store, tracking
from tasks.verdicts import COMPARED_TAG, RUN_TAG

VERSION, LEFT_OVER, RUN, TRAINING = "version", "left over", "run", "training"
# A training that has written no checkpoint for so long is none that is under way.
_TRAINING_DAYS = 1.0


@dataclass(frozen=True)
class Leftover:
    """Something that may go.

    `what` is a version that nothing needs, a stored model of no version (`left over`), the folder of a run,
    or that of an interrupted training; `name` its number, its MLflow id or its path.
    """

    what: str
    name: str
    at: datetime
    bytes: int


def find(
    name: str, *, home: Path, tracking_uri: str, ledger: Ledger, keep: int, days: float
) -> list[Leftover]:
    """What nothing needs of what is older than `days` and not among the newest `keep` of its kind.

    Versions that stay whatever their age: those with an alias, those that wait for a person, the last `keep`
    champions, versions that one of these was compared with, the base, and any that another registered model
    has a copy of. What mendflow has not registered itself is left alone.
    """
    now = datetime.now(UTC)
    before = dict.fromkeys((VERSION, LEFT_OVER, RUN), now - timedelta(days=days))
    # Trainings are those of all models, and no lease of this one keeps another's from being under way.
    before[TRAINING] = now - timedelta(days=max(days, _TRAINING_DAYS))
    found: list[Leftover] = []
    if has_store(tracking_uri):
        with tracking(tracking_uri) as client:
            found += _versions(client, describe(name, tracking_uri=tracking_uri), ledger, keep)
            found += _models_of_no_version(client, name)
    found += sorted(_folders(RUN, home / "runs" / name), key=lambda one: one.at)[: -keep or None]
    for of_editor in _subfolders(home / "training"):
        found += _folders(TRAINING, of_editor)
    return [one for one in found if one.at < before[one.what]]


def remove(leftovers: list[Leftover], name: str, *, home: Path, tracking_uri: str) -> None:
    """Throw away what `find` found, while nothing else is at work on the model.

    A version goes before what it stores, which is `left over` for the next time if this is killed in between,
    and after what the home keeps of its verdict.
    """
    for one in leftovers:
        if one.what in (RUN, TRAINING):
            shutil.rmtree(one.name)
            continue
        with tracking(tracking_uri) as client:
            model_id = one.name
            if one.what == VERSION:
                version = client.get_model_version(name, one.name)
                model_id = _stored_as(version)
                _forget_evidence(client, version, home)
                client.delete_model_version(name, one.name)
            _remove_model(client, model_id)


def _forget_evidence(client: Any, version: Any, home: Path) -> None:
    """Remove what the home keeps of a version's verdict, unless another version was judged by the same."""
    run_id = version.tags.get(RUN_TAG, "")
    # Whoever reaches MLflow writes tags: one that is no run's id is no folder's name either.
    if not re.fullmatch(r"\w+", run_id):
        return
    found = all_versions(client, f"tags.`{RUN_TAG}` = '{run_id}'")
    if {(one.name, str(one.version)) for one in found} <= {(version.name, str(version.version))}:
        shutil.rmtree(evidence_of(home) / run_id, ignore_errors=True)


def _versions(client: Any, model: RegisteredModel, ledger: Ledger, keep: int) -> Iterator[Leftover]:
    needed = _needed(model, ledger, keep)
    others = [one for one in model.versions if one.number not in needed and KEY_TAG in one.tags]
    for version in others[: -keep or None]:
        stored = client.get_model_version(model.name, version.number)
        model_id = _stored_as(stored)
        # Another registered model's copy has no files of its own.
        copies = {
            (copy.name, str(copy.version))
            for source in {stored.source, f"models:/{model.name}/{version.number}"}
            for copy in all_versions(client, f"source_path = '{quotable(source)}'")
        }
        if copies <= {(model.name, version.number)}:
            at = datetime.fromtimestamp(version.created_at_ms / 1000, UTC)
            yield Leftover(VERSION, version.number, at, _stored_bytes(client, model_id))


def _needed(model: RegisteredModel, ledger: Ledger, keep: int) -> set[str]:
    """Versions that serve, may serve, or are gone back to, and what they were compared with."""
    log = ledger.promotion_log(model.name)
    served = [row.to_version for row in reversed(log) if row.action in CHANGES and row.phase is Phase.DONE]
    waiting = {version.number for version in approval.waiting(model)}
    waiting |= {decision.version for decision in approval.undecided(model)}
    needed = {*model.aliases.values(), *waiting, *list(dict.fromkeys(served))[:keep]}
    needed |= {v.tags[COMPARED_TAG] for v in model.versions if v.number in needed and COMPARED_TAG in v.tags}
    needed |= {version.number for version in model.versions if version.tags.get(DELTA_TAG) == NO_DELTA}
    return {number for number in needed if number}


def _models_of_no_version(client: Any, name: str) -> Iterator[Leftover]:
    held = {_stored_as(version) for version in all_versions(client, "")}
    experiments = [found.experiment_id for found in client.search_experiments()]
    token: str | None = None
    while token != "":
        page = client.search_logged_models(experiments, f"name = '{quotable(name)}'", page_token=token)
        for found in page:
            # Users may give models of their own this name.
            if found.model_id not in held and KEY_TAG in found.tags:
                at = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
                yield Leftover(LEFT_OVER, found.model_id, at, _stored_bytes(client, found.model_id))
        token = page.token or ""


def _stored_as(version: Any) -> str:
    """The id of the MLflow model that a version is."""
    return str(version.source or "").removeprefix("models:/")


def _stored_bytes(client: Any, model_id: str, path: str | None = None) -> int:
    from mlflow.exceptions import MlflowException

    try:
        listed = client.list_logged_model_artifacts(model_id, path)
    except (MlflowException, OSError):
        # Nothing can be said of what is stored elsewhere, or is gone.
        return 0
    return sum(_stored_bytes(client, model_id, f.path) if f.is_dir else f.file_size or 0 for f in listed)


def _remove_model(client: Any, model_id: str) -> None:
    """Its files, which MLflow would keep, and then the model."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if "/" in model_id:
        # A copy of another model's version: that one's files.
        return
    try:
        stored = client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    get_artifact_repository(stored.artifact_location).delete_artifacts()
    client.delete_logged_model(model_id)


def _folders(what: str, folder: Path) -> Iterator[Leftover]:
    for each in _subfolders(folder):
        files = [file.stat() for file in each.rglob("*") if file.is_file()]
        newest = max([each.stat().st_mtime, *(file.st_mtime for file in files)])
        at = datetime.fromtimestamp(newest, UTC)
        yield Leftover(what, os.fspath(each), at, sum(file.st_size for file in files))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
