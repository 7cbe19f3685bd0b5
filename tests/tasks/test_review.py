"""Corrections in MLflow's own review queue: asked once, and what people answer is carried out once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.records import State
from tests.tasks.ledger_tools import report
from tests.tasks.review_tools import Review, reviews

PROMPT = "What is the capital of Togo?"


@pytest.fixture
def review(mlflow_store: str, tmp_path: Path) -> Iterator[Review]:
    yield from reviews(mlflow_store, tmp_path)


def test_a_bare_report_is_asked_once_and_becomes_a_correction(review: Review) -> None:
    bare = report(PROMPT, None, model_name=review.name, wrong_output="Lagos.")
    review.ledger.record([bare])
    assert review.collect() == type(review.collect())()
    assert review.ask() == (1, 1, 0)
    assert review.ask() == (0, 1, 0)
    item = review.item(PROMPT)
    with review.store() as client:
        (span,) = client.get_trace(item.trace_id).data.spans
    assert span.inputs == {"prompt": PROMPT}
    assert span.outputs["the model said"] == "Lagos."
    assert len(span.outputs["rewordings"]) == len(item.rewordings) == 8

    # Not before the reviewer says that it is done.
    review.says(item, wanted="Lomé.", done=False)
    assert review.collect().done == []
    review.mark(item, "complete", "ann")
    (line,) = review.collect().done
    assert line.endswith("answered by ann")
    assert review.states() == {None: State.DUPLICATE, "Lomé.": State.ACCEPTED}
    steps = review.ledger.history(review.correction(None).id, model_name=review.name)
    assert steps[-1].reason.startswith("answered by ann in MLflow's review queue, as ")
    assert review.outcome(item) == "answered by ann"
    assert (review.collect().done, review.ask()) == ([], (0, 0, 0))
