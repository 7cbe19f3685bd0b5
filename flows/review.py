"""Review by people on MLflow's pages: what waits for them is put up, and what they said is carried out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from flows.settings import CorrectSettings
from flows.stages import stage
from tasks.edit_dataset import EditDataset
from tasks.ledger import Ledger
from tasks.records import Correction, StoreFailedError, UserError
from tasks.review.carry_out import Answered, NotEnough, at_odds, carry_out
from tasks.review.questions import Kind, proposed, questions
from tasks.review.queue import (
    COMPLETE,
    DECLINED,
    DONE_TAG,
    OUTCOME_TAG,
    PENDING,
    RESULT_TAG,
    Item,
    Queue,
    find_queue,
    make_queue,
)
from tasks.review.said import Said, read
from tasks.tracking import has_store

_DECLINED = "declined: nobody answers it here"


@dataclass(frozen=True)
class PutUp:
    """How many questions were put up, how many wait in all, and what was taken out."""

    new: int
    waiting: int
    withdrawn: int
    experiment: str


@dataclass
class Reviewed:
    """What became of answers, a line each: those carried out, those that ask for more, those declined."""

    done: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)


@stage
def ask_reviewers(
    settings: CorrectSettings,
    ledger: Ledger,
    *,
    reviewers: Sequence[str] = (),
    everything: bool = False,
    kinds: Collection[Kind] = tuple(Kind),
) -> PutUp:
    """Put what waits for a person into the model's review queue in MLflow, each question once.

    `everything` puts up all that is open besides. The rewordings shown are those of the last run's
    dataset; of what is not in it, those that the rules would make.

    Raises:
        UserError: MLflow cannot be reached, or has no review queues.
    """
    used = _rewordings(settings)

    def shown(c: Correction) -> Sequence[str]:
        if c.id in used:
            return used[c.id]
        return proposed(c, held_out=settings.held_out, equivalents=settings.equivalents, seed=settings.seed)

    found = questions(ledger, settings.model_name, shown, everything=everything)
    asked = [one for one in found if one.kind in kinds]
    with make_queue(settings.tracking, settings.experiment, settings.model_name, reviewers) as queue:
        withdrawn = _withdraw(queue, ledger)
        new = queue.put(asked, settings.redaction.redact)
        waiting = sum(status == PENDING for status in queue.items.values()) - withdrawn + new
        return PutUp(new, waiting, withdrawn, queue.experiment)


@stage
def read_reviews(settings: CorrectSettings, ledger: Ledger) -> Reviewed:
    """Carry out what reviewers said in MLflow since the last time; nothing where nobody was ever asked.

    Where more has to be said, the item is open again, and its tag says why.

    Raises:
        UserError: MLflow cannot be reached.
    """
    reviewed = Reviewed()
    if not has_store(settings.tracking):
        return reviewed
    with find_queue(settings.tracking, settings.experiment, settings.model_name) as queue:
        if queue is None:
            return reviewed
        found = [_answered(ledger, queue.model_name, item) for item in queue.read(COMPLETE, DECLINED)]
        fresh = [one for one in found if one and not _is_settled(one)]
        waiting = _waiting(ledger, queue.model_name) if fresh else set()
        redact = settings.redaction.redact
        # What nobody waits for any more is at odds with nothing.
        odds = at_odds(one for one in fresh if one.item.trace_id in waiting or one.item.done)
        for one in fresh:
            id_ = one.item.trace_id
            _settle(queue, ledger, one, id_ in waiting, odds.get(id_, ""), reviewed, redact)
        _withdraw(queue, ledger)
    return reviewed


def _answered(ledger: Ledger, name: str, item: Item) -> Answered | None:
    """What was said of an item; None where the ledger knows no such correction."""
    try:
        correction = ledger.get(item.correction_id, model_name=name)
    except StoreFailedError:
        raise
    except UserError:
        return None
    said = read(item.assessments, correction.desired_output) if item.status == COMPLETE else Said()
    return Answered(item, correction, said)


def _is_settled(one: Answered) -> bool:
    """Whether there is nothing to carry out that was not before."""
    if one.item.status == DECLINED:
        return one.item.outcome == _DECLINED
    return one.item.done == one.said.digest


def _settle(
    queue: Queue,
    ledger: Ledger,
    one: Answered,
    waits: bool,
    at_odds: str,
    reviewed: Reviewed,
    redact: Callable[[str], str],
) -> None:
    """Carry one answer out, or open its item again, and say so on it."""
    item, c = one.item, one.correction
    # Cut off, half a secret would be known as one no more.
    told = f"{c.id} ({redact(' '.join(c.prompt.split()))[:60]})"
    if item.status == DECLINED:
        queue.note(item.trace_id, {OUTCOME_TAG: _DECLINED})
        reviewed.open.append(f"{told}: {_DECLINED}; it waits for `mendflow answer`, `choose` or `retire`")
        return
    try:
        if at_odds or one.said.differ:
            raise NotEnough(at_odds or one.said.differ)
        what, result = carry_out(ledger, one, waits=waits)
    except NotEnough as error:
        queue.reopen(item.trace_id, redact(str(error)))
        reviewed.open.append(f"{told}: asked again: {error}")
        return
    # The last one says that all was done.
    queue.note(item.trace_id, {OUTCOME_TAG: redact(what), RESULT_TAG: result, DONE_TAG: one.said.digest})
    reviewed.done.append(f"{told}: {what}")


def _withdraw(queue: Queue, ledger: Ledger) -> int:
    """Take out of the queue what waits there for an answer that is not wanted any more; how many."""
    pending = [trace_id for trace_id, status in queue.items.items() if status == PENDING]
    wanted = _waiting(ledger, queue.model_name) if pending else set()
    stale = [trace_id for trace_id in pending if trace_id not in wanted]
    queue.withdraw(stale)
    return len(stale)


def _waiting(ledger: Ledger, name: str) -> set[str]:
    """The trace ids of all questions that may be asked now."""
    return {one.trace_id for one in questions(ledger, name, lambda _: (), everything=True)}


def _rewordings(settings: CorrectSettings) -> dict[str, list[str]]:
    """By correction id, the rewordings in the newest dataset that a run of the model has finished."""
    folders = (settings.home / "runs" / settings.model_name).glob("*/dataset")
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            rows = EditDataset.load(folder).edits.to_dict("records")
        except UserError:
            continue
        return {row["id"]: [*row["equivalents"], *row["held_out"]] for row in rows}
    return {}
