"""What every answerer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tasks.records import Correction

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Answered:
    """What an answerer says to one report: the answer, empty where it has none.

    `note` says how sure it is, or why it has no answer; it ends in the ledger.
    """

    text: str = ""
    note: str = ""


class Answerer(Protocol):
    """Says what a model should have answered.

    Attributes:
        name: what the ledger and the report call it.
        repeats: it says the same to the same report again, so that none need be put to it twice; then all
            that its answers depend on is in its name.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def repeats(self) -> bool: ...  # noqa: D102

    def answer(self, waiting: Sequence[Correction], progress: Progress) -> list[Answered]:
        """One a report, in order; `progress` is called with (done, in all, note).

        Raises:
            UserError: it cannot be asked at all.
        """
