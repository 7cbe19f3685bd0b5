"""Many clients at once: all that they report is in the ledger, once.

The same with more reports, or on PostgreSQL: `python -m tests.endpoint.load`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.endpoint.load import put_under_load
from tests.postgres import Postgres


@pytest.mark.slow
def test_ten_thousand_reports_of_fifty_clients_a_third_of_them_duplicates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    load = put_under_load(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}", reports=10_000, clients=50)
    with capsys.disabled():
        print(f"\n{load}")
    assert not load.faults


@pytest.mark.slow
def test_the_same_on_postgresql(tmp_path: Path, postgresql: Postgres, capsys: pytest.CaptureFixture[str]):
    url = postgresql.url(postgresql.new_database())
    load = put_under_load(tmp_path, url, reports=5_000, clients=50)
    with capsys.disabled():
        print(f"\n{load}")
    assert not load.faults
