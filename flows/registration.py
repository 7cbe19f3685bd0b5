"""What `mendflow up` tells its Prefect server: the work pool, the deployments, and which runs are lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.records import UserError

POOL = "mendflow"
MODEL_VARIABLE = "MENDFLOW_MODEL"
DEPLOYED_FILE = "prefect.yaml"


def deployments_of(file: Path, model_name: str, settings: Mapping[str, Any] | None = None) -> str:
    """A deployments file as text, without schedules where there is no model to run them for.

    `settings` take the place of the file's in what schedules and triggers start.

    Raises:
        UserError: the file cannot be read, or is not one of deployments.
    """
    import yaml

    try:
        content: Any = yaml.safe_load(file.read_text())
        for deployment in content["deployments"]:
            if not model_name:
                deployment.pop("schedules", None)
            for start in (*(deployment.get("schedules") or ()), *(deployment.get("triggers") or ())):
                if settings and "settings" in start.get("parameters", {}):
                    start["parameters"]["settings"].update(settings)
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{file} is not a file of deployments ({why}); correct --deployments") from error
    # Prefect is given the name by the environment; here it tells one model's schedules from another's.
    named = f"# {MODEL_VARIABLE}: {model_name!r}\n" if model_name else ""
    return named + yaml.safe_dump(content, sort_keys=False)


def is_deployed(content: str, folder: Path) -> bool:
    """Whether `deploy` has registered just this, from this folder."""
    file = folder / DEPLOYED_FILE
    return file.is_file() and file.read_text() == content


def deploy(content: str, folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Register deployments, in the place of what was registered under their names.

    Those that were registered from this folder before and are left out now are removed; their names.

    Raises:
        UserError: Prefect refuses them; its last words are in the message.
    """
    unfinished = folder / f"new-{DEPLOYED_FILE}"
    unfinished.write_text(content)
    command = ["--no-prompt", "deploy", "--all", "--prefect-file", str(unfinished)]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *command],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError(f"the deployments were refused: {' / '.join(said[-3:])}; correct --deployments")
    drop_other_schedules(content, environment["PREFECT_API_URL"])
    before = folder / DEPLOYED_FILE
    dropped = []
    if before.is_file():
        dropped = drop_left_out(before.read_text(), content, environment["PREFECT_API_URL"])
    # Only now: what was not dropped, because this was killed, is dropped the next time.
    os.replace(unfinished, before)
    return dropped


def drop_left_out(before: str, content: str, api_url: str) -> list[str]:
    """Remove deployments that were registered from one file and that the next leaves out; their names.

    One that runs another flow, or in another pool, than what was registered under its name is a user's.
    """
    import yaml
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.settings import PREFECT_API_URL, temporary_settings

    old, new = (
        {one["name"]: one.get("entrypoint") for one in yaml.safe_load(text)["deployments"]}
        for text in (before, content)
    )
    left_out = {name: entrypoint for name, entrypoint in old.items() if name not in new}
    dropped: list[str] = []
    if not left_out:
        return dropped
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        for deployment in client.read_deployments(
            deployment_filter=filters.DeploymentFilter(
                name=filters.DeploymentFilterName(any_=list(left_out))
            ),
            work_pool_filter=filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[POOL])),
        ):
            if left_out.get(deployment.name) == deployment.entrypoint:
                client.delete_resource_owned_automations(f"prefect.deployment.{deployment.id}")
                client.delete_deployment(deployment.id)
                dropped.append(deployment.name)
    return dropped


def drop_other_schedules(content: str, api_url: str) -> None:
    """Remove what the deployments of a file are scheduled by besides: Prefect adds and changes alone."""
    import yaml
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.settings import PREFECT_API_URL, temporary_settings

    slugs = {
        deployment["name"]: {schedule.get("slug") for schedule in deployment.get("schedules") or ()}
        for deployment in yaml.safe_load(content)["deployments"]
    }
    named = filters.DeploymentFilter(name=filters.DeploymentFilterName(any_=list(slugs)))
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        for deployment in client.read_deployments(
            deployment_filter=named,
            work_pool_filter=filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[POOL])),
        ):
            for schedule in deployment.schedules:
                if schedule.slug not in slugs[deployment.name]:
                    client.delete_deployment_schedule(deployment.id, schedule.id)


def make_pool(api_url: str) -> None:
    """Make the work pool of processes that the deployments name, unless it is there."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=POOL, type=ProcessWorker.type, base_job_template=template)

    async def make() -> None:
        async with get_client() as client:
            await client.create_work_pool(pool)

    with temporary_settings({PREFECT_API_URL: api_url}), suppress(ObjectAlreadyExists):
        asyncio.run(make())


def end_lost_runs(api_url: str) -> None:
    """Say to Prefect that what no worker runs any more has crashed: until then, no other run may begin."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Crashed

    begun = filters.FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_run_filter=filters.FlowRunFilter(state=filters.FlowRunFilterState(type=begun)),
            work_pool_filter=filters.WorkPoolFilter(name=filters.WorkPoolFilterName(any_=[POOL])),
        ):
            client.set_flow_run_state(run.id, Crashed(message="Its worker is gone."), force=True)
