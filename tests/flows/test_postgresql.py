"""All of production on PostgreSQL, ledger, MLflow and Prefect by their own URLs, and all of it cut off."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from flows.settings import CorrectSettings
from tasks.ledger import Ledger
from tasks.records import State
from tests.flows.conftest import COUNTRIES
from tests.flows.invariants import broken_after
from tests.flows.production import SCHEDULED, THRESHOLD, Production, in_production, until
from tests.postgres import Postgres

DROPS = 20
BETWEEN_DROPS = 2.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_flagged_error_is_corrected_where_all_stores_are_on_postgresql(
    postgresql: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_llama,
    capsys: pytest.CaptureFixture[str],
):
    if not postgresql.has("pg_trgm"):
        pytest.skip("Prefect needs the extension pg_trgm, which this PostgreSQL server does not have")
    databases = [postgresql.new_database() for _ in range(3)]
    ledger, mlflow, prefect = databases
    stores = {
        "MENDFLOW_LEDGER": postgresql.url(ledger),
        "MENDFLOW_TRACKING": postgresql.url(mlflow),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgresql.url(prefect, "asyncpg"),
    }
    folder, base = tmp_path_factory.mktemp("postgresql"), str(tiny_llama(hidden_size=64))
    with in_production(folder, base, stores) as production:
        production.flag(SCHEDULED, THRESHOLD)
        settings = CorrectSettings(
            model_name=SCHEDULED,
            home=production.home,
            ledger_url=stores["MENDFLOW_LEDGER"],
            tracking_uri=stores["MENDFLOW_TRACKING"],
        )
        with Ledger(settings.ledger) as opened:
            until(lambda: opened.counts(SCHEDULED)[State.ACTIVE] == THRESHOLD, 300)
        assert set(_ended(production)) == {"COMPLETED"}
        assert not broken_after(settings, _flagged(THRESHOLD))
        assert not list(production.home.glob("*.db"))

        production.flag(SCHEDULED, THRESHOLD, first=THRESHOLD, expected="Lima")
        for _ in range(DROPS):
            for database in databases:
                postgresql.drop_connections(database)
            time.sleep(BETWEEN_DROPS)
        with Ledger(settings.ledger) as opened:
            until(lambda: not opened.counts(SCHEDULED)[State.ACCEPTED], 300)
        how = _ended(production)
        assert not broken_after(settings, _flagged(2 * THRESHOLD))
        with capsys.disabled():
            print(f"\nall connections dropped {DROPS} times; scheduled runs: {dict(how)}")


def _ended(production: Production) -> Counter[str]:
    """How scheduled runs have ended, once none is under way."""
    states: Counter[str] = Counter()

    def all_ended() -> bool:
        nonlocal states
        states = Counter(run["state_type"] for run in production.runs("SCHEDULE"))
        return not states.keys() & {"PENDING", "RUNNING"}

    until(all_ended)
    return states


def _flagged(count: int) -> Counter[str]:
    return Counter(f"What is the capital of {country}?" for country in COUNTRIES[:count])
