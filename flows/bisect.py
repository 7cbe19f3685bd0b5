"""Solving a batch; where the gates refuse it, again without the corrections that break it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flows import stages
from flows.attempt import Attempt, Workshop, attempt, registered
from flows.choice import choose
from tasks.bisect import Trial, bisect
from tasks.records import CannotEditError
from tasks.runs import end_run
from validation.verdict import Verdict

NOTE_FILE = "bisected.json"


@dataclass(frozen=True)
class Solved:
    """What a run goes on with.

    `taken` is an attempt that the gates do not refuse, or else the best over the whole batch; `failed` says
    by id why corrections are left out. `methods` and `solves` are the tables of what was tried: methods on
    the whole batch, then parts of it.
    """

    taken: Attempt
    failed: dict[str, str] = field(default_factory=dict)
    methods: list[dict[str, Any]] = field(default_factory=list)
    solves: list[dict[str, Any]] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether the gates refuse what was taken."""
        return _refused(self.taken)


@dataclass(frozen=True)
class Note:
    """What a run found that is about to set corrections aside: killed then, it goes on with the same."""

    ledger_digest: str
    method: str
    methods: list[dict[str, Any]]
    solves: list[dict[str, Any]]


class Notebook:
    """The note of the unfinished run of one model, if there is one, in its folder of runs."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / NOTE_FILE

    def write(self, solved: Solved) -> None:
        """Remember what was found, at once or not at all."""
        digest = str(solved.taken.manifest["ledger_digest"])
        note = Note(digest, solved.taken.method.name, solved.methods, solved.solves)
        partial = self._file.with_name(f".{NOTE_FILE}")
        partial.write_text(json.dumps(asdict(note)))
        os.replace(partial, self._file)

    def read(self, ledger_digest: str, methods: Collection[str]) -> Note | None:
        """The note, if it is about these corrections and no others, and one of these methods."""
        if not self._file.is_file():
            return None
        note = Note(**json.loads(self._file.read_text()))
        return note if note.ledger_digest == ledger_digest and note.method in methods else None

    def forget(self) -> None:
        """The run has ended."""
        self._file.unlink(missing_ok=True)


def solve(shop: Workshop, notebook: Notebook) -> Solved:
    """All open corrections in one solve; where the gates refuse that, the largest part found that passes.

    Raises:
        CannotEditError: no method can make these corrections.
        UserError: see `attempt`.
    """
    digest = shop.ledger.digest(shop.settings.model_name, stages.OPEN)
    note = notebook.read(digest, shop.settings.tried)
    if note is not None:
        again = attempt(shop, note.method, thorough=False)
        if not _refused(again):
            return Solved(again, {}, note.methods, note.solves)
    choice = choose(shop)
    solved = Solved(choice.best, methods=choice.table())
    return _bisected(shop, solved) if solved.refused else solved


def _bisected(shop: Workshop, whole: Solved) -> Solved:
    """The best method on parts of a batch that it was refused on."""
    first, champion = whole.taken, shop.champion
    held = first.corrections & set(champion.correction_ids)
    rows: list[dict[str, Any]] = []
    attempts = {first.corrections: first}
    found = bisect(
        _trials(shop, first, attempts, rows),
        _by_worth(shop, first.corrections - held),
        held,
        budget=shop.settings.attempts,
    )
    taken = first if found.kept is None else attempts[found.kept]
    if taken.corrections == set(champion.correction_ids) and taken.overridden == champion.overridden:
        # It would be the champion again: what the run has to show is why the batch was refused.
        taken = first
    for one in attempts.values():
        if one is not taken:
            end_run(shop.settings.tracking, one.run_id, verdict=one.judged.decision.verdict.value)
    if taken is not list(attempts.values())[-1]:
        # Its alias went to those that were registered after it.
        registered(shop, taken.applied, taken.manifest, taken.run_id)
    if found.failed:
        shop.narrator.say(f"set aside {len(found.failed)} of {len(first.corrections)} corrections")
    return replace(whole, taken=taken, failed=dict(found.failed), solves=rows if len(rows) > 1 else [])


def _trials(
    shop: Workshop, first: Attempt, attempts: dict[frozenset[str], Attempt], rows: list[dict[str, Any]]
) -> Callable[[frozenset[str]], Trial]:
    """A function that solves and judges a part of the batch; its attempts and their table are kept."""
    batch = first.corrections

    def trial(ids: frozenset[str]) -> Trial:
        row = {"corrections": len(ids), "version": "", "verdict": "none", "failing": [], "reason": ""}
        rows.append(row)
        if ids != batch:
            count = f"{len(rows)} of at most {shop.settings.attempts}"
            shop.narrator.say(f"solve {count}: {len(ids)} of {len(batch)} corrections")
        try:
            one = attempts.get(ids) or attempt(shop, first.method.name, aside=batch - ids, thorough=False)
        except CannotEditError as error:
            row["reason"] = str(error)
            return Trial(False)
        attempts[ids] = one
        decision = one.judged.decision
        failing = decision.failing or decision.insufficient
        row |= {
            "version": one.candidate,
            "verdict": decision.verdict.value,
            "failing": list(failing),
            "reason": decision.reason,
        }
        shop.narrator.say(f"  {decision.verdict.value}: {decision.reason}")
        passes = decision.verdict in (Verdict.PROMOTE, Verdict.HOLD)
        undecided = decision.verdict is Verdict.INSUFFICIENT
        return Trial(passes, one.untaken(), tuple(failing), undecided)

    return trial


def _by_worth(shop: Workshop, ids: frozenset[str]) -> list[str]:
    """The corrections with the most reports first."""
    corrections = shop.ledger.corrections(shop.settings.model_name, *stages.OPEN)
    chosen = [c for c in corrections if c.id in ids]
    return [c.id for c in sorted(chosen, key=lambda c: (-c.reports, c.id))]


def _refused(one: Attempt) -> bool:
    return one.judged.decision.verdict is Verdict.REJECT
