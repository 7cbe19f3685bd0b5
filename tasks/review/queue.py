"""The review queue of a model in MLflow: its questions, its items, and what reviewers wrote there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tasks.collect import MODEL_TAG
from tasks.records import UserError
from tasks.review.questions import Kind, Question
from tasks.review.schemas import schemas
from tasks.tracing import Request, write_traces
from tasks.tracking import experiment_id, tracking
from tasks.urls import without_password

CORRECTION_TAG, KIND_TAG = "mendflow.correction", "mendflow.question"
# What became of an answer, for people; what was carried out of it last; and the correction that it led to.
OUTCOME_TAG, DONE_TAG, RESULT_TAG = "mendflow.review", "mendflow.review.done", "mendflow.review.correction"
PENDING, COMPLETE, DECLINED = "pending", "complete", "declined"

_PAGE = 100
# As many as there are things to make: experiment, four questions (one is MLflow's own), queue; and once more.
_TRIES = 7
# MLflow refuses longer tags and names.
_TAG_LENGTH, _NAME_LENGTH = 4000, 250


@dataclass(frozen=True)
class Item:
    """A question in the queue, and what was said to it; `rewordings` are those shown, by number from 1."""

    trace_id: str
    status: str
    correction_id: str
    kind: Kind
    rewordings: tuple[str, ...] = ()
    assessments: tuple[Any, ...] = ()
    outcome: str = ""
    done: str = ""
    result: str = ""


@dataclass(frozen=True)
class Queue:
    """A model's queue in one MLflow store, to be used inside the block that opened it."""

    client: Any
    model_name: str
    experiment: str
    queue_id: str
    items: dict[str, str] = field(default_factory=dict)

    def put(self, questions: Sequence[Question], redact: Callable[[str], str]) -> int:
        """Put questions up, redacted; how many were not there before. Answered ones stay answered."""
        from mlflow.genai import review_queues

        new = [one for one in questions if one.trace_id not in self.items]
        # A run that was interrupted may have written some.
        written = {trace.info.trace_id for trace in self._traces(spans=False)} if new else set()
        now = time.time_ns()
        requests = [
            Request(
                trace_id=one.trace_id,
                prompt=redact(one.correction.prompt),
                output=one.shown(redact),
                started=now,
                ended=now,
                tags={CORRECTION_TAG: one.correction.id, KIND_TAG: one.kind.value},
            )
            for one in new
            if one.trace_id not in written
        ]
        tags = {MODEL_TAG: self.model_name}
        write_traces(
            self.client.tracking_uri, self.experiment, requests, tags=tags, metadata={}, attributes={}
        )
        if new:
            review_queues.add_items_to_review_queue(self.queue_id, item_ids=[one.trace_id for one in new])
        return len(new)

    def read(self, *statuses: str) -> Iterator[Item]:
        """The items with one of these statuses, the one that was asked first first."""
        if not any(status in statuses for status in self.items.values()):
            return
        for trace in self._traces(spans=True):
            trace_id, tags = trace.info.trace_id, trace.info.tags
            status = self.items.get(trace_id)
            if status not in statuses or CORRECTION_TAG not in tags:
                continue
            root = next((span for span in trace.data.spans if span.parent_id is None), None)
            shown = (root.outputs or {}).get("rewordings", {}) if root is not None else {}
            yield Item(
                trace_id=trace_id,
                status=status,
                correction_id=tags[CORRECTION_TAG],
                kind=Kind(tags[KIND_TAG]),
                rewordings=tuple(shown[str(n)] for n in range(1, len(shown) + 1)),
                assessments=tuple(trace.info.assessments),
                outcome=tags.get(OUTCOME_TAG, ""),
                done=tags.get(DONE_TAG, ""),
                result=tags.get(RESULT_TAG, ""),
            )

    def note(self, trace_id: str, tags: dict[str, str]) -> None:
        """Say on an item what became of it."""
        for key, value in tags.items():
            self.client.set_trace_tag(trace_id, key, value[:_TAG_LENGTH])

    def reopen(self, trace_id: str, why: str) -> None:
        """Ask again, saying why what was said is not enough."""
        from mlflow.genai import review_queues

        self.note(trace_id, {OUTCOME_TAG: f"open again: {why}"})
        review_queues.set_review_queue_item_status(self.queue_id, item_id=trace_id, status=PENDING)

    def withdraw(self, trace_ids: Sequence[str]) -> None:
        """Take out of the queue what nobody has to answer any more."""
        from mlflow.genai import review_queues

        if trace_ids:
            review_queues.remove_items_from_review_queue(self.queue_id, item_ids=list(trace_ids))

    def _traces(self, *, spans: bool) -> Iterator[Any]:
        """The traces of the model's questions, those of items that were taken out too."""
        quoted = self.model_name.replace("'", "")
        token = None
        while True:
            page = self.client.search_traces(
                locations=[self.experiment],
                # No quotation mark can be written in a filter; then all models' are searched.
                filter_string=f"tags.`{MODEL_TAG}` = '{quoted}'" if quoted == self.model_name else None,
                max_results=_PAGE,
                order_by=["timestamp_ms ASC"],
                page_token=token,
                include_spans=spans,
            )
            yield from page
            token = page.token
            if not token:
                return


def experiment_of_reviews(experiment: str) -> str:
    """The experiment of the reviews, beside that of the traffic: a review is no request."""
    return f"{experiment}-review"


@contextmanager
def find_queue(tracking_uri: str, experiment: str, model_name: str) -> Iterator[Queue | None]:
    """A model's queue; None where nobody was ever asked.

    Raises:
        UserError: MLflow cannot be reached, or has no review queues.
    """
    with _mlflow(tracking_uri) as client:
        there = client.get_experiment_by_name(experiment_of_reviews(experiment))
        live = there is not None and there.lifecycle_stage != "deleted"
        found = _queue(there.experiment_id, model_name) if live else None
        yield found and _opened(client, model_name, there.experiment_id, found)


@contextmanager
def make_queue(
    tracking_uri: str, experiment: str, model_name: str, reviewers: Sequence[str] = ()
) -> Iterator[Queue]:
    """A model's queue, made if there is none; reviewers are added to those that it has.

    Without reviewers it is for everybody who reaches the page.

    Raises:
        UserError: MLflow cannot be reached, has no review queues, or refuses the reviewers.
    """
    from mlflow.exceptions import MlflowException

    with _mlflow(tracking_uri) as client:
        named = experiment_of_reviews(experiment)
        for left in reversed(range(_TRIES)):
            try:
                place, found = _found_or_made(client, named, model_name, reviewers)
                break
            except MlflowException:
                # Somebody else may make the same at this moment, which databases say in many ways. Then that
                # is there, and the next time one thing less is to be made.
                if not left:
                    raise
        yield _opened(client, model_name, place, found)


def _found_or_made(
    client: Any, experiment: str, model_name: str, reviewers: Sequence[str]
) -> tuple[str, Any]:
    """The id of the experiment, and the queue in it."""
    from mlflow.genai import review_queues

    there = client.get_experiment_by_name(experiment)
    if there is not None and there.lifecycle_stage == "deleted":
        raise UserError(f"the experiment {experiment} is deleted in MLflow; restore it, or name another")
    place = experiment_id(client, experiment)
    found = _queue(place, model_name)
    if found is None:
        found = review_queues.create_review_queue(
            _name(model_name),
            queue_type="custom",
            users=list(reviewers),
            schema_ids=schemas(place),
            experiment_id=place,
        )
    elif reviewers:
        review_queues.update_review_queue(found.queue_id, users=[*found.users, *reviewers])
    return place, found


@contextmanager
def _mlflow(tracking_uri: str) -> Iterator[Any]:
    """A client of the store; that it has no queues, or refuses one, is said in words."""
    from mlflow.exceptions import MlflowException

    with tracking(tracking_uri) as client:
        try:
            yield client
        except NotImplementedError as error:
            raise _without_queues(tracking_uri) from error
        except MlflowException as error:
            if error.error_code in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"):
                raise _without_queues(tracking_uri) from error
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise UserError(f"MLflow refuses the review queue: {error.message}") from error
            raise


def _opened(client: Any, model_name: str, place: str, queue: Any) -> Queue:
    return Queue(client, model_name, str(place), queue.queue_id, _items(queue.queue_id))


def _without_queues(tracking_uri: str) -> UserError:
    return UserError(
        f"MLflow at {without_password(tracking_uri)} has no review queues: they take version 3.14 or newer, "
        "and a database; upgrade it, or decide with `mendflow answer`, `choose` and `retire`"
    )


def _name(model_name: str) -> str:
    # One queue name is taken, and so may a model's be.
    return f"corrections of {model_name}"[:_NAME_LENGTH]


def _queue(place: str, model_name: str) -> Any | None:
    from mlflow.genai import review_queues

    wanted, token = _name(model_name).lower(), None
    while True:
        page = review_queues.list_review_queues(experiment_id=place, max_results=_PAGE, page_token=token)
        found = next((queue for queue in page if queue.name.lower() == wanted), None)
        token = page.token
        if found is not None or not token:
            return found


def _items(queue_id: str) -> dict[str, str]:
    """The status of every item, in the order that they were put up in."""
    from mlflow.genai import review_queues

    found, token = [], None
    while True:
        page = review_queues.list_review_queue_items(queue_id, max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    found.sort(key=lambda item: (item.creation_time_ms, item.item_id))
    return {item.item_id: str(item.status) for item in found}
