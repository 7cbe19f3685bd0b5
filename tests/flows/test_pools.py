"""Work pools of containers on a real Prefect server: what a worker of theirs is told to start for a run."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from tests.test_image import FOLDER, HOME, USER, template

pytestmark = pytest.mark.slow

STORES = {
    "MENDFLOW_TRACKING": "http://mlflow:5000",
    "MENDFLOW_LEDGER": "postgresql+psycopg://ledger:hunter2@db/ledger",
}


def prefect(*arguments: str, folder: Path) -> str:
    """What Prefect's command says, its working folder named as the image's home."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PREFECT_API_URL": str(get_current_settings().api.url),
            "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), *sys.path]),
            "MENDFLOW_MODEL": "capitals",
            "PWD": HOME,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The kind of a pool that `correct` of the deployments file was registered in."""
    name, folder = request.param, tmp_path_factory.mktemp("deploy")
    pytest.importorskip(f"prefect_{name}", reason=f"prefect-{name} is not installed")
    file = FOLDER / f"{name}-pool.json"
    prefect("work-pool", "create", name, "--type", name, "--base-job-template", str(file), folder=folder)
    content = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
    for deployment in content["deployments"]:
        deployment["work_pool"] = {"name": name, "job_variables": {"env": {"HF_HUB_OFFLINE": "1"}}}
    (folder / "prefect.yaml").write_text(yaml.safe_dump(content))
    prefect("deploy", "--name", "correct", "--prefect-file", "prefect.yaml", folder=folder)
    yield name
    # Its schedule and trigger are nothing to the tests that come after.
    with get_client(sync_client=True) as client:
        client.delete_deployment(client.read_deployment_by_name("correct/correct").id)


def told(kind: str, **changes: Any) -> Any:
    """What the worker is to start for a run of `correct`."""
    worker = importlib.import_module(f"prefect_{kind}.worker")
    configuration = getattr(worker, f"{kind.capitalize()}WorkerJobConfiguration")

    async def resolve() -> Any:
        async with get_client() as client:
            deployment = await client.read_deployment_by_name("correct/correct")
            assert deployment.work_pool_name == kind
            assert [list(step.values()) for step in deployment.pull_steps or []] == [[{"directory": HOME}]]
            settings = {"settings": {"model_name": "capitals"}}
            run = await client.create_flow_run_from_deployment(
                deployment.id, parameters=settings, job_variables=changes
            )
            pool, flow = await client.read_work_pool(kind), await client.read_flow(run.flow_id)
            values = {**deployment.job_variables, **(run.job_variables or {})}
            made = await configuration.from_template_and_values(pool.base_job_template, values, client=client)
            made.prepare_for_flow_run(run, deployment, flow, pool, "worker")
            return made

    return asyncio.run(resolve())


@pytest.mark.parametrize("kind", ["docker"], indirect=True)
def test_a_run_in_docker_has_its_stores_limits_and_home(kind: str):
    import docker

    # No run begins on stores of its own.
    with pytest.raises(ObjectNotFound, match="Block not found: 'mendflow-tracking' of type 'secret'"):
        told(kind)
    for variable, value in STORES.items():
        Secret(value=value).save(variable.lower().replace("_", "-"))

    made = told(kind, mem_limit="2g", device_requests=[{"count": 1, "capabilities": [["gpu"]]}])
    assert STORES.items() <= made.env.items()
    assert (made.env["OMP_NUM_THREADS"], made.env["HF_HUB_OFFLINE"]) == ("2", "1")
    # The worker's own would be handed on else, and is a folder of its machine.
    assert made.env["PREFECT_HOME"] == f"{HOME}/.prefect"
    assert made.env["PREFECT_API_URL"]
    assert made.command.startswith("prefect flow-run execute")
    assert made.image == template("docker")["variables"]["properties"]["image"]["default"]
    assert (made.image_pull_policy, made.auto_remove, made.mem_limit) == ("IfNotPresent", True, "2g")
    # As the worker gives them to Docker's own library, which refuses what it does not know.
    client = docker.APIClient(base_url="tcp://127.0.0.1:1", version="1.43")
    host = client.create_host_config(
        binds=made.volumes, mem_limit=made.mem_limit, **made.container_create_kwargs
    )
    assert host["Binds"] == [f"mendflow:{HOME}"]
    assert (host["Memory"], host["NanoCpus"], host["Init"]) == (2 * 1024**3, 2_000_000_000, True)
    assert (host["CapDrop"], host["SecurityOpt"]) == (["ALL"], ["no-new-privileges:true"])
    assert [(one["Count"], one["Capabilities"]) for one in host["DeviceRequests"]] == [(1, [["gpu"]])]
    assert not client.create_host_config(**told(kind).container_create_kwargs).get("DeviceRequests")


@pytest.mark.parametrize("kind", ["kubernetes"], indirect=True)
def test_a_run_in_kubernetes_has_its_stores_limits_and_home(kind: str):
    made = told(kind, gpu_limit=1, secret="ours", volume_claim="theirs", memory_limit="16Gi")
    job = made.job_manifest
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}
    assert {"PREFECT_API_URL", "OMP_NUM_THREADS", "HF_HUB_OFFLINE"} <= set(given)
    assert given["PREFECT_HOME"] == f"{HOME}/.prefect"
    # What is named here would take the place of the secret's.
    assert not set(given) & set(STORES)
    # Not optional: without it Kubernetes starts no container.
    assert container["envFrom"] == [{"secretRef": {"name": "ours"}}]
    assert container["args"][:3] == ["prefect", "flow-run", "execute"]
    assert container["image"] == template("kubernetes")["variables"]["properties"]["image"]["default"]
    limits = container["resources"]["limits"]
    assert (limits["cpu"], limits["memory"], limits["nvidia.com/gpu"]) == ("2", "16Gi", 1)
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "theirs"}
    assert pod["securityContext"]["runAsUser"] == int(USER)
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (0, 3600)
