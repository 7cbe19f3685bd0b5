"""Collecting production errors and traffic: from MLflow traces, from files, from one person's word."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.records import Collected, ErrorReport, Rejected, State, StoreFailedError, TrafficRecord, UserError
from tasks.report_files import from_file
from tasks.reporting import report_error
from tasks.trace_content import Exchange, UnreadableContent, exchanges, texts
from tasks.urls import without_password

__all__ = [
    "Collected",
    "Rejected",
    "from_file",
    "from_traces",
    "mark_collected",
    "report_error",
    "said_right",
]

MODEL_TAG = "mendflow.model"
VERSION_TAG = "mendflow.version"
STATE_TAG = "mendflow.state"
CHAT_ATTRIBUTE = "chat"
LIMIT_ATTRIBUTE, END_ATTRIBUTE = "max_new_tokens", "finish_reason"
SOURCE_PREFIX = "trace:"
FEEDBACK_NAME = "correct"
# What MLflow writes where nobody says who gave the feedback, and what a report without a name says.
_NO_SOURCE, _NO_NAME = frozenset({None, "", "default"}), "unknown"

_PAGE = 100
_CONNECT_SECONDS = 5.0


class NoExperiment(UserError):  # noqa: N818
    """The MLflow store has no experiment of that name."""


def from_traces(
    tracking_uri: str,
    experiment_name: str,
    model_name: str,
    *,
    feedback_name: str = FEEDBACK_NAME,
    expectation_name: str = "expected_response",
    chat: bool = True,
) -> Collected:
    """Every finished trace of an experiment: an error report if its latest feedback is false, else traffic.

    Prompt and output are the root span's, the desired output is the latest expectation. A trace tagged
    `mendflow.model` belongs to that model, one tagged `mendflow.version` to that version. `chat` says how
    prompts were asked that the trace does not show as messages.

    Raises:
        UserError: MLflow cannot be reached, or has no such experiment.
    """
    collected = Collected()
    with _client(tracking_uri) as client:
        for trace in _traces(client, tracking_uri, experiment_name):
            source = f"{SOURCE_PREFIX}{trace.info.trace_id}"
            verdict, right = said_right(trace, feedback_name)
            of_model = trace.info.tags.get(MODEL_TAG) or model_name
            try:
                found = _exchanges(trace)
                if right is False:
                    collected.reports.append(_report(trace, found, verdict, expectation_name, of_model, chat))
            except UnreadableContent as error:
                # Unflagged traffic that cannot be read is no loss; a complaint is.
                if right is False:
                    collected.rejected.append(Rejected(source=source, reason=f"the trace {error}"))
                continue
            if right is not False and of_model == model_name:
                collected.traffic.extend(
                    TrafficRecord(
                        prompt=one.prompt,
                        output=one.output,
                        chat=chat if one.chat is None else one.chat,
                        confirmed=bool(right),
                        gold=_expected(trace, expectation_name),
                        model_version=trace.info.tags.get(VERSION_TAG) or "",
                        **_how_it_was_answered(trace),
                        source=source,
                    )
                    for one in found
                    if one.prompt.strip() and one.output.strip()
                )
    return collected


def said_right(trace: Any, feedback_name: str = FEEDBACK_NAME) -> tuple[Any | None, bool | None]:
    """A trace's latest feedback, and whether it says that the answer is right; None where it says neither."""
    verdict = _latest(trace, "feedback", feedback_name)
    return verdict, None if verdict is None else _truth(verdict.feedback.value)


def mark_collected(tracking_uri: str, trace_ids: Iterable[str], state: State | str) -> None:
    """Tag traces with their correction's state (`mendflow.state`); a report's source will do for an id.

    Raises:
        UserError: MLflow cannot be reached, or has no such trace.
    """
    with _client(tracking_uri) as client:
        for trace_id in trace_ids:
            client.set_trace_tag(trace_id.removeprefix(SOURCE_PREFIX), STATE_TAG, str(state))


@contextmanager
def _client(tracking_uri: str) -> Iterator[Any]:
    """An MLflow client; what goes wrong with it inside the block is the user's to mend."""
    _check_reachable(tracking_uri)
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield mlflow.MlflowClient(tracking_uri=tracking_uri)
    except (mlflow.exceptions.MlflowException, SQLAlchemyError, OSError) as error:
        raise _unusable(tracking_uri, str(getattr(error, "orig", None) or error)) from error


def _check_reachable(tracking_uri: str) -> None:
    """Fail at once where MLflow would retry for minutes, or make an empty store out of a misspelt path."""
    if tracking_uri.startswith("sqlite:///"):
        path = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
        if not path.is_file():
            raise _unusable(tracking_uri, f"there is no file {path}")
        return
    try:
        address = urlsplit(tracking_uri)
        default_port = {"http": 80, "https": 443}.get(address.scheme)
        port = address.port or default_port
        if address.hostname and port:
            socket.create_connection((address.hostname, port), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unusable(tracking_uri, str(error)) from error


def _unusable(tracking_uri: str, cause: str) -> StoreFailedError:
    short = without_password(" ".join(cause.split()))[:300]
    return StoreFailedError(
        f"MLflow at {without_password(tracking_uri)} cannot be used ({short}); correct the tracking URI "
        "(sqlite:///path/to/mlflow.db or http://host:port), or see that the server runs and has room"
    )


def _traces(client: Any, tracking_uri: str, experiment_name: str) -> Iterator[Any]:
    """Finished traces, oldest first; one page is held at a time."""
    import mlflow

    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        raise NoExperiment(
            f"MLflow at {without_password(tracking_uri)} has no experiment {experiment_name!r}; "
            "check its name, or let the model answer with tracing on first"
        )
    # What this process traced may still be on its way.
    mlflow.flush_trace_async_logging()
    token = None
    while True:
        page = client.search_traces(
            locations=[experiment.experiment_id],
            max_results=_PAGE,
            order_by=["timestamp_ms ASC"],
            page_token=token,
        )
        yield from (trace for trace in page if trace.info.state.value != "IN_PROGRESS")
        token = page.token
        if not token:
            return


def _exchanges(trace: Any) -> list[Exchange]:
    root = next((span for span in trace.data.spans if span.parent_id is None), None)
    if root is None:
        raise UnreadableContent("has no root span; log it again, whole")
    found = exchanges(root.inputs, root.outputs)
    # What mendflow traced says how it was asked.
    chat = root.attributes.get(CHAT_ATTRIBUTE)
    if not isinstance(chat, bool):
        return found
    return [replace(one, chat=chat) if one.chat is None else one for one in found]


def _how_it_was_answered(trace: Any) -> dict[str, bool]:
    """Whether greedily, and to its natural end; where the trace does not show it, the end is in doubt.

    What has no reason for its end (`tasks.traffic.ask`) was answered greedily, and told how long it may be.
    """
    from tasks.models import SERVING_DEFAULTS

    shown = next(span for span in trace.data.spans if span.parent_id is None).attributes
    limit, ended = shown.get(LIMIT_ATTRIBUTE), shown.get(END_ATTRIBUTE)
    if ended is None:
        whole = isinstance(limit, int) and limit >= SERVING_DEFAULTS[LIMIT_ATTRIBUTE]
        return {"greedy": True, "whole": whole}
    return {"greedy": shown.get("temperature") == 0, "whole": ended == "stop"}


def _report(
    trace: Any, found: list[Exchange], verdict: Any, expectation_name: str, model_name: str, chat: bool
) -> ErrorReport:
    if len(found) != 1:
        raise UnreadableContent(
            f"has {len(found)} prompts and the feedback does not say which; record one a trace"
        )
    (one,) = found
    expectation = _latest(trace, "expectation", expectation_name)
    desired = None if expectation is None else texts(expectation.expectation.value)
    if desired is not None and len(desired) != 1:
        raise UnreadableContent(
            f"has an expectation {expectation_name!r} that is not one text; write one text"
        )
    who = verdict.source.source_id
    return ErrorReport(
        prompt=one.prompt,
        wrong_output=one.output,
        desired_output=None if desired is None else desired[0],
        source=f"{SOURCE_PREFIX}{trace.info.trace_id}",
        reporter=_NO_NAME if who in _NO_SOURCE else who,
        reported_at=datetime.fromtimestamp(verdict.last_update_time_ms / 1000, UTC),
        model_name=model_name,
        model_version=trace.info.tags.get(VERSION_TAG, ""),
        chat=chat if one.chat is None else one.chat,
    )


def _expected(trace: Any, name: str) -> str | None:
    """The trace's expectation, if it is one text."""
    expectation = _latest(trace, "expectation", name)
    told = [] if expectation is None else texts(expectation.expectation.value)
    return told[0] if len(told) == 1 else None


def _latest(trace: Any, kind: str, name: str) -> Any | None:
    """The latest valid assessment of a kind (`feedback` or `expectation`) and name that says anything."""
    named = [
        assessment
        for assessment in trace.info.assessments
        if assessment.name == name
        and assessment.valid is not False
        and getattr(assessment, kind, None) is not None
        and getattr(assessment, kind).value is not None
    ]
    # Of two in the same millisecond the one stored later counts.
    return (
        max(enumerate(named), key=lambda item: (item[1].last_update_time_ms, item[0]))[1] if named else None
    )


def _truth(value: Any) -> bool | None:
    """What a feedback says: a boolean, or the words that judges write instead; None if it says neither."""
    if isinstance(value, bool):
        return value
    words = {
        "true": True,
        "yes": True,
        "pass": True,
        "1": True,
        "false": False,
        "no": False,
        "fail": False,
        "0": False,
    }
    return words.get(str(value).strip().lower())
