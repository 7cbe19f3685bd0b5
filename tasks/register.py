"""Registering: a version is a small MLflow model, a delta and a reference to its base, known by digest."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tasks import models
from tasks.models import ModelFolder
from tasks.records import UserError
from tasks.registry import CANDIDATE, CHAMPION, aliases_of, all_versions, quotable
from tasks.tracking import experiment_id, store_failed, tracking
from tasks.weights import quiet

NO_DELTA = "none"
SERVING_CODE = Path(__file__).with_name("serving_model.py")
EVIDENCE_FOLDER = "evidence"

KEY_TAG = "mendflow.key"
DELTA_TAG = "mendflow.delta_digest"
BASE_TAG = "mendflow.base_digest"
BASE_REF_TAG = "mendflow.base_ref"
LEDGER_TAG = "mendflow.ledger_digest"
EDITOR_TAG = "mendflow.editor_digest"


def register(
    name: str,
    *,
    tracking_uri: str | None,
    base: ModelFolder,
    delta_dir: Path | None = None,
    manifest: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    run_id: str | None = None,
    artifacts: Path | None = None,
) -> str:
    """Register base and delta as a version with the alias `candidate`; the version's number.

    Registering the same delta, base and ledger digest again returns the version there is, whatever was
    interrupted the first time; its alias is set again unless it is the champion already.

    Args:
        name: registered model, made if there is none.
        tracking_uri: the MLflow store.
        base: the pristine base; only its reference and digest are stored.
        delta_dir: folder written by `Delta.save`; None registers the base itself.
        manifest: the delta's manifest; `ledger_digest` and `editor_digest` become tags.
        metrics: logged on the run and the version; those that are not numbers are left out.
        tags: more tags of the version.
        run_id: the run that made it; without one, its metrics get a run of their own.
        artifacts: folder with the report, the verdict and whatever else belongs to the version.

    Raises:
        UserError: the delta is for another base, or MLflow refuses.
    """
    from mlflow.exceptions import MlflowException

    if base.delta is not None:
        raise UserError(f"{base.ref} is a corrected version; register a delta over the pristine base")
    delta_digest = NO_DELTA
    if delta_dir is not None:
        delta_digest = models.load_delta(delta_dir, base).digest()
    manifest = manifest or {}
    ledger_digest = str(manifest.get("ledger_digest") or "")
    own = {
        KEY_TAG: _key(name, base.digest, delta_digest, ledger_digest),
        DELTA_TAG: delta_digest,
        BASE_TAG: base.digest,
        BASE_REF_TAG: base.ref,
        LEDGER_TAG: ledger_digest,
        EDITOR_TAG: str(manifest.get("editor_digest") or ""),
    }
    with tracking(tracking_uri, create=True) as client:
        try:
            _ensure_model(client, name)
            number = _find(client, name, own)
            if number is None:
                model_id = _log_model(client, name, base, delta_dir, own, metrics or {}, run_id, artifacts)
                created = client.create_model_version(
                    name,
                    source=f"models:/{model_id}",
                    run_id=run_id,
                    tags={**{key: str(value) for key, value in (tags or {}).items()}, **own},
                    model_id=model_id,
                )
                number = str(created.version)
            if aliases_of(client, name).get(CHAMPION) != number:
                client.set_registered_model_alias(name, CANDIDATE, number)
        except MlflowException as error:
            if store_failed(error):
                raise
            raise UserError(f"MLflow does not register {name!r}: {error.message}") from error
    return number


def _key(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


def _ensure_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    quotable(name)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _find(client: Any, name: str, own: Mapping[str, str]) -> str | None:
    """The version with these digests; its tags are written with it, so it is whole or not there."""
    query = f"name = '{name}' and tags.`{DELTA_TAG}` = '{own[DELTA_TAG]}'"
    same = (DELTA_TAG, LEDGER_TAG, BASE_TAG)
    found = [
        int(version.version)
        for version in all_versions(client, query)
        if all(version.tags.get(tag, "") == own[tag] for tag in same)
    ]
    return str(min(found)) if found else None


def _log_model(
    client: Any,
    name: str,
    base: ModelFolder,
    delta_dir: Path | None,
    own: Mapping[str, str],
    metrics: Mapping[str, float],
    run_id: str | None,
    artifacts: Path | None,
) -> str:
    """Store the MLflow model, or take up the one that an interrupted registration left; its model id."""
    experiment = client.get_run(run_id).info.experiment_id if run_id else experiment_id(client, name)
    for found in client.search_logged_models(
        [experiment], filter_string=f"tags.`{KEY_TAG}` = '{own[KEY_TAG]}'"
    ):
        if str(found.status) == "READY":
            return str(found.model_id)
        client.delete_logged_model(found.model_id)
    logged = client.create_logged_model(experiment, name=name, source_run_id=run_id, tags=dict(own))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        _write_model(folder, logged.model_id, base, delta_dir, own[DELTA_TAG], artifacts)
        client.log_model_artifacts(logged.model_id, str(folder))
    _log_metrics(client, experiment, logged.model_id, metrics, run_id)
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def _write_model(
    folder: Path,
    model_id: str,
    base: ModelFolder,
    delta_dir: Path | None,
    delta_digest: str,
    artifacts: Path | None,
) -> None:
    import mlflow
    from mlflow.models import Model
    from mlflow.types.schema import DataType, ParamSchema, ParamSpec

    with tempfile.TemporaryDirectory() as scratch:
        own = Path(scratch) / models.VERSION_FOLDER
        own.mkdir()
        about = {
            "format": models.VERSION_FORMAT,
            "base": {"ref": base.ref, "revision": base.revision, "digest": base.digest},
            "delta_digest": None if delta_dir is None else delta_digest,
        }
        (own / models.VERSION_FILE).write_text(json.dumps(about, indent=2))
        if delta_dir is not None:
            shutil.copytree(delta_dir, own / models.DELTA_FOLDER)
        stored = {models.VERSION_FOLDER: str(own)}
        if artifacts is not None:
            # Copied under its own name: MLflow names an artifact's folder after the one it came from.
            shutil.copytree(artifacts, Path(scratch) / EVIDENCE_FOLDER)
            stored[EVIDENCE_FOLDER] = str(Path(scratch) / EVIDENCE_FOLDER)
        with quiet():
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(SERVING_CODE),
                artifacts=stored,
                pip_requirements=_requirements(),
                mlflow_model=Model(model_id=model_id),
            )
    # The type hints of `predict` give inputs and outputs, but no way to say which parameters it takes.
    described = Model.load(folder)
    kinds = {bool: DataType.boolean, int: DataType.long}
    described.signature.params = ParamSchema(
        [ParamSpec(key, kinds[type(value)], value) for key, value in models.SERVING_DEFAULTS.items()]
    )
    described.save(folder / "MLmodel")


def _requirements() -> list[str]:
    found = []
    for distribution in ("mendflow", "mlflow", "torch", "transformers", "safetensors"):
        try:
            found.append(f"{distribution}=={metadata.version(distribution).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            found.append(distribution)
    return found


def _log_metrics(
    client: Any, experiment: str, model_id: str, metrics: Mapping[str, float], run_id: str | None
) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    rows = [
        Metric(key, float(value), now, 0, model_id=model_id)
        for key, value in metrics.items()
        if value is not None and math.isfinite(value)
    ]
    if not rows:
        return
    run = run_id or client.create_run(experiment, run_name="register").info.run_id
    for first in range(0, len(rows), 1000):
        client.log_batch(run, metrics=rows[first : first + 1000])
    if run_id is None:
        client.set_terminated(run)
