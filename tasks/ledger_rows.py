"""Reading and adding the ledger's rows, on a connection that the caller opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from tasks import ledger_schema as schema
from tasks.ledger_refusals import refused_of
from tasks.ledger_rules import CHOSEN, OPEN_STATES, Given, Standing, Transition, check_transition, merge
from tasks.records import Correction, ErrorReport, State, UserError, normalise_prompt

_REPORT_FIELDS = tuple(ErrorReport.model_fields)
# Databases limit the parameters of one statement.
_CHUNK = 500
# Ids that a message names at the most.
_LISTED = 8


def prompt_digest(prompt: str, *, chat: bool) -> str:
    """What corrections about the same prompt share: SHA-256 of task and normalised prompt."""
    task = "chat" if chat else "text"
    return hashlib.sha256(f"{task}\x1f{normalise_prompt(prompt)}".encode()).hexdigest()


def model_of(connection: sa.Connection, correction_id: str, model_name: str | None) -> str:
    """The model that a correction belongs to.

    Raises:
        UserError: no such correction, or several models have it and none was named.
    """
    table = schema.corrections
    query = sa.select(table.c.model_name).where(table.c.id == correction_id)
    if model_name is not None:
        query = query.where(table.c.model_name == model_name)
    names = sorted(connection.scalars(query))
    if not names:
        of_model = f" of {model_name}" if model_name is not None else ""
        raise UserError(
            f"the ledger has no correction {correction_id}{of_model}; `mendflow corrections` lists the ids"
        )
    if len(names) > 1:
        raise UserError(f"correction {correction_id} is in the ledger for {', '.join(names)}; name the model")
    return names[0]


def models(connection: sa.Connection) -> list[str]:
    """The names of all models that there are corrections of, in order."""
    return sorted(connection.scalars(sa.select(schema.corrections.c.model_name).distinct()))


def id_of(connection: sa.Connection, model_name: str, beginning: str) -> str:
    """The id of the one correction of a model whose id is this, or begins with it.

    Raises:
        UserError: no id of the model does, or several do.
    """
    table = schema.corrections
    query = sa.select(table.c.id).where(
        table.c.model_name == model_name, table.c.id.startswith(beginning, autoescape=True)
    )
    found = sorted(connection.scalars(query)) if beginning else []
    if len(found) > 1 and beginning not in found:
        listed = ", ".join(found[:_LISTED]) + (" and others" if len(found) > _LISTED else "")
        raise UserError(
            f"{beginning} begins the ids of {len(found)} corrections of {model_name}, {listed}: "
            "give more of the one that is meant"
        )
    if len(found) == 1:
        return found[0]
    model_of(connection, beginning, model_name)
    return beginning


def ids_about(connection: sa.Connection, model_name: str, digests: Iterable[str]) -> dict[str, str]:
    """The prompt digest of every correction about one of these prompts, by id."""
    column = schema.corrections.c.prompt_digest
    return {row["id"]: row["prompt_digest"] for row in _rows(connection, model_name, column, digests)}


def reports_of(
    connection: sa.Connection, model_name: str, ids: Iterable[str]
) -> dict[str, tuple[ErrorReport, ...]]:
    """The reports of these corrections, oldest first, by id."""
    reports: dict[str, list[ErrorReport]] = {}
    for row in _rows(connection, model_name, schema.reports.c.correction_id, ids):
        reports.setdefault(row["correction_id"], []).append(_report(row))
    # Sorted here: a database sorts text by its own locale, and the digest of an edit must be the same in all.
    return {
        id_: tuple(sorted(of_one, key=lambda one: (one.reported_at, one.source)))
        for id_, of_one in reports.items()
    }


def reports_by_source(
    connection: sa.Connection, model_name: str, sources: Iterable[str]
) -> dict[str, list[ErrorReport]]:
    """What these sources have reported about a model, on whatever correction, by source."""
    reports: dict[str, list[ErrorReport]] = {}
    for row in _rows(connection, model_name, schema.reports.c.source, sources):
        reports.setdefault(row["source"], []).append(_report(row))
    return reports


def standing_of(
    connection: sa.Connection,
    model_name: str,
    ids: Iterable[str] | None = None,
    states: Sequence[State] = (),
) -> dict[str, Standing]:
    """Where corrections (all, if no ids are given) stand, by id: what their last transition says."""
    table = schema.transitions
    standing: dict[str, Standing] = {}
    for chunk in [None] if ids is None else _chunks(ids):
        last = sa.select(sa.func.max(table.c.sequence)).where(table.c.model_name == model_name)
        if chunk is not None:
            last = last.where(table.c.correction_id.in_(chunk))
        query = sa.select(table).where(table.c.sequence.in_(last.group_by(table.c.correction_id)))
        if states:
            query = query.where(table.c.to_state.in_([str(state) for state in states]))
        for row in connection.execute(query):
            standing[row.correction_id] = Standing(State(row.to_state), row.reason)
    return standing


def load(
    connection: sa.Connection,
    model_name: str,
    ids: Iterable[str],
    standing: Mapping[str, Standing] | None = None,
) -> dict[str, Correction]:
    """Corrections by id, each merged from its reports."""
    ids = list(ids)
    if standing is None:
        standing = standing_of(connection, model_name, ids)
    reports, approved = reports_of(connection, model_name, ids), approved_at(connection, model_name, ids)
    refused = refused_of(connection, model_name, ids)
    answerers = _answerers_of(connection, model_name, ids)
    return {
        id_: merge(
            id_,
            model_name,
            of_one,
            standing[id_],
            approved.get(id_),
            refused.get(id_, ()),
            answerers.get(id_, ()),
        )
        for id_, of_one in reports.items()
    }


def approved_at(connection: sa.Connection, model_name: str, ids: Iterable[str]) -> dict[str, datetime]:
    """When a person chose these corrections, by id; a choice ends when one is retired or quarantined."""
    table = schema.transitions
    chosen = sa.and_(
        table.c.to_state.in_([State.ACCEPTED.value, State.ACTIVE.value]), table.c.reason.startswith(CHOSEN)
    )
    ended = table.c.to_state.in_([State.RETIRED.value, State.QUARANTINED.value])
    found: dict[str, datetime] = {}
    for chunk in _chunks(ids):
        last = (
            sa.select(sa.func.max(table.c.sequence))
            .where(table.c.model_name == model_name, table.c.correction_id.in_(chunk), chosen | ended)
            .group_by(table.c.correction_id)
        )
        query = sa.select(table.c.correction_id, table.c.at).where(table.c.sequence.in_(last), chosen)
        found |= {row.correction_id: row.at for row in connection.execute(query)}
    return found


def rivals_of(
    connection: sa.Connection, model_name: str, ids: Iterable[str]
) -> dict[str, dict[str, Standing]]:
    """For each correction, the open ones that want another answer to the same prompt."""
    mine = _rows(connection, model_name, schema.corrections.c.id, ids)
    digests = {row["id"]: row["prompt_digest"] for row in mine}
    about = ids_about(connection, model_name, digests.values())
    open_ones = standing_of(connection, model_name, about, states=sorted(OPEN_STATES))
    groups: dict[str, dict[str, Standing]] = {}
    for id_, standing in open_ones.items():
        groups.setdefault(about[id_], {})[id_] = standing
    return {
        id_: {rival: at for rival, at in groups.get(digest, {}).items() if rival != id_}
        for id_, digest in digests.items()
    }


def history_of(connection: sa.Connection, model_name: str, correction_id: str) -> list[Transition]:
    """Every transition of one correction, oldest first."""
    table = schema.transitions
    query = (
        sa.select(table)
        .where(table.c.model_name == model_name, table.c.correction_id == correction_id)
        .order_by(table.c.sequence)
    )
    return [
        Transition(
            correction_id=row.correction_id,
            model_name=row.model_name,
            from_state=None if row.from_state is None else State(row.from_state),
            to_state=State(row.to_state),
            reason=row.reason,
            run_id=row.run_id,
            at=row.at,
        )
        for row in connection.execute(query)
    ]


def answers_to(connection: sa.Connection, model_name: str, ids: Iterable[str]) -> dict[str, Given]:
    """The answers that reviewers gave to these corrections, by id."""
    return {
        row["correction_id"]: Given(row["desired_output"], row["reviewer"] if row["program"] else "")
        for row in _rows(connection, model_name, schema.answers.c.correction_id, ids)
    }


def _answerers_of(
    connection: sa.Connection, model_name: str, ids: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """The people who gave reports the answers that these corrections are, by id."""
    found: dict[str, list[str]] = {}
    for row in _rows(connection, model_name, schema.answers.c.answered_as, ids):
        if not row["program"]:
            found.setdefault(row["answered_as"], []).append(row["reviewer"])
    return {id_: tuple(sorted(people)) for id_, people in found.items()}


def add_corrections(connection: sa.Connection, model_name: str, digests: Mapping[str, str]) -> None:
    """Add corrections, given as prompt digests by id, without reports or state yet."""
    rows = [{"model_name": model_name, "id": id_, "prompt_digest": digest} for id_, digest in digests.items()]
    if rows:
        connection.execute(schema.corrections.insert(), rows)


def add_reports(connection: sa.Connection, reports: Mapping[str, Sequence[ErrorReport]]) -> None:
    """Add reports to corrections, by id."""
    rows = [
        {"correction_id": id_, **report.model_dump(), **_lists(report)}
        for id_, of_one in reports.items()
        for report in of_one
    ]
    if rows:
        connection.execute(schema.reports.insert(), rows)


def add_transitions(
    connection: sa.Connection,
    model_name: str,
    steps: Iterable[tuple[str, State | None, Standing]],
    run_id: str,
) -> None:
    """Add transitions, given as (correction id, present state, where it goes), each checked to be legal.

    A step to the present state is legal: it gives another reason for it.
    """
    now = datetime.now(UTC)
    rows = []
    for correction_id, present, wanted in steps:
        if present is not wanted.state:
            check_transition(correction_id, present, wanted.state)
        rows.append(
            {
                "model_name": model_name,
                "correction_id": correction_id,
                "from_state": None if present is None else str(present),
                "to_state": str(wanted.state),
                "reason": wanted.reason,
                "run_id": run_id,
                "at": now,
            }
        )
    if rows:
        connection.execute(schema.transitions.insert(), rows)


def add_answer(
    connection: sa.Connection,
    model_name: str,
    correction_id: str,
    answered_as: str,
    desired_output: str,
    reviewer: str,
    *,
    program: bool,
) -> None:
    """Add what a reviewer said the output should have been, and the correction that it became."""
    row = {
        "model_name": model_name,
        "correction_id": correction_id,
        "answered_as": answered_as,
        "desired_output": desired_output,
        "reviewer": reviewer,
        "program": program,
        "at": datetime.now(UTC),
    }
    connection.execute(schema.answers.insert(), row)


def _report(row: sa.RowMapping) -> ErrorReport:
    return ErrorReport(**{field: row[field] for field in _REPORT_FIELDS})


def _lists(report: ErrorReport) -> dict[str, list[str]]:
    return {"equivalents": list(report.equivalents), "locality": list(report.locality)}


def _rows(
    connection: sa.Connection, model_name: str, column: sa.Column[str], values: Iterable[str]
) -> Iterator[sa.RowMapping]:
    """A model's rows of the column's table that hold one of these values there."""
    table = column.table
    for chunk in _chunks(values):
        query = sa.select(table).where(table.c.model_name == model_name, column.in_(chunk))
        yield from connection.execute(query).mappings()


def _chunks(items: Iterable[str]) -> Iterator[list[str]]:
    unique = list(dict.fromkeys(items))
    for start in range(0, len(unique), _CHUNK):
        yield unique[start : start + _CHUNK]
