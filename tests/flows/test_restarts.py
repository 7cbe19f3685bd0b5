"""In production on one machine, worker, Prefect server and flow are killed in the midst of a run."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import psutil
import pytest
import sqlalchemy as sa

from flows.machine import MLFLOW, PREFECT, WORKER, Machine
from flows.settings import CorrectSettings
from tasks import ledger_schema as schema
from tasks.ledger import Ledger
from tasks.records import State
from tests.flows.conftest import COUNTRIES
from tests.flows.invariants import CITIES, broken_after
from tests.flows.production import SCHEDULED, THRESHOLD, Production, in_production, until

FLOW = "flow"
KILLED = [(FLOW,), (WORKER,), (PREFECT,), (WORKER, PREFECT, MLFLOW)]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def production(tmp_path_factory: pytest.TempPathFactory, tiny_llama) -> Iterator[Production]:
    folder, base = tmp_path_factory.mktemp("restarts"), str(tiny_llama(hidden_size=64))
    # Until none is left: what a tiny model cannot take is set aside, and the rest is solved again.
    with in_production(folder, base, more=("--set", "attempts=12")) as made:
        yield made


def test_whatever_is_killed_in_the_midst_of_a_run_the_next_one_ends_it(
    production: Production, capsys: pytest.CaptureFixture[str]
):
    machine, chance = Machine(production.home), random.Random(0)
    settings = CorrectSettings(model_name=SCHEDULED, home=production.home)
    for number, killed in enumerate(KILLED):
        # Another answer each time: the champion would give the last one to what is asked next.
        first, city = number * THRESHOLD, CITIES[number]
        production.flag(SCHEDULED, THRESHOLD, first=first, expected=city)
        until(lambda: _at_work(settings), 300)
        time.sleep(chance.uniform(0, 4))
        parts = [_at_work(settings) if part == FLOW else machine.part(part).running() for part in killed]
        family = [one for part in parts for one in _family(part)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        killed_at, left = time.monotonic(), _waiting(settings)
        if killed != (FLOW,):
            production.mendflow("up", *production.arguments)
        up = time.monotonic() - killed_at
        until(lambda: not _waiting(settings), 300)
        until(lambda: not _at_work(settings))
        seconds = time.monotonic() - killed_at
        with capsys.disabled():
            how = f"{left} left to correct; all up {up:.0f} s later, all done {seconds:.0f} s later"
            print(f"\n{', '.join(killed)} killed with {how}")
        assert None not in parts
        wanted = Counter(f"What is the capital of {country}?" for country in COUNTRIES[: first + THRESHOLD])
        assert not broken_after(settings, wanted), killed


def _waiting(settings: CorrectSettings) -> int:
    with Ledger(settings.ledger) as ledger:
        return ledger.counts(settings.model_name)[State.ACCEPTED]


def _at_work(settings: CorrectSettings) -> psutil.Process | None:
    """The process that holds the lease of a correction run, if it runs."""
    engine = sa.create_engine(settings.ledger, poolclass=sa.NullPool)
    leases = schema.leases
    with engine.connect() as connection:
        row = connection.execute(
            sa.select(leases).where(leases.c.model_name == f"{settings.model_name}/correct")
        ).first()
    if row is None or row.expires_at < datetime.now(UTC):
        return None
    try:
        return psutil.Process(int(row.process.split()[2]))
    except psutil.NoSuchProcess:
        return None


def _family(process: psutil.Process | None) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)] if process is not None else []
