"""What changes the ledger: taking in reports, moving, answering, choosing; in the caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import sqlalchemy as sa

from tasks import ledger_rows as rows
from tasks import ledger_rules as rules
from tasks.ledger_rules import IllegalTransition, Member, Standing
from tasks.ledger_schema import storable
from tasks.records import ErrorReport, State, UserError, correction_id


def take_in(
    connection: sa.Connection,
    model_name: str,
    reports: Iterable[ErrorReport],
    *,
    target_limit: int,
    run_id: str,
    once: bool = False,
) -> list[tuple[str, bool]]:
    """Add what is new in the reports of one model and settle where their corrections stand.

    Returns:
        For each report, the id of the correction that it counts for, and whether it was not known before.

    Raises:
        SourceTaken: a source counts `once`, for whatever correction, and has made another report.
    """
    said = [_storable(report) for report in reports]
    reports = _with_answers(connection, model_name, said)
    if once:
        _refuse_taken_sources(connection, model_name, said, reports)
    ids = [_id_of(report) for report in reports]
    digests = {
        id_: rows.prompt_digest(report.prompt, chat=report.chat)
        for id_, report in zip(ids, reports, strict=True)
    }
    known = rows.ids_about(connection, model_name, digests.values())
    known_reports = rows.reports_of(connection, model_name, known)
    unheard = _unheard(zip(ids, reports, strict=True), known_reports)
    new: dict[str, list[ErrorReport]] = {}
    for id_, report, is_new in zip(ids, reports, unheard, strict=True):
        if is_new:
            new.setdefault(id_, []).append(report)
    rows.add_corrections(connection, model_name, {id_: digests[id_] for id_ in new if id_ not in known})
    rows.add_reports(connection, new)

    standing = rows.standing_of(connection, model_name, known)
    answered = [id_ for id_, of_one in known_reports.items() if all(one.answerer for one in of_one)]
    approved = rows.approved_at(connection, model_name, answered)
    groups: dict[str, list[Member]] = defaultdict(list)
    touched = {digests[id_] for id_ in new}
    for id_, digest in (known | {id_: digests[id_] for id_ in new}).items():
        if digest in touched:
            of_one = (*known_reports.get(id_, ()), *new.get(id_, ()))
            fresh = tuple(new.get(id_, ()))
            groups[digest].append(Member(id_, of_one, fresh, standing.get(id_), id_ in approved))
    for members in groups.values():
        settled = rules.settle(members, target_limit)
        steps = [step for member in members for step in _steps(member, settled[member.id])]
        rows.add_transitions(connection, model_name, steps, run_id)
    return list(zip(ids, unheard, strict=True))


def move(
    connection: sa.Connection, model_name: str, ids: Sequence[str], wanted: Standing, run_id: str
) -> None:
    """Move corrections to a state; those already in it are left as they are.

    Raises:
        IllegalTransition: the state may not follow, or an accepted correction would contradict another.
    """
    standing = rows.standing_of(connection, model_name, ids)
    moved = [id_ for id_ in ids if standing[id_].state is not wanted.state]
    rows.add_transitions(
        connection, model_name, [(id_, standing[id_].state, wanted) for id_ in moved], run_id
    )
    if wanted.state not in (State.ACCEPTED, State.ACTIVE):
        return
    for id_, rivals in rows.rivals_of(connection, model_name, moved).items():
        if wanted.state is State.ACCEPTED and rivals:
            raise IllegalTransition(
                f"correction {id_} cannot be accepted beside {', '.join(sorted(rivals))}, which wants "
                "another answer to the same prompt; choose one with `mendflow choose`"
            )
        # That a version with the one is live is a fact; the other must not enter the next version beside it.
        held = Standing(State.CONFLICTING, rules.contradiction(rival_ids=[id_]))
        accepted = [rival for rival, of_rival in rivals.items() if of_rival.state is State.ACCEPTED]
        rows.add_transitions(
            connection, model_name, [(rival, State.ACCEPTED, held) for rival in accepted], run_id
        )


def answer(
    connection: sa.Connection,
    model_name: str,
    id_: str,
    desired_output: str,
    reviewer: str,
    *,
    target_limit: int,
    program: bool = False,
    note: str = "",
) -> str:
    """Give a waiting report its desired output; the id of the correction that it becomes.

    A person may also answer what a program has answered. A `program` answers nothing of which a person has
    said what the answer is. A `note` is kept with who answered.

    Raises:
        UserError: it waits for no answer, or the answer is empty, too long or the wrong output itself.
    """
    given = {"desired_output": storable(desired_output), "answerer": storable(reviewer) if program else ""}
    reports = [
        report.model_copy(update=given) for report in rows.reports_of(connection, model_name, [id_])[id_]
    ]
    answered_as = _id_of(reports[0])
    earlier = rows.answers_to(connection, model_name, [id_]).get(id_)
    if earlier is not None and earlier.answerer and not program:
        # What the program said stays in its history; the person's word is a report of its own.
        now = datetime.now(UTC)
        about = {"source": f"answer:{id_}:{reviewer}", "reporter": reviewer, "reported_at": now}
        reports = [reports[0].model_copy(update=about)]
        _refuse_fault(id_, reports, target_limit)
        take_in(connection, model_name, reports, target_limit=target_limit, run_id="")
        return answered_as
    if earlier is not None:
        said = reports[0].model_copy(update={"desired_output": earlier.desired_output})
        if _id_of(said) == answered_as:
            return answered_as
        raise UserError(
            f"correction {id_} was already answered; report the other answer too, then choose one with "
            "`mendflow choose`"
        )
    state = rows.standing_of(connection, model_name, [id_])[id_].state
    if state is not State.NEEDS_ANSWER:
        raise UserError(
            f"correction {id_} is {state}; only one that needs an answer can be given one. Report the right "
            "answer with `mendflow flag`, then choose it with `mendflow choose`"
        )
    _refuse_fault(id_, reports, target_limit)
    if program and _answered_by_a_person(connection, model_name, reports[0]):
        raise UserError(
            f"the answer to correction {id_} was not taken: a person has said what the answer to its prompt "
            "is, and a program does not overrule it"
        )
    rows.add_answer(connection, model_name, id_, answered_as, desired_output, reviewer, program=program)
    who = f"{reviewer} ({note})" if note else reviewer
    closed = Standing(State.DUPLICATE, f"answered by {who}, as {answered_as}")
    rows.add_transitions(connection, model_name, [(id_, state, closed)], "")
    take_in(connection, model_name, reports, target_limit=target_limit, run_id="")
    return answered_as


def still_waiting(connection: sa.Connection, model_name: str, reasons: Mapping[str, str]) -> None:
    """Say why these reports wait for an answer still, given by id; those that wait no more are left alone."""
    standing = rows.standing_of(connection, model_name, reasons, states=[State.NEEDS_ANSWER])
    steps = [
        (id_, State.NEEDS_ANSWER, Standing(State.NEEDS_ANSWER, reasons[id_]))
        for id_, at in standing.items()
        if at.reason != reasons[id_]
    ]
    rows.add_transitions(connection, model_name, steps, "")


def resolve(
    connection: sa.Connection, model_name: str, id_: str, decided_by: str, *, target_limit: int
) -> None:
    """Choose a correction, over others that contradict it or checks that hold it; its rivals are quarantined.

    Raises:
        IllegalTransition: it cannot be accepted from the state it is in.
        UserError: nothing contradicts it, or it cannot be acted on.
    """
    chosen = rows.standing_of(connection, model_name, [id_])[id_]
    rivals = rows.rivals_of(connection, model_name, [id_])[id_]
    # One that lost a choice is quarantined, and may be chosen when the winner is gone.
    if not rivals and chosen.state not in {*rules.OPEN_STATES, State.QUARANTINED}:
        raise UserError(f"correction {id_} is {chosen.state}, and nothing contradicts it")
    wrong = rules.fault(rows.reports_of(connection, model_name, [id_])[id_], target_limit)
    if wrong:
        raise UserError(f"correction {id_} cannot be chosen: {wrong}")
    lost = Standing(State.QUARANTINED, f"{decided_by} chose {id_} instead")
    steps: list[tuple[str, State | None, Standing]] = [
        (rival, at.state, lost) for rival, at in rivals.items()
    ]
    works = chosen.state in (State.ACCEPTED, State.ACTIVE)
    if rivals or not works or id_ not in rows.approved_at(connection, model_name, [id_]):
        over = f" over {', '.join(sorted(rivals))}" if rivals else ""
        reached = chosen.state if works else State.ACCEPTED
        steps.append((id_, chosen.state, Standing(reached, f"{rules.CHOSEN}{decided_by}{over}")))
    rows.add_transitions(connection, model_name, steps, "")


def _refuse_fault(id_: str, reports: Sequence[ErrorReport], target_limit: int) -> None:
    wrong = rules.fault(reports, target_limit)
    if wrong:
        raise UserError(f"the answer to correction {id_} was not taken: {wrong}")


def _answered_by_a_person(connection: sa.Connection, model_name: str, report: ErrorReport) -> bool:
    """Whether a person has ever said what the answer to this prompt is, whatever has become of it."""
    digest = rows.prompt_digest(report.prompt, chat=report.chat)
    about = rows.reports_of(connection, model_name, rows.ids_about(connection, model_name, [digest]))
    said = (one for of_one in about.values() for one in of_one)
    return any(one.desired_output is not None and not one.answerer for one in said)


def _id_of(report: ErrorReport) -> str:
    return correction_id(report.prompt, report.desired_output, chat=report.chat)


def _storable(report: ErrorReport) -> ErrorReport:
    """The report as the database gives it back: text it can store, moments in UTC."""
    moment = report.reported_at
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    fields: dict[str, object] = {"reported_at": moment}
    for name, value in report:
        if isinstance(value, str):
            fields[name] = storable(value)
        elif isinstance(value, tuple):
            fields[name] = tuple(storable(item) for item in value)
    return report.model_copy(update=fields)


def _refuse_taken_sources(
    connection: sa.Connection,
    model_name: str,
    said: Sequence[ErrorReport],
    answered: Sequence[ErrorReport],
) -> None:
    """Each report is given as it was said, and with the answer that a reviewer gave; either may be kept."""
    made = rows.reports_by_source(connection, model_name, [report.source for report in said])
    for report, with_answer in zip(said, answered, strict=True):
        earlier = made.setdefault(report.source, [report])
        if not any(_same_but_for_time(one, kept) for one in (report, with_answer) for kept in earlier):
            raise rules.SourceTaken(
                f"{report.source} has made another report about {model_name}; give this one its own"
            )


def _same_but_for_time(one: ErrorReport, other: ErrorReport) -> bool:
    return one.model_copy(update={"reported_at": other.reported_at}) == other


def _with_answers(
    connection: sa.Connection, model_name: str, reports: Sequence[ErrorReport]
) -> list[ErrorReport]:
    """The reports, those without a desired output with the one that a reviewer gave to the same complaint."""
    waiting = [_id_of(report) for report in reports if report.desired_output is None]
    answers = rows.answers_to(connection, model_name, waiting)
    return [
        report.model_copy(update=asdict(answers[_id_of(report)]))
        if report.desired_output is None and _id_of(report) in answers
        else report
        for report in reports
    ]


def _unheard(
    mentioned: Iterable[tuple[str, ErrorReport]], known: dict[str, tuple[ErrorReport, ...]]
) -> list[bool]:
    """For each report, whether its source has not yet been heard on its correction."""
    heard = {(id_, report.source) for id_, of_one in known.items() for report in of_one}
    unheard = []
    for id_, report in mentioned:
        unheard.append((id_, report.source) not in heard)
        heard.add((id_, report.source))
    return unheard


def _steps(member: Member, wanted: Standing) -> list[tuple[str, State | None, Standing]]:
    """The transitions from where a correction stands to where it should."""
    if member.standing == wanted:
        return []
    if member.standing is None:
        return [(member.id, None, Standing(State.REPORTED)), (member.id, State.REPORTED, wanted)]
    return [(member.id, member.standing.state, wanted)]
