"""A review queue in a real MLflow store, and people who answer in it as MLflow's page does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import mlflow
from mlflow.entities import AssessmentSource
from mlflow.genai import review_queues

from flows.review import Reviewed, ask_reviewers, read_reviews
from flows.settings import CorrectSettings
from tasks.ledger import Ledger
from tasks.records import Correction, State
from tasks.review.queue import COMPLETE, OUTCOME_TAG, Item, find_queue
from tasks.review.schemas import MEANING, RIGHT, WANTED

_NUMBERS = count()


class Review:
    """One model's ledger and its queue in a store that other tests use too."""

    def __init__(self, ledger: Ledger, uri: str, **settings: Any) -> None:
        self.name, self.ledger, self.uri = f"reviewed-{next(_NUMBERS)}", ledger, uri
        self.experiment = self.name
        self.settings = CorrectSettings(
            model_name=self.name, tracking_uri=uri, experiment=self.name, **settings
        )

    def ask(self, **how: Any) -> tuple[int, int, int]:
        """How many were put up, wait, and were withdrawn."""
        put = ask_reviewers.fn(self.settings, self.ledger, **how)
        return put.new, put.waiting, put.withdrawn

    def collect(self) -> Reviewed:
        return read_reviews.fn(self.settings, self.ledger)

    def items(self, *statuses: str) -> list[Item]:
        with find_queue(self.uri, self.experiment, self.name) as queue:
            return list(queue.read(*(statuses or ("pending", "complete", "declined")))) if queue else []

    def item(self, prompt: str, desired: str | None = None) -> Item:
        """The item about the one correction of this prompt and desired output that was put up."""
        found = [one for one in self.ledger.corrections(self.name) if one.prompt == prompt]
        ids = {one.id for one in found if one.desired_output == desired}
        return next(one for one in reversed(self.items()) if one.correction_id in ids)

    def says(self, item: Item, who: str = "ann", done: bool = True, **answers: Any) -> list[Any]:
        """What `who` answers (`right`, `why`, `wanted`, `meaning`) becomes assessments; the item is done."""
        source = AssessmentSource(source_type="HUMAN", source_id=who)
        about: dict[str, Any] = {"trace_id": item.trace_id, "source": source}
        made = []
        with self.store():
            if "right" in answers:
                why = answers.get("why")
                made.append(mlflow.log_feedback(name=RIGHT, value=answers["right"], rationale=why, **about))
            if "wanted" in answers:
                made.append(mlflow.log_expectation(name=WANTED, value=answers["wanted"], **about))
            if "meaning" in answers:
                made.append(mlflow.log_feedback(name=MEANING, value=answers["meaning"], **about))
            if done:
                self.mark(item, COMPLETE, who)
        return made

    def mark(self, item: Item, status: str, who: str | None) -> None:
        with self.store(), find_queue(self.uri, self.experiment, self.name) as queue:
            assert queue is not None
            review_queues.set_review_queue_item_status(
                queue.queue_id, item_id=item.trace_id, status=status, completed_by=who
            )

    def store(self) -> Any:
        from tasks.tracking import tracking

        return tracking(self.uri)

    def outcome(self, item: Item) -> str:
        with self.store() as client:
            return str(client.get_trace(item.trace_id).info.tags.get(OUTCOME_TAG, ""))

    def states(self) -> dict[str | None, State]:
        """By desired output, where each correction stands."""
        return {one.desired_output: one.state for one in self.ledger.corrections(self.name)}

    def correction(self, desired: str | None) -> Correction:
        (one,) = (c for c in self.ledger.corrections(self.name) if c.desired_output == desired)
        return one


def reviews(uri: str, folder: Any) -> Iterator[Review]:
    """For a fixture: one with a ledger of its own."""
    with Ledger(f"sqlite:///{folder / 'ledger.db'}") as ledger:
        yield Review(ledger, uri, home=folder)
