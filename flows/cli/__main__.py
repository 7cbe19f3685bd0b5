"""`python -m flows.cli` is `mendflow`."""

from __future__ import annotations

from flows.cli import main

main()
