"""MLflow runs that keep judgements: one for each key, found again after an interruption."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.edit_dataset import EditDataset
from tasks.records import StoreFailedError, UserError
from tasks.registry import quotable
from tasks.tracking import experiment_id, store_failed, tracking

RUN_KEY_TAG = "mendflow.run_key"


def run_of(tracking_uri: str, experiment: str, key: str) -> str:
    """The id of the run with this key, made if there is none."""
    with tracking(tracking_uri, create=True) as client:
        place = experiment_id(client, experiment)
        found = client.search_runs([place], f"tags.`{RUN_KEY_TAG}` = '{quotable(key)}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        return str(
            client.create_run(place, tags={RUN_KEY_TAG: key}, run_name=f"correct-{key[:8]}").info.run_id
        )


def log_run(
    tracking_uri: str,
    run_id: str,
    *,
    parameters: Mapping[str, str],
    metrics: Mapping[str, float],
    dataset: EditDataset,
    artifacts: Mapping[str, Path],
) -> None:
    """Log parameters, metrics, the dataset, and files or folders by artifact path; then end the run."""
    with tracking(tracking_uri) as client:
        import mlflow
        from mlflow.entities import DatasetInput, InputTag, Metric, Param
        from mlflow.exceptions import MlflowException

        run = client.get_run(run_id)
        fresh = [Param(k, v[:500]) for k, v in parameters.items() if k not in run.data.params]
        logged = [Metric(k, v, run.info.start_time, 0) for k, v in metrics.items()]
        client.log_batch(run_id, metrics=logged, params=fresh)
        if not run.inputs.dataset_inputs:
            frame = dataset.edits[["id", "prompt", "target"]]
            entity = mlflow.data.from_pandas(frame, name="corrections")._to_mlflow_entity()
            used = [DatasetInput(entity, [InputTag("mlflow.data.context", "edit")])]
            try:
                client.log_inputs(run_id, used)
            except MlflowException:
                # Of two runs that log the same dataset at once, one finds it where it had found none.
                client.log_inputs(run_id, used)
        log_files(tracking_uri, run_id, artifacts.items())
        client.set_terminated(run_id)


def log_files(tracking_uri: str, run_id: str, files: Iterable[tuple[str, Path]]) -> None:
    """Log files and the contents of folders, each under the artifact path of a folder."""
    with tracking(tracking_uri) as client:
        for path, source in files:
            if source.is_dir():
                client.log_artifacts(run_id, str(source), path)
            else:
                client.log_artifact(run_id, str(source), path)


def fetch_files(tracking_uri: str, run_id: str, path: str, out: Path) -> Path:
    """Copy the folder that was logged under an artifact path into `out`; where it is then.

    Raises:
        StoreFailedError: what it keeps cannot be fetched.
        UserError: the run keeps no such folder, or there is no such run.
    """
    with tracking(tracking_uri) as client:
        from mlflow.exceptions import MlflowException

        try:
            return Path(client.download_artifacts(run_id, path, str(out)))
        except (MlflowException, OSError) as error:
            if store_failed(error):
                raise
            # Whatever went wrong, MLflow says that there is no such folder.
            if _is_listed(client, run_id, path):
                raise StoreFailedError(
                    f"the artifacts {path!r} of run {run_id} cannot be fetched just now; see that what keeps "
                    "them runs, and that there is room for them here"
                ) from error
            raise UserError(f"run {run_id} keeps no folder {path!r} among its artifacts") from error


def _is_listed(client: Any, run_id: str, path: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.list_artifacts(run_id, path))
    except MlflowException as error:
        if store_failed(error):
            raise
        return False


def end_run(tracking_uri: str, run_id: str, *, verdict: str) -> None:
    """End a run that reached its verdict but leaves the report to the next one."""
    with tracking(tracking_uri) as client:
        client.log_param(run_id, "verdict", verdict)
        client.set_terminated(run_id)


def artifact_address(tracking_uri: str, run_id: str, path: str) -> str:
    """Where an artifact of a run is: on the server's page, or as a URI where there is no server."""
    with tracking(tracking_uri) as client:
        info = client.get_run(run_id).info
    server = urlsplit(tracking_uri)
    if server.scheme not in ("http", "https"):
        return f"{info.artifact_uri}/{path}"
    # A link is for everybody, and no place for somebody's name and password.
    page = server._replace(netloc=server.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return f"{page.rstrip('/')}/#/experiments/{info.experiment_id}/runs/{run_id}/artifacts/{path}"
