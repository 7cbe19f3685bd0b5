"""The ledger's rules, as plain functions: faults of reports, contradictions, and what may follow what.

A correction's standing depends on the set of its reports and its rivals', never on the order they came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.records import Correction, ErrorReport, State, UserError, normalise_prompt
from validation.matching import answers


@dataclass(frozen=True)
class Transition:
    """One row of a correction's history; `from_state` is None in its first."""

    correction_id: str
    model_name: str
    from_state: State | None
    to_state: State
    reason: str
    run_id: str
    at: datetime


@dataclass(frozen=True)
class Standing:
    """A state and the reason for it."""

    state: State
    reason: str = ""


@dataclass(frozen=True)
class Member:
    """One of the corrections about a prompt: its reports, in any order, and where it stands so far."""

    id: str
    reports: tuple[ErrorReport, ...]
    new_reports: tuple[ErrorReport, ...] = ()
    standing: Standing | None = None
    approved: bool = False

    @property
    def by_program(self) -> bool:
        """Whether a program alone gave its answer: no person reported it, or chose it."""
        return not self.approved and all(report.answerer for report in self.reports)

    @property
    def state(self) -> State | None:
        """None before its first report is settled."""
        return None if self.standing is None else self.standing.state


@dataclass(frozen=True)
class Given:
    """An answer that a reviewer gave to a report; `answerer` names the reviewer if it is a program."""

    desired_output: str
    answerer: str


class IllegalTransition(UserError):  # noqa: N818
    """A correction cannot go from the state it is in to the one asked for."""


class SourceTaken(UserError):  # noqa: N818
    """A source that counts for one report alone has already made another."""


# Words in a desired output: an edit is for what a sentence says, more wants fine-tuning or retrieval.
TARGET_LIMIT = 64
# At work, or about to be: two of these about one prompt contradict each other.
OPEN_STATES = frozenset({State.ACCEPTED, State.ACTIVE, State.CONFLICTING})
# How the reason of a correction begins that a named person chose.
CHOSEN = "chosen by "
# How the reason of a program's answer begins that a person's has taken the place of.
OVERRULED = "a person wants another answer to the same prompt: "
# Settled once; a new report says that it is not.
REOPENED_BY_REPORT = frozenset({State.RETIRED, State.ALREADY_CORRECT, State.FAILED})

_SETTLED_OR_OPEN = {State.ACCEPTED, State.CONFLICTING, State.QUARANTINED, State.RETIRED}
LEGAL_TRANSITIONS: dict[State | None, frozenset[State]] = {
    None: frozenset({State.REPORTED}),
    State.REPORTED: frozenset({State.ACCEPTED, State.CONFLICTING, State.NEEDS_ANSWER, State.QUARANTINED}),
    State.ACCEPTED: frozenset(_SETTLED_OR_OPEN | {State.ACTIVE, State.ALREADY_CORRECT, State.FAILED}),
    # Back to accepted when the version it was active in is rolled back.
    State.ACTIVE: frozenset(_SETTLED_OR_OPEN | {State.ALREADY_CORRECT, State.FAILED}),
    # Straight back to active when a version that holds it is promoted again, or rolled back to.
    State.RETIRED: frozenset({State.ACCEPTED, State.ACTIVE, State.CONFLICTING, State.QUARANTINED}),
    State.ALREADY_CORRECT: frozenset(_SETTLED_OR_OPEN),
    State.FAILED: frozenset(_SETTLED_OR_OPEN | {State.ACTIVE}),
    State.CONFLICTING: frozenset({State.ACCEPTED, State.QUARANTINED, State.RETIRED}),
    State.NEEDS_ANSWER: frozenset({State.DUPLICATE, State.QUARANTINED, State.RETIRED}),
    State.QUARANTINED: frozenset({State.ACCEPTED, State.CONFLICTING, State.RETIRED}),
    State.DUPLICATE: frozenset(),
}


def check_transition(correction_id: str, present: State | None, wanted: State) -> None:
    """Raise IllegalTransition unless `wanted` may follow `present`."""
    legal = LEGAL_TRANSITIONS[present]
    if wanted not in legal:
        options = ", ".join(sorted(legal)) or "nothing: it is final"
        raise IllegalTransition(
            f"correction {correction_id} is {present or 'new'} and cannot become {wanted}; "
            f"from here it can become {options}"
        )


def fault(reports: Sequence[ErrorReport], target_limit: int) -> str:
    """Why these reports of one correction cannot be acted on, with the remedy; empty if they can."""
    first = reports[0]
    if not normalise_prompt(first.prompt):
        return "the prompt is empty; report it again with what the model was asked"
    if first.desired_output is None:
        return ""
    if any(report.suppress for report in reports) and not _suppressed(reports):
        what = "the output that must never appear is missing, or the desired output holds it"
        return f"{what}; report it again with both"
    words = first.desired_output.split()
    if not words:
        return "the desired output is empty; report it again with the right answer, or with null for a review"
    long = too_long(first.desired_output, target_limit)
    if long:
        return f"the desired output {long}; report it again with a shorter one, or raise the limit"
    if all(report.wrong_output.split() == words for report in reports):
        return "the desired output equals the wrong output; report it again with the right answer"
    return ""


def too_long(target: str, limit: int = TARGET_LIMIT) -> str:
    """What is wrong with a target of more words than the limit; empty if nothing is."""
    words = len(target.split())
    return f"has {words} words, more than the limit of {limit}" if words > limit else ""


def contradiction(rival_ids: Iterable[str]) -> str:
    """The reason of a conflicting correction: it names its rivals."""
    rivals = ", ".join(sorted(rival_ids))
    return f"another answer to the same prompt is wanted by {rivals}; choose one with `mendflow choose`"


def settle(members: Sequence[Member], target_limit: int) -> dict[str, Standing]:
    """Where the corrections about one prompt stand once new reports are in, by id; unchanged ones too."""
    settled = {member.id: member.standing or _without_rivals(member, target_limit) for member in members}
    contenders = [member for member in members if _contends(member, target_limit)]
    people = [member for member in contenders if not member.by_program]
    if people:
        # A person's word goes before a program's answer, even where that is live.
        said = Standing(State.QUARANTINED, OVERRULED + ", ".join(sorted(member.id for member in people)))
        settled |= {member.id: said for member in contenders if member.by_program}
        contenders = people
    if len(contenders) > 1:
        ids = {member.id for member in contenders}
        # One that is live stays so until a person chooses: else whoever contradicts it takes it out.
        held = {member.id for member in contenders if member.state is not State.ACTIVE}
        settled |= {id_: Standing(State.CONFLICTING, contradiction(ids - {id_})) for id_ in held}
    elif contenders and contenders[0].state not in (State.ACCEPTED, State.ACTIVE):
        only = contenders[0]
        settled[only.id] = Standing(State.ACCEPTED, _why_reopened(only))
    return settled


def merge(
    correction_id: str,
    model_name: str,
    reports: Sequence[ErrorReport],
    standing: Standing,
    approved_at: datetime | None = None,
    refused: tuple[str, ...] = (),
    answerers: tuple[str, ...] = (),
) -> Correction:
    """One correction out of its reports, oldest first: first words count, lists are joined.

    Who gave a report its answer says so too.
    """
    first = reports[0]
    desired = None if first.desired_output is None else first.desired_output.split()
    wrong = (r.wrong_output for r in reports if r.wrong_output.strip() and r.wrong_output.split() != desired)
    return Correction(
        id=correction_id,
        model_name=model_name,
        prompt=first.prompt,
        wrong_output=next(wrong, first.wrong_output),
        desired_output=first.desired_output,
        chat=first.chat,
        subject=next((r.subject for r in reports if r.subject), None),
        severity=next((r.severity for r in reports if r.severity != "normal"), "normal"),
        equivalents=_joined(r.equivalents for r in reports),
        locality=_joined(r.locality for r in reports),
        refused=refused,
        state=standing.state,
        reason=standing.reason,
        reports=len(reports),
        sources=_joined((r.source,) for r in reports),
        reporters=_joined([*((r.reporter,) for r in reports), answerers]),
        approved_at=approved_at,
        suppressed=_suppressed(reports),
        answered=bool(set(answerers) - {r.reporter for r in reports}),
        answerer=first.answerer if approved_at is None and all(r.answerer for r in reports) else "",
        first_reported_at=first.reported_at,
        model_version=next((r.model_version for r in reports if r.model_version), ""),
    )


def _contends(member: Member, target_limit: int) -> bool:
    """Whether it is at work, about to be, or brought back by a new report."""
    if member.state in OPEN_STATES:
        return True
    if (
        not member.new_reports
        or member.reports[0].desired_output is None
        or fault(member.reports, target_limit)
    ):
        return False
    by_people = any(not report.answerer for report in member.new_reports)
    if member.state is State.QUARANTINED:
        # A report that mends the fault lifts the quarantine; one that a person or a gate decided on stays.
        earlier = [report for report in member.reports if report not in member.new_reports]
        overruled = member.standing is not None and member.standing.reason.startswith(OVERRULED)
        return bool(fault(earlier, target_limit)) or (overruled and by_people)
    if member.state is State.RETIRED and not by_people:
        # Whoever withdrew it is not overruled by the answer that a program gave before.
        return False
    return member.state is None or member.state in REOPENED_BY_REPORT


def _without_rivals(member: Member, target_limit: int) -> Standing:
    wrong = fault(member.reports, target_limit)
    if wrong:
        return Standing(State.QUARANTINED, wrong)
    if member.reports[0].desired_output is None:
        return Standing(State.NEEDS_ANSWER, "no desired output was given")
    return Standing(State.ACCEPTED)


def _why_reopened(member: Member) -> str:
    if member.standing is None or member.standing.state not in REOPENED_BY_REPORT:
        return ""
    earlier = f" ({member.standing.reason})" if member.standing.reason else ""
    return f"reported again after it was {member.standing.state}{earlier}"


def _suppressed(reports: Sequence[ErrorReport]) -> tuple[str, ...]:
    """The outputs that must never appear, but for those that the desired output itself holds."""
    named = (report for report in reports if report.suppress)
    return _joined(
        (one.wrong_output,) for one in named if not answers(one.desired_output or "", one.wrong_output)
    )


def _joined(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for items in lists for item in items if item.strip()))
