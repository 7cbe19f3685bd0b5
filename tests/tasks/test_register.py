"""Registering: one version however often it is tried, and nothing half done after a kill."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from editors.delta import Delta
from tasks.models import ModelFolder, resolve
from tasks.records import UserError
from tasks.register import register
from tasks.registry import RegisteredModel, describe
from tasks.tracking import tracking
from tests.conftest import ModelFactory
from tests.deltas import save_delta
from tests.killing import killed

_names = itertools.count()


@pytest.fixture
def name() -> str:
    """A registered model name of the test's own."""
    return f"register-{next(_names)}"


def test_registering_twice_gives_one_version(
    name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path
) -> None:
    delta = save_delta(base, tmp_path / "delta")
    manifest = {"ledger_digest": "a" * 64, "editor_digest": "e" * 64}

    def again(**changes: Any) -> str:
        given = {"base": base, "delta_dir": delta, "manifest": manifest, "tags": {"note": "x"}, **changes}
        return register(name, tracking_uri=mlflow_store, metrics={"edit_success_greedy": 0.9}, **given)

    assert again() == again() == "1"
    assert again(manifest={**manifest, "ledger_digest": "b" * 64}) == "2"
    assert again(delta_dir=None) == "3"
    assert again() == "1"
    described = describe(name, tracking_uri=mlflow_store)
    assert described.candidate == "1"
    assert [version.number for version in described.versions] == ["1", "2", "3"]
    tags = described.versions[0].tags
    assert tags["mendflow.base_digest"] == base.digest
    assert tags["mendflow.base_ref"] == base.ref
    assert tags["mendflow.delta_digest"] == Delta.load(delta).digest()
    assert (tags["mendflow.ledger_digest"], tags["mendflow.editor_digest"]) == ("a" * 64, "e" * 64)
    assert tags["note"] == "x"


def test_figures_and_evidence_stay_with_the_version(
    name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path
) -> None:
    import mlflow

    evidence = tmp_path / "whatever"
    (evidence / "docs").mkdir(parents=True)
    (evidence / "docs" / "report.html").write_text("<html>")
    with tracking(mlflow_store) as client:
        run = client.create_run(
            client.create_experiment(name, artifact_location=(tmp_path / "runs").as_uri())
        ).info
        metrics = {"edit_success_greedy": 0.9, "not_measured": float("nan")}
        register(
            name, tracking_uri=mlflow_store, base=base, metrics=metrics, run_id=run.run_id, artifacts=evidence
        )
        assert client.get_run(run.run_id).info.status == "RUNNING"
        assert client.get_run(run.run_id).data.metrics == {"edit_success_greedy": 0.9}
        version = client.get_model_version(name, "1")
        assert version.run_id == run.run_id
        (logged,) = client.search_logged_models([run.experiment_id])
        assert {metric.key: metric.value for metric in logged.metrics} == {"edit_success_greedy": 0.9}
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/1"))
    assert (folder / "artifacts" / "evidence" / "docs" / "report.html").read_text() == "<html>"
    about = json.loads((folder / "artifacts" / "mendflow" / "version.json").read_text())
    assert about["base"] == {"ref": base.ref, "revision": None, "digest": base.digest}


def test_a_version_is_small_and_holds_no_base_weights(
    name: str, mlflow_store: str, base: ModelFolder, tmp_path: Path
) -> None:
    import mlflow

    register(name, tracking_uri=mlflow_store, base=base, delta_dir=save_delta(base, tmp_path / "delta"))
    with tracking(mlflow_store):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/1"))
    stored = [path for path in folder.rglob("*") if path.suffix == ".safetensors"]
    assert [path.name for path in stored] == ["delta.safetensors"]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20_000


@pytest.mark.parametrize(
    "step",
    ["log_model_artifacts", "finalize_logged_model", "create_model_version", "set_registered_model_alias"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_registration_is_taken_up(
    step: str,
    when: str,
    name: str,
    mlflow_store: str,
    base: ModelFolder,
    tmp_path: Path,
) -> None:
    from mlflow import MlflowClient

    delta = save_delta(base, tmp_path / "delta")
    with killed(MlflowClient, step, when):
        register(name, tracking_uri=mlflow_store, base=base, delta_dir=delta)
    assert register(name, tracking_uri=mlflow_store, base=base, delta_dir=delta) == "1"
    described = describe(name, tracking_uri=mlflow_store)
    assert len(described.versions) == 1
    assert described.candidate == "1"
    with tracking(mlflow_store) as client:
        experiment = client.get_experiment_by_name(name).experiment_id
        assert len(client.search_logged_models([experiment])) == 1
    assert resolve(f"models:/{name}/1", tracking_uri=mlflow_store, cache=tmp_path / "cache").delta is not None


def test_a_delta_for_another_base_is_not_registered(
    name: str, mlflow_store: str, base: ModelFolder, tiny_llama: ModelFactory, tmp_path: Path
) -> None:
    other = resolve(str(tiny_llama(seed=1)), cache=tmp_path / "cache")
    delta = save_delta(other, tmp_path / "delta")
    with pytest.raises(UserError, match="use the base it was made for"):
        register(name, tracking_uri=mlflow_store, base=base, delta_dir=delta)
    corrected = ModelFolder(other.path, other.digest, other.ref, delta)
    with pytest.raises(UserError, match="pristine base"):
        register(name, tracking_uri=mlflow_store, base=corrected)
    with pytest.raises(UserError, match="quote"):
        register("it's", tracking_uri=mlflow_store, base=base)
    assert describe(name, tracking_uri=mlflow_store) == RegisteredModel(name)
