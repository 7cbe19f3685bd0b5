"""Fixtures of the tests of tasks: a new ledger, on SQLite and, as slow tests, on PostgreSQL; and a base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.ledger import Ledger
from tasks.models import ModelFolder, resolve
from tests.conftest import ModelFactory
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


@pytest.fixture(scope="session")
def base(tiny_llama: ModelFactory, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A tiny Llama; only to be read."""
    return resolve(str(tiny_llama()), cache=tmp_path_factory.mktemp("cache"))
