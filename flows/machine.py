"""Production on one machine: Prefect, MLflow, a worker with mendflow's deployments, and reports over HTTP."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.background import Background, children_of, variables_of, wait_for
from flows.console import Narrator
from flows.parts import (
    ENDPOINT,
    FOLDER,
    HOST,
    MLFLOW,
    PARTS,
    PORTS,
    PREFECT,
    ROOT,
    SERVE,
    WORKER,
    artifact_root,
    commands_of_parts,
    environment_of_parts,
)
from flows.registration import (
    POOL,
    deploy,
    deployments_of,
    end_lost_runs,
    is_deployed,
    make_pool,
)
from flows.settings import (
    CorrectSettings,
    given_to_runs,
    reporters_file,
)
from flows.told import Told, remember, variables
from tasks.records import UserError
from tasks.reporters import read_reporters
from tasks.urls import without_password

DEPLOYMENTS = ROOT / "deployments" / "prefect.yaml"
# By which Prefect tells a process what it runs.
_RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"
# A worker that is told to end gives its runs this long to say so to the server.
GRACE_SECONDS = 15.0


@dataclass(frozen=True)
class Machine:
    """What runs on this machine for one home folder."""

    home: Path

    def part(self, name: str) -> Background:
        """The process of this name, whether it runs or not."""
        return Background(self.home / FOLDER, name)

    def running(self) -> list[str]:
        """Names of the parts that run."""
        return [name for name in PARTS if self.part(name).running()]

    def wanted(self, *, serving: bool) -> list[str]:
        """Names of the parts that are to run: the endpoint where somebody has a key for it.

        Raises:
            UserError: the file of reporters cannot be read.
        """
        unwanted = set() if serving else {SERVE}
        if not read_reporters(reporters_file(self.home)):
            unwanted.add(ENDPOINT)
        return [name for name in PARTS if name not in unwanted]

    def serves_otherwise(self, command: Sequence[str]) -> bool:
        """Whether a model is served, by another command than this one."""
        part = self.part(SERVE)
        return part.running() is not None and part.about.get("started_by") != shlex.join(command)

    def runs_under_way(self) -> int:
        """How many flow runs the worker has under way."""
        worker = self.part(WORKER).running()
        started = children_of(worker) if worker is not None else []
        return len({variables_of(one).get(_RUN_VARIABLE) for one in started} - {None})

    def otherwise_set(self, environment: Mapping[str, str]) -> set[str]:
        """The variables by which a user tells something, and that what runs was given otherwise."""
        given = [found for name in self.running() if (found := self.part(name).variables())]
        ours = variables({name for one in (*given, environment) for name in one})
        return {name for name in ours if any(one.get(name) != environment.get(name) for one in given)}

    @property
    def api_url(self) -> str | None:
        """The API of the Prefect server, if that runs."""
        server = self.part(PREFECT)
        return f"{server.about['url']}/api" if server.running() else None


def use_running_server(home: Path) -> None:
    """Have Prefect use the server that `mendflow up` started for this home, unless the user named another."""
    if "PREFECT_API_URL" not in os.environ and (url := Machine(home.absolute()).api_url):
        os.environ["PREFECT_API_URL"] = url


def up(settings: CorrectSettings | None, home: Path, told: Told, narrator: Narrator) -> Machine:
    """Start what does not run yet, wait until it answers, and register the deployments; it is remembered.

    To be called with the home held (`alone`).

    Args:
        settings: of the model whose runs are scheduled; its base becomes its first champion. None for none.
        home: folder for all stores and logs.
        told: the rest; a model that it does not serve is left to be served as it is.
        narrator: told of every step.

    Raises:
        UserError: a port is in use, a part does not start, or a file, base or store cannot be used.
    """
    machine, deployments, serving = Machine(home), told.deployments or DEPLOYMENTS, told.serving
    runs = given_to_runs(settings, told.given) if settings else {}
    if settings is not None:
        # Read here: the next to find that it cannot be would be a run at night.
        settings.redaction.redact("")
    content = deployments_of(deployments, settings.model_name if settings else "", runs)
    missing = _missing(machine, serving=serving is not None)
    ports = {name: told.ports.get(name, PORTS[name]) for name in (PREFECT, MLFLOW, ENDPOINT)}
    if serving is not None:
        ports[SERVE] = serving.port
    starts = commands_of_parts(settings, home, ports, serving)
    for name, number in ports.items():
        option = "--port" if name == PREFECT else f"--{name}-port"
        if name in missing:
            _require_free(number, option)
    with narrator.stage("stores", "Prepare the stores"):
        _prepare_stores(settings, home)
    environment = environment_of_parts(settings, home)
    for name in (PREFECT, MLFLOW):
        if name in missing:
            command, address = starts[name]
            machine.part(name).start(command, environment, url=address)
    for name, path in ((PREFECT, "api/health"), (MLFLOW, "health")):
        part = machine.part(name)
        if name in missing or part.running():
            with narrator.stage(name, f"Wait for {name}"):
                wait_for(part, f"{part.about['url']}/{path}")
    for name in sorted(machine.otherwise_set(environment)):
        other = "has another value in" if name in environment else "is not set here, but in"
        narrator.say(f"{name} {other} what runs already; `mendflow down`, then `up`, changes that")
    environment["PREFECT_API_URL"] = api_url = str(machine.api_url)
    if PREFECT in missing or not is_deployed(content, home / FOLDER):
        # While no worker asks for runs: a server on SQLite does one thing at a time.
        with narrator.stage("deploy", "Register the deployments"):
            make_pool(api_url)
            dropped = deploy(content, home / FOLDER, environment)
        for name in dropped:
            narrator.say(f"the deployment {name} is removed: {deployments} does not have it any more")
    # With the deployments: what comes after may fail, and schedules start runs all the same.
    remember(home / FOLDER, told.model_copy(update={"given": runs}))
    if WORKER in missing:
        end_lost_runs(api_url)
        machine.part(WORKER).start(starts[WORKER][0], environment)
    with narrator.stage(WORKER, "Wait for the worker"):
        wait_for(machine.part(WORKER), f"{api_url}/work_pools/{POOL}", status="READY")
    if serving is not None and machine.serves_otherwise(starts[SERVE][0]):
        narrator.say("the model is served anew: another one, or with other options, was served")
        machine.part(SERVE).stop(GRACE_SECONDS)
        _require_free(serving.port, "--serve-port")
        missing.append(SERVE)
    for name, what in ((ENDPOINT, "the endpoint"), (SERVE, "the model to be served")):
        if name in missing:
            command, address = starts[name]
            machine.part(name).start(command, environment, url=address, started_by=shlex.join(command))
            with narrator.stage(name, f"Wait for {what}"):
                wait_for(machine.part(name), f"{address}/health", status="ok")
    return machine


def down(home: Path) -> list[str]:
    """Stop what `up` started for this home, and nothing else; names of what ran, in the order of its end."""
    machine = Machine(home)
    if not (home / FOLDER).is_dir():
        return []
    with alone(home):
        # The worker before the servers: its runs tell of their end.
        return [name for name in reversed(PARTS) if machine.part(name).stop(GRACE_SECONDS)]


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """One `up` or `down` at a time for a home."""
    from filelock import FileLock, Timeout

    folder = home / FOLDER
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"another `mendflow up` or `down` is at work in {home}; let it end first") from error
    except OSError as error:
        why = error.strerror
        raise UserError(f"{folder} cannot be used ({why}); name another home with --home") from error
    try:
        yield
    finally:
        lock.release()


def _missing(machine: Machine, *, serving: bool) -> list[str]:
    """The parts that are to be started.

    Raises:
        UserError: reports would go to another Prefect server than the one that is started.
    """
    url = os.environ.get("PREFECT_API_URL")
    if url and url != machine.api_url:
        raise UserError(
            f"PREFECT_API_URL names a Prefect server ({without_password(url)}), to which reports go: unset "
            "it to have one started here, or register the flows there with `prefect deploy`"
        )
    running = machine.running()
    for name in {WORKER, ENDPOINT}.intersection(running if PREFECT not in running else ()):
        # It knows the server by the address of the one that is gone.
        machine.part(name).stop(GRACE_SECONDS)
        running.remove(name)
    if CorrectSettings(model_name="none", home=machine.home).tracking.startswith("http"):
        running.append(MLFLOW)
    return [name for name in machine.wanted(serving=serving) if name not in running]


def _prepare_stores(settings: CorrectSettings | None, home: Path) -> None:
    """Make the stores, and the model's base its first champion; one that cannot be used is refused here."""
    from flows.stages import check_base, find_champion
    from tasks.ledger import Ledger
    from tasks.tracking import experiment_id, tracking

    stores = settings or CorrectSettings(model_name="none", home=home)
    root = artifact_root(home)
    with tracking(stores.tracking, create=not stores.tracking_uri) as client:
        # Where traces have their files: a run that finds none yet is to find nothing wrong.
        experiment_id(client, stores.experiment, root=root)
        if settings is not None and settings.base:
            # Where its versions have theirs.
            experiment_id(client, settings.model_name, root=root)
    with Ledger(stores.ledger) as ledger:
        if settings is not None:
            check_base(settings, find_champion.fn(settings, ledger))


def _require_free(port: int, option: str) -> None:
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise UserError(f"port {port} cannot be used ({why}); name another one with {option}") from error
