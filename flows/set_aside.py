"""How often an unfinished run has set corrections aside: the bound on solves holds across restarts."""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE = "set_aside.json"


class SetAsides:
    """The solves of one run whose broken corrections were set aside, kept on disk until the run ends.

    Args:
        folder: the model's folder of runs.
        attempts: solves in all.
    """

    def __init__(self, folder: Path, attempts: int) -> None:
        self._file = folder / FILE
        self._attempts = attempts

    def may_follow(self, key: str) -> bool:
        """Whether another solve may follow the one with this key."""
        return len(set(self._keys()) | {key}) < self._attempts

    def note(self, key: str) -> None:
        """Remember, before the ledger is changed, that what broke the solve with this key is set aside."""
        keys = list(dict.fromkeys([*self._keys(), key]))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_name(f".{FILE}")
        partial.write_text(json.dumps(keys))
        os.replace(partial, self._file)

    def forget(self) -> None:
        """The run has ended; the next one counts anew."""
        self._file.unlink(missing_ok=True)

    def _keys(self) -> list[str]:
        return list(json.loads(self._file.read_text())) if self._file.is_file() else []
