"""Fixtures of the tests of tasks: a new ledger and its URL, on SQLite and, as slow tests, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.ledger import Ledger
from tests.postgres import Postgres


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new ledger."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: Postgres = request.getfixturevalue("postgresql")
    return server.url(server.new_database())


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """That ledger, opened."""
    with Ledger(url) as opened:
        yield opened
