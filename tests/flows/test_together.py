"""Eight runs at once: of one model they take turns, of eight models none waits for another; all complete."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.correct import correct
from flows.settings import CorrectSettings
from tasks import validate
from tasks.ledger import LeaseHeld, Ledger
from tests.flows.conftest import World, measure_here
from tests.flows.invariants import broken_after, reported
from tests.forking import forked
from tests.postgres import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUNS = 8


def _correct(settings: CorrectSettings, server: str, times: Path) -> None:
    """Run the flow until it is not refused for another one's sake; note when it held its model."""
    validate._in_fresh_process = measure_here
    lease = Ledger.lease

    @contextmanager
    def noted(self: Ledger, model_name: str, *rest: Any, **named: Any) -> Iterator[Any]:
        with lease(self, model_name, *rest, **named) as held:
            begun = time.monotonic()
            yield held
            ended = time.monotonic()
        if model_name == f"{settings.model_name}/correct":
            times.write_text(f"{begun} {ended}")

    Ledger.lease = noted  # type: ignore[method-assign,assignment]
    with temporary_settings({PREFECT_API_URL: server}):
        while not times.exists():
            try:
                correct(settings)
            except LeaseHeld:
                time.sleep(0.2)


@pytest.mark.parametrize("stores", ["sqlite", "postgresql"])
@pytest.mark.parametrize("models", [1, RUNS])
def test_eight_runs_at_once(
    world: World, tmp_path: Path, models: int, stores: str, request: pytest.FixtureRequest
):
    settings = world.settings
    if stores == "postgresql":
        server: Postgres = request.getfixturevalue("postgresql")
        settings = settings.model_copy(update={"ledger_url": server.url(server.new_database())})
    own = [settings.model_copy(update={"model_name": f"model {n % models}"}) for n in range(RUNS)]
    times = [tmp_path / f"run {n}" for n in range(RUNS)]
    api = str(PREFECT_API_URL.value())
    processes = [forked(_correct, one, api, path) for one, path in zip(own, times, strict=True)]
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * RUNS
    held = sorted(tuple(map(float, path.read_text().split())) for path in times)
    together = [later[0] < earlier[1] for earlier, later in pairwise(held)]
    assert any(together) if models > 1 else not any(together)
    for one in own[:models]:
        assert not broken_after(one, reported(world.reports))
