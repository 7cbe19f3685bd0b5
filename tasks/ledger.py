"""The ledger: every correction of every model, with its reports, its state and how it came there.

A correction's content is read from its reports, its state from its last transition: nothing is overwritten.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from tasks import leases, promotion_log
from tasks import ledger_changes as changes
from tasks import ledger_rows as rows
from tasks.leases import Lease, LeaseHeld, LeaseLost
from tasks.ledger_database import Database, lock_models
from tasks.ledger_refusals import refuse
from tasks.ledger_rules import TARGET_LIMIT, IllegalTransition, SourceTaken, Standing, Transition
from tasks.promotion_log import Phase, Promotion
from tasks.records import Correction, ErrorReport, State

__all__ = [
    "IllegalTransition",
    "Lease",
    "LeaseHeld",
    "LeaseLost",
    "Ledger",
    "Phase",
    "Promotion",
    "SourceTaken",
    "Taken",
    "Transition",
]


@dataclass(frozen=True)
class Taken:
    """Of every report, in order: the correction that it counts for, and whether the report was new."""

    each: list[tuple[Correction, bool]]

    @property
    def corrections(self) -> list[Correction]:
        """The corrections that the reports are about, in order of first mention."""
        return list({(one.model_name, one.id): one for one, _ in self.each}.values())

    @property
    def new(self) -> list[Correction]:
        """Of every new report, the correction that it counts for."""
        return [one for one, is_new in self.each if is_new]


class Ledger:
    """The ledger at a database URL, its tables at their newest revision. Close it, or use it in a `with`.

    A desired output of more than `target_limit` words is quarantined. `kept_open` is for a process that
    writes all the time (see `Database`). Where several models share a correction id, methods that take an id
    want `model_name` too.

    Raises:
        UserError: the database cannot be used; the message names it without its password, and the remedy.
    """

    def __init__(self, url: str, *, target_limit: int = TARGET_LIMIT, kept_open: bool = False) -> None:
        self.target_limit = target_limit
        self._database = Database(url, kept_open=kept_open)
        try:
            self.migrate()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back every connection."""
        self._database.close()

    def migrate(self) -> None:
        """Bring the tables to the newest revision; done when the ledger is opened."""
        self._database.migrate()

    def record(self, reports: Iterable[ErrorReport], *, run_id: str = "") -> list[Correction]:
        """Take in reports, all in one transaction; the corrections they are about, in order of first mention.

        A source counts once for a correction, so the same reports again change nothing. A bad report is
        quarantined with its reason; contradicting ones are all held as `conflicting`, but for one that is
        active, which stays so; one that comes again after its correction was retired, failed or already
        correct brings it back to `accepted`.
        """
        return self.take(reports, run_id=run_id).corrections

    def take(self, reports: Iterable[ErrorReport], *, run_id: str = "", once: bool = False) -> Taken:
        """Take in reports as `record` does, and say which of them were new.

        With `once` a source makes one report about a model, not one about each correction.

        Raises:
            SourceTaken: one of them is not what its source has reported already; none is taken.
        """
        by_model: dict[str, list[ErrorReport]] = defaultdict(list)
        named = []
        for report in reports:
            by_model[report.model_name].append(report)
            named.append(report.model_name)
        found: dict[tuple[str, str], Correction] = {}
        with self._database.writing() as connection:
            lock_models(connection, by_model)
            counted = {
                name: changes.take_in(
                    connection, name, of_model, target_limit=self.target_limit, run_id=run_id, once=once
                )
                for name, of_model in by_model.items()
            }
            for name, of_model in counted.items():
                ids = [id_ for id_, _ in of_model]
                found |= {(name, id_): one for id_, one in rows.load(connection, name, ids).items()}
        following = {name: iter(of_model) for name, of_model in counted.items()}
        mentioned = [(name, *next(following[name])) for name in named]
        return Taken([(found[name, id_], is_new) for name, id_, is_new in mentioned])

    def corrections(self, model_name: str, *states: State) -> list[Correction]:
        """A model's corrections in these states (in any, if none is given), by first report, then id."""
        with self._database.reading() as connection:
            standing = rows.standing_of(connection, model_name, states=states)
            found = rows.load(connection, model_name, standing, standing)
        return sorted(found.values(), key=lambda correction: (correction.first_reported_at, correction.id))

    def id_of(self, beginning: str, *, model_name: str) -> str:
        """The id of the one correction of a model whose id is this, or begins with it.

        Raises:
            UserError: no id of the model does, or several do.
        """
        with self._database.reading() as connection:
            return rows.id_of(connection, model_name, beginning)

    def get(self, id: str, *, model_name: str | None = None) -> Correction:  # noqa: A002
        """One correction.

        Raises:
            UserError: no such correction, or several models have it and none was named.
        """
        with self._database.reading() as connection:
            name = rows.model_of(connection, id, model_name)
            return rows.load(connection, name, [id])[id]

    def history(self, id: str, *, model_name: str | None = None) -> list[Transition]:  # noqa: A002
        """Every transition of one correction, oldest first."""
        with self._database.reading() as connection:
            return rows.history_of(connection, rows.model_of(connection, id, model_name), id)

    def models(self) -> list[str]:
        """The names of the models that something was reported of, in order."""
        with self._database.reading() as connection:
            return rows.models(connection)

    def counts(self, model_name: str) -> dict[State, int]:
        """How many corrections of a model are in each state, zeros included."""
        with self._database.reading() as connection:
            counted = Counter(
                standing.state for standing in rows.standing_of(connection, model_name).values()
            )
        return {state: counted[state] for state in State}

    def digest(self, model_name: str, states: Iterable[State], *, without: Collection[str] = ()) -> str:
        """SHA-256 over what an edit takes from the corrections in these states, and nothing else.

        Those named by id in `without` do not count, as if they were in another state.
        """
        fields = {"id", "prompt", "desired_output", "chat", "subject", "equivalents", "locality"}
        content = [
            c.model_dump(mode="json", include=fields)
            | ({"approved": True} if c.approved_at else {})
            | ({"answerer": c.answerer} if c.answerer else {})
            | ({"suppressed": c.suppressed} if c.suppressed else {})
            | ({"refused": c.refused} if c.refused else {})
            for c in self.corrections(model_name, *states)
            if c.id not in without
        ]
        content.sort(key=lambda fields: fields["id"])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def transition(
        self,
        ids: str | Iterable[str],
        state: State,
        reason: str = "",
        run_id: str = "",
        *,
        model_name: str | None = None,
    ) -> None:
        """Move corrections to a state, all or none; those already in it are left as they are.

        One that becomes active holds accepted ones that contradict it as conflicting.

        Raises:
            IllegalTransition: the state may not follow, or an accepted correction would contradict another.
            UserError: no such correction.
        """
        with self._database.writing() as connection:
            by_model: dict[str, list[str]] = defaultdict(list)
            for id_ in [ids] if isinstance(ids, str) else dict.fromkeys(ids):
                by_model[rows.model_of(connection, id_, model_name)].append(id_)
            lock_models(connection, by_model)
            for name, of_model in by_model.items():
                changes.move(connection, name, of_model, Standing(State(state), reason), run_id)

    def set_aside(self, reasons: Mapping[str, str], run_id: str = "", *, model_name: str) -> None:
        """Move corrections to `failed`, each with its reason, all or none.

        One that is neither accepted nor active any more stays as it is: somebody withdrew it meanwhile, or
        said otherwise.
        """
        with self._database.writing() as connection:
            lock_models(connection, [model_name])
            open_ = rows.standing_of(connection, model_name, reasons, states=[State.ACCEPTED, State.ACTIVE])
            for id_ in sorted(open_):
                changes.move(connection, model_name, [id_], Standing(State.FAILED, reasons[id_]), run_id)

    def answer(
        self,
        id: str,  # noqa: A002
        desired_output: str,
        reviewer: str,
        *,
        program: bool = False,
        note: str = "",
        model_name: str | None = None,
    ) -> Correction:
        """Give a report that waits as `needs_answer` its desired output; the correction that it becomes.

        Its reports, and later ones without a desired output, count for that one; it is closed as `duplicate`.
        Where the reviewer is a `program`, the correction is marked as its until a person reports or chooses
        the same; a person may answer again, and a program never answers what a person has.

        Raises:
            UserError: it waits for no answer, or the answer is empty, too long or the wrong output itself.
        """
        with self._database.writing() as connection:
            name = rows.model_of(connection, id, model_name)
            lock_models(connection, [name])
            answered_as = changes.answer(
                connection,
                name,
                id,
                desired_output,
                reviewer,
                target_limit=self.target_limit,
                program=program,
                note=note,
            )
            return rows.load(connection, name, [answered_as])[answered_as]

    def still_waiting(self, reasons: Mapping[str, str], *, model_name: str) -> None:
        """Say why these reports wait for an answer still, given by id; those that wait no more stay as is."""
        with self._database.writing() as connection:
            lock_models(connection, [model_name])
            changes.still_waiting(connection, model_name, reasons)

    def refuse_rewordings(
        self,
        id: str,  # noqa: A002
        rewordings: Collection[str],
        reviewer: str,
        source: str,
        *,
        model_name: str,
    ) -> None:
        """Leave these rewordings of a correction's prompt out of every edit dataset from now on.

        They are all that the source refuses: what it refused before and does not now is used again.

        Raises:
            UserError: no such correction.
        """
        with self._database.writing() as connection:
            lock_models(connection, [model_name])
            one = rows.load(connection, rows.model_of(connection, id, model_name), [id])[id]
            digest = rows.prompt_digest(one.prompt, chat=one.chat)
            refuse(connection, model_name, digest, rewordings, reviewer, source)

    def resolve(self, id: str, decided_by: str, *, model_name: str | None = None) -> Correction:  # noqa: A002
        """Choose a correction over others that contradict it, or over checks that hold it; the others lose.

        Raises:
            IllegalTransition: it cannot be accepted from the state it is in.
            UserError: no such correction, nothing contradicts it, or it cannot be acted on.
        """
        with self._database.writing() as connection:
            name = rows.model_of(connection, id, model_name)
            lock_models(connection, [name])
            changes.resolve(connection, name, id, decided_by, target_limit=self.target_limit)
            return rows.load(connection, name, [id])[id]

    def lease(self, model_name: str, holder: str, seconds: float = 600) -> AbstractContextManager[Lease]:
        """Hold a model for one run: `with ledger.lease(model, holder) as lease: ... lease.renew()`.

        A lease also ends when it runs out, or when its process on this machine is found dead.

        Raises:
            LeaseHeld: another run holds it (when the block is entered).
        """
        return leases.hold(self._database, model_name, holder, seconds)

    def at_work(self, model_name: str) -> list[tuple[str, datetime]]:
        """Who holds a lease on a model or on one kind of its runs, and since when (UTC)."""
        return leases.at_work(self._database, model_name)

    def log_promotion(
        self,
        model_name: str,
        action: str,
        from_version: str | None,
        to_version: str | None,
        who: str,
        why: str,
        phase: Phase | str,
        run_id: str = "",
    ) -> None:
        """Add a row to the promotion log; a repetition of the last one adds nothing.

        Raises:
            UserError: another change of champion was begun and is neither done nor failed.
            ValueError: no such phase, or the end of a change that was not begun.
        """
        at = datetime.now(UTC)
        row = Promotion(model_name, action, from_version, to_version, who, why, Phase(phase), run_id, at)
        promotion_log.append(self._database, row)

    def promotion_log(self, model_name: str) -> list[Promotion]:
        """Every change of champion of a model, every rejection and withdrawal, oldest first."""
        return promotion_log.rows(self._database, model_name)

    def rejection(self, model_name: str, version: str) -> Promotion | None:
        """The row of the promotion log that says that a person rejected this version, if one did."""
        return promotion_log.rejection(self._database, model_name, version)

    def unfinished_promotion(self, model_name: str) -> Promotion | None:
        """The change of champion that was begun and neither done nor failed, if there is one."""
        return promotion_log.unfinished(self._database, model_name)
