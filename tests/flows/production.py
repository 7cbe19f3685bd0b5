"""Production on one machine, as `mendflow up` starts it: what its tests share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import yaml

from flows.machine import DEPLOYMENTS, Machine
from flows.parts import ENDPOINT
from tests.flows.conftest import COUNTRIES, LENIENT_GATES

THRESHOLD = 3
SCHEDULED = "scheduled"
LITTLE_WORK = {"held_out": 1, "equivalents": 1, "attempts": 2}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@dataclass(frozen=True)
class Production:
    """A home with everything started, and the command line as its user types it."""

    home: Path
    arguments: tuple[str, ...]
    api: str
    key: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def mendflow(self, *arguments: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments, "--home", str(self.home)],
            capture_output=True,
            text=True,
            check=False,
            env={**kept, **self.environment, "PREFECT_WORKER_QUERY_SECONDS": "2", "COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def flag(self, name: str, count: int, *, first: int = 0, expected: str = "Cairo") -> None:
        for country in COUNTRIES[first : first + count]:
            asked = ["--prompt", f"What is the capital of {country}?", "--output", "Lagos"]
            assert "accepted" in self.mendflow("flag", name, *asked, "--expected", expected)

    def post(self, name: str, count: int) -> None:
        """The same as a program with a key reports it, every one sent twice."""
        for country in COUNTRIES[:count] * 2:
            report = {"model": name, "prompt": f"What is the capital of {country}?", "target": "Cairo"}
            sent = httpx.post(
                f"{Machine(self.home).part(ENDPOINT).about['url']}/reports",
                json=report,
                headers={"Authorization": f"Bearer {self.key}", "Idempotency-Key": country},
            )
            assert sent.json()["state"] == "accepted"

    def runs(self, started_by: str) -> list[dict[str, Any]]:
        """Runs that were started so, without those that are only planned."""
        found = httpx.post(
            f"{self.api}/flow_runs/filter", json={"sort": "EXPECTED_START_TIME_ASC"}, timeout=60
        )
        found.raise_for_status()
        return [
            run
            for run in found.json()
            if (run["created_by"] or {}).get("type") == started_by
            and (run["state_type"] != "SCHEDULED" or started_by == "AUTOMATION")
        ]

    def models(self) -> Counter[str]:
        """How many runs flagged errors have started, by model."""
        return Counter(run["parameters"]["settings"]["model_name"] for run in self.runs("AUTOMATION"))


def until(true: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(1)


@contextmanager
def in_production(
    folder: Path, base: str, environment: Mapping[str, str] | None = None, more: Sequence[str] = ()
) -> Iterator[Production]:
    """Everything that `mendflow up` starts, with gates that a tiny model passes, and a run every minute."""
    gates = folder / "gates.yaml"
    gates.write_text(LENIENT_GATES)
    content = yaml.safe_load(DEPLOYMENTS.read_text())
    of_tiny = {"editor": "finetune", "gates": str(gates), **LITTLE_WORK}
    for deployment in content["deployments"]:
        for start in (*deployment.get("schedules", []), *deployment.get("triggers", [])):
            start["parameters"]["settings"].update(of_tiny, base=base)
        for schedule in deployment.get("schedules", []):
            schedule["cron"] = "* * * * *"
        for trigger in deployment.get("triggers", []):
            trigger["threshold"] = THRESHOLD
    deployments = folder / "prefect.yaml"
    deployments.write_text(yaml.safe_dump(content))
    port = free_port()
    arguments = ("--model", SCHEDULED, "--base", base, "--deployments", str(deployments))
    arguments += ("--port", str(port), "--mlflow-port", str(free_port()), "--endpoint-port", str(free_port()))
    arguments += tuple(more)
    made = Production(
        folder / "home", arguments, f"http://127.0.0.1:{port}/api", environment=environment or {}
    )
    made = replace(made, key=made.mendflow("add-reporter", "shop").strip())
    try:
        said = made.mendflow("up", *arguments)
        assert "mendflow runs in" in said
        assert f"http://127.0.0.1:{port}" in said
        yield made
    finally:
        made.mendflow("down")
