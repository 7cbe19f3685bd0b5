"""Fixtures of the tests of tasks: a new ledger and its URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.ledger import Ledger


@pytest.fixture
def url(tmp_path: Path) -> str:
    """URL of a new SQLite ledger."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """That ledger, opened."""
    with Ledger(url) as opened:
        yield opened
