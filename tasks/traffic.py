"""Serving a registered version with tracing on: one trace a request, and what users say of the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from tasks.collect import FEEDBACK_NAME, MODEL_TAG, VERSION_TAG
from tasks.models import SERVING_DEFAULTS
from tasks.records import UserError
from tasks.registry import resolve_version
from tasks.tracing import Request, new_trace_id, write_traces
from tasks.tracking import experiment_id, tracking
from tasks.weights import quiet

EXPECTATION_NAME = "expected_response"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ServedModel:
    """A registered version loaded as it is served, and the names its traces bear."""

    name: str
    version: str
    model: Any
    tracking_uri: str

    def answer(self, prompts: Sequence[str], **params: Any) -> list[str]:
        """Answers of the served model; `params` are those of its signature: `chat`, `max_new_tokens`."""
        return list(self.model.predict(list(prompts), params=params))

    def overridden(self, prompts: Sequence[str], *, chat: bool) -> list[str]:
        """For each prompt the correction whose override answers it now, or "" where the model does."""
        overrides = self.model.unwrap_python_model().overrides
        found = [overrides.lookup(prompt, chat=chat) for prompt in prompts]
        return [override.correction_id if override else "" for override in found]


@dataclass(frozen=True)
class Answer:
    """One request that was served, and its trace."""

    trace_id: str
    prompt: str
    output: str


@dataclass(frozen=True)
class Feedback:
    """What a user says of an answer; `expected` is what it should have been, if they say so."""

    trace_id: str
    correct: bool
    user: str
    expected: str | None = None


def load_served(model_uri: str, tracking_uri: str | None = None) -> ServedModel:
    """Load `models:/NAME@ALIAS` or `models:/NAME/VERSION` through MLflow's pyfunc, as its server would.

    Raises:
        UserError: there is no such version, or its base or delta is not the registered one.
    """
    name, _, wanted = model_uri.removeprefix("models:/").replace("@", "/").partition("/")
    if not model_uri.startswith("models:/") or not wanted:
        raise UserError(f"{model_uri} names no version; write models:/NAME@ALIAS or models:/NAME/VERSION")
    # An alias may move between two look-ups: only the number is loaded.
    version = resolve_version(name, wanted, tracking_uri=tracking_uri)
    with tracking(tracking_uri) as client, quiet():
        import mlflow

        model = mlflow.pyfunc.load_model(f"models:/{name}/{version}")
        return ServedModel(name, version, model, client.tracking_uri)


def ask(
    served: ServedModel,
    prompts: Sequence[str],
    *,
    experiment: str,
    session: str,
    progress: Progress | None = None,
    batch_size: int = 64,
    **params: Any,
) -> list[Answer]:
    """Serve every prompt as a request of its own, with its trace; the answers in the order of the prompts.

    Requests are generated in batches, as a busy server would, and a batch's traces are written while the next
    one is generated. All are readable when this returns.

    Args:
        served: the model.
        prompts: what users ask.
        experiment: MLflow experiment of the traces, made if there is none.
        session: groups the traces in MLflow's pages.
        progress: called with (requests answered, requests in all).
        batch_size: requests generated at once.
        params: `chat` and `max_new_tokens`, by default those of serving.

    Raises:
        UserError: MLflow cannot be reached.
    """
    options = {**SERVING_DEFAULTS, **params}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    answers: dict[int, Answer] = {}
    with (
        tracking(served.tracking_uri, create=True) as client,
        ThreadPoolExecutor(max_workers=1) as writer,
    ):
        write = partial(
            write_traces,
            served.tracking_uri,
            experiment_id(client, experiment),
            tags={MODEL_TAG: served.name, VERSION_TAG: served.version},
            metadata=trace_metadata(served.model.model_id, session),
            attributes=options,
        )
        written: list[Future[None]] = []
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            started = time.time_ns()
            asked = [prompts[row] for row in rows]
            outputs = served.answer(asked, **options)
            ended = time.time_ns()
            overridden = served.overridden(asked, chat=bool(options["chat"]))
            requests = [
                Request(new_trace_id(), prompt, output, started, ended, override)
                for prompt, output, override in zip(asked, outputs, overridden, strict=True)
            ]
            written.append(writer.submit(write, requests))
            for row, request in zip(rows, requests, strict=True):
                answers[row] = Answer(request.trace_id, request.prompt, request.output)
            if progress is not None:
                progress(len(answers), len(order))
        for batch in written:
            batch.result()
    return [answers[row] for row in range(len(prompts))]


def trace_metadata(model_id: str | None, session: str = "") -> dict[str, str]:
    """What MLflow notes of every trace: session, model, and who ran what."""
    from mlflow.tracing.constant import TraceMetadataKey
    from mlflow.tracking.context.registry import resolve_tags
    from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE, MLFLOW_USER

    known = resolve_tags()
    wanted = (MLFLOW_USER, MLFLOW_SOURCE_NAME, MLFLOW_SOURCE_TYPE)
    metadata = {key: known[key] for key in wanted if key in known}
    if session:
        metadata[TraceMetadataKey.TRACE_SESSION] = session
    if model_id:
        metadata[TraceMetadataKey.MODEL_ID] = model_id
    return metadata


def feedback(
    trace_id: str, correct: bool, user: str, expected: str | None = None, *, tracking_uri: str | None = None
) -> None:
    """A user's click on an answer: right or wrong, and if they say so, what it should have been."""
    give_feedback([Feedback(trace_id, correct, user, expected)], tracking_uri=tracking_uri)


def give_feedback(
    clicks: Iterable[Feedback], *, tracking_uri: str | None = None, progress: Progress | None = None
) -> None:
    """Log what users say, each as an assessment of its trace.

    Raises:
        UserError: MLflow cannot be reached, or has no such trace.
    """
    clicks = list(clicks)
    with tracking(tracking_uri):
        import mlflow
        from mlflow.entities import AssessmentSource, AssessmentSourceType
        from mlflow.exceptions import MlflowException

        for done, click in enumerate(clicks, 1):
            source = AssessmentSource(source_type=AssessmentSourceType.HUMAN, source_id=click.user)
            try:
                mlflow.log_feedback(
                    trace_id=click.trace_id, name=FEEDBACK_NAME, value=click.correct, source=source
                )
                if click.expected is not None:
                    mlflow.log_expectation(
                        trace_id=click.trace_id, name=EXPECTATION_NAME, value=click.expected, source=source
                    )
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise UserError(f"there is no trace {click.trace_id}; check its id") from error
            if progress is not None:
                progress(done, len(clicks))
