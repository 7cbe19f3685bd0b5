"""In production on one machine, worker, Prefect server and flow are killed in the midst of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import psutil
import pytest
import sqlalchemy as sa

from flows.machine import PREFECT, WORKER, Machine
from flows.settings import CorrectSettings
from tasks import ledger_schema as schema
from tasks.ledger import Ledger
from tasks.records import State
from tests.flows.conftest import COUNTRIES
from tests.flows.invariants import broken_after
from tests.flows.production import SCHEDULED, THRESHOLD, Production, in_production, until

FLOW = "flow"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def production(tmp_path_factory: pytest.TempPathFactory, tiny_llama) -> Iterator[Production]:
    with in_production(tmp_path_factory.mktemp("restarts"), str(tiny_llama(hidden_size=64))) as made:
        yield made


def test_whatever_is_killed_in_the_midst_of_a_run_the_next_one_ends_it(production: Production):
    machine = Machine(production.home)
    settings = CorrectSettings(model_name=SCHEDULED, home=production.home)
    for number, killed in enumerate(((FLOW,), (WORKER,), (PREFECT,), (WORKER, PREFECT))):
        production.flag(SCHEDULED, THRESHOLD, first=number * THRESHOLD)
        flagged = COUNTRIES[: (number + 1) * THRESHOLD]
        until(lambda: _at_work(settings), 300)
        family = [
            one
            for part in killed
            for one in _family(_at_work(settings) if part == FLOW else machine.part(part).running())
        ]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        if killed != (FLOW,):
            production.mendflow("up", *production.arguments)
        until(lambda: not _waiting(settings), 300)
        until(lambda: not _at_work(settings))
        wanted = Counter(f"What is the capital of {country}?" for country in flagged)
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
