"""Carrying out in the ledger what reviewers said; done twice, it changes nothing more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.ledger import Ledger
from tasks.ledger_rules import OPEN_STATES, OVERRULED
from tasks.records import Correction, ErrorReport, State, StoreFailedError, UserError
from tasks.review.questions import Kind, same_prompt
from tasks.review.queue import Item
from tasks.review.said import Action, Said
from validation.redaction import MARK

_WHERE = "in MLflow's review queue"
_CLOSABLE = frozenset({State.NEEDS_ANSWER, State.ALREADY_CORRECT, State.FAILED, *OPEN_STATES})


class NotEnough(UserError):  # noqa: N818
    """What was said cannot be carried out, and somebody has to say more; the message says what."""


@dataclass(frozen=True)
class Answered:
    """An item of the queue, its correction as it is now, and what was said of it."""

    item: Item
    correction: Correction
    said: Said


def at_odds(answered: Iterable[Answered]) -> dict[str, str]:
    """By trace id, why answers that have to be carried out together cannot be: they choose different ones."""
    groups: dict[tuple[str, bool], dict[str, list[Answered]]] = defaultdict(lambda: defaultdict(list))
    for one in answered:
        if one.said.action in (Action.APPROVE, Action.ANSWER):
            text = one.said.text or one.correction.desired_output or ""
            groups[same_prompt(one.correction)][" ".join(text.split())].append(one)
    reasons: dict[str, str] = {}
    for wanted in groups.values():
        if len(wanted) > 1:
            both = [one for of_one in wanted.values() for one in of_one]
            who = ", ".join(sorted({one.said.who for one in both}))
            why = f"different answers to the same prompt are called right (by {who}); say Yes to one of them"
            reasons |= {one.item.trace_id: why for one in both}
    return reasons


def carry_out(ledger: Ledger, answered: Answered, *, waits: bool) -> tuple[str, str]:
    """Do in the ledger what was said; (what was done, the id of the correction that it led to).

    Args:
        ledger: The ledger.
        answered: What was said of which item.
        waits: The correction waits for what the item asks. If it does not, and nothing of the item was
            carried out before, somebody has decided otherwise meanwhile, and it stays so.

    Raises:
        NotEnough: more has to be said, or what was said is refused with a reason.
    """
    item, said, c = answered.item, answered.said, answered.correction
    name, who = c.model_name, said.who
    _refuse(ledger, answered)
    if not (waits or item.done or _may_still(answered)):
        if c.state is State.CONFLICTING:
            return "nothing was done: another answer has come in since, and it is asked again", c.id
        return f"nothing was left to do: it is {_standing(c)}", c.id
    if said.action is None:
        if not item.done and item.kind is not Kind.LOOK:
            raise NotEnough("no answer was given; say Yes or No, or what the model should have said")
        return "no answer, no change", item.result or c.id
    if MARK in said.text:
        raise NotEnough("the answer has a place in it that is redacted; write it as the model should say it")
    now = ledger.get(item.result or c.id, model_name=name)
    if said.action is Action.ANSWER:
        return _answer(ledger, answered, now)
    if said.action is Action.APPROVE:
        if c.state in OPEN_STATES or _by_review(c):
            return _chosen(ledger, c, who)
        return f"nothing was left to do: it is {_standing(c)}", c.id
    if now.state not in _CLOSABLE:
        return f"nothing was left to do: it is {_standing(now)}", now.id
    reason = f"rejected by {who} {_WHERE}{': ' if said.why else ''}{said.why}"
    ledger.transition(now.id, State.QUARANTINED, reason, model_name=name)
    return f"rejected by {who}", now.id


def _may_still(answered: Answered) -> bool:
    """Whether a person's word counts though nothing waits for it: what was done meanwhile a program said."""
    kind, said, c = answered.item.kind, answered.said, answered.correction
    if kind is Kind.CHECK:
        return c.state is State.ACTIVE and bool(c.answerer)
    return kind is Kind.ANSWER and c.state is State.DUPLICATE and said.action is Action.ANSWER


def _refuse(ledger: Ledger, answered: Answered) -> None:
    """Leave the rewordings out that somebody refused, and take back those that nobody does any more."""
    item, said, c = answered.item, answered.said, answered.correction
    texts = [text for n, text in enumerate(item.rewordings, 1) if n in said.refused]
    source = f"review:{item.trace_id}"
    ledger.refuse_rewordings(c.id, texts, said.refused_by, source, model_name=c.model_name)


def _answer(ledger: Ledger, answered: Answered, now: Correction) -> tuple[str, str]:
    item, said, c = answered.item, answered.said, answered.correction
    if c.state is State.NEEDS_ANSWER or (not item.done and item.kind is Kind.ANSWER):
        try:
            new = ledger.answer(c.id, said.text, said.who, note=_WHERE, model_name=c.model_name)
        except StoreFailedError:
            raise
        except UserError as error:
            if c.state is State.NEEDS_ANSWER:
                raise NotEnough(str(error)) from error
            return f"nothing was left to do: {error}", c.id
        return f"answered by {said.who}", new.id
    with _refusals_told():
        report = ErrorReport(
            prompt=c.prompt,
            wrong_output=c.wrong_output,
            desired_output=said.text,
            source=f"review:{item.trace_id}",
            reporter=said.who,
            model_name=c.model_name,
            model_version=c.model_version,
            chat=c.chat,
            subject=c.subject,
            severity=c.severity,
            suppress=bool(c.suppressed),
        )
        (new,) = ledger.record([report])
    if new.state is State.QUARANTINED and not _by_review(new):
        raise NotEnough(f"the answer was not taken: {new.reason}")
    if new.state in (State.ACCEPTED, State.ACTIVE):
        return f"answered by {said.who}", new.id
    # Who corrects their own answer, or saw what it contradicts, has chosen; else nobody is overruled.
    rivals = {
        one.id
        for one in ledger.corrections(c.model_name, *OPEN_STATES)
        if same_prompt(one) == same_prompt(new) and one.id != new.id
    }
    if item.kind is Kind.CHOOSE or rivals <= {now.id}:
        return _chosen(ledger, new, said.who)
    return f"answered by {said.who}, and contradicted by others", new.id


def _chosen(ledger: Ledger, correction: Correction, who: str) -> tuple[str, str]:
    with _refusals_told():
        ledger.resolve(correction.id, f"{who} {_WHERE}", model_name=correction.model_name)
    return f"approved by {who}", correction.id


@contextmanager
def _refusals_told() -> Iterator[None]:
    """Have what the ledger refuses asked again; that it cannot be used is no fault of what was said."""
    try:
        yield
    except StoreFailedError:
        raise
    except UserError as error:
        raise NotEnough(str(error)) from error


def _by_review(correction: Correction) -> bool:
    """Whether a reviewer's word set it aside: another word brings it back."""
    set_aside = _WHERE in correction.reason or correction.reason.startswith(OVERRULED)
    return correction.state is State.QUARANTINED and set_aside


def _standing(correction: Correction) -> str:
    return f"{correction.state}{': ' if correction.reason else ''}{correction.reason}"
