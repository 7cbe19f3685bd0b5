"""Writing many traces at once, in a fraction of the time that MLflow's exporter takes for them."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

# Characters that MLflow's database keeps of a request and a response beside their span.
_PREVIEW_LENGTH = 1000
OVERRIDE_ATTRIBUTE = "mendflow.override"


@dataclass(frozen=True)
class Request:
    """One request that was answered: what its trace shows. Times are nanoseconds since 1970.

    `override` is the correction whose override answered instead of the model, or "". Where there are
    `messages`, as OpenAI has them, they are what the trace shows, in place of the prompt. `attributes` and
    `tags` are those of this request alone.
    """

    trace_id: str
    prompt: str
    output: Any
    started: int
    ended: int
    override: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, Any]:
        """What was asked, as the trace shows it."""
        return {"messages": list(self.messages)} if self.messages else {"prompt": self.prompt}

    def redacted(self, redact: Callable[[str], str]) -> Request:
        """The request with its texts redacted; attributes are a server's own, and stay."""
        messages = tuple({name: redact(text) for name, text in one.items()} for one in self.messages)
        return replace(self, prompt=redact(self.prompt), output=redact(self.output), messages=messages)


def new_trace_id() -> str:
    """An identifier in MLflow's form."""
    return f"tr-{secrets.token_hex(16)}"


def write_traces(
    tracking_uri: str,
    experiment_id: str,
    requests: Sequence[Request],
    *,
    tags: Mapping[str, str],
    metadata: Mapping[str, str],
    attributes: Mapping[str, Any],
) -> None:
    """Write one trace a request, each with one span of type LLM.

    The trace goes before its spans: the other way round, as MLflow's exporter does it, the store finds the
    trace there already and rolls back, which takes it four times as long.
    """
    from mlflow.entities import TraceInfo, TraceState
    from mlflow.entities.trace_location import TraceLocation
    from mlflow.tracing.client import TracingClient
    from mlflow.tracing.constant import TRACE_SCHEMA_VERSION, TRACE_SCHEMA_VERSION_KEY, TraceTagKey

    client = TracingClient(tracking_uri)
    of_all = {TRACE_SCHEMA_VERSION_KEY: str(TRACE_SCHEMA_VERSION), **metadata}
    for request in requests:
        client.start_trace(
            TraceInfo(
                trace_id=request.trace_id,
                trace_location=TraceLocation.from_experiment_id(experiment_id),
                request_time=request.started // 1_000_000,
                execution_duration=(request.ended - request.started) // 1_000_000,
                state=TraceState.OK,
                request_preview=_preview(request.inputs),
                response_preview=_preview(request.output),
                trace_metadata=dict(of_all),
                tags={**tags, **request.tags, TraceTagKey.TRACE_NAME: "answer"},
            )
        )
    if requests:
        client.log_spans(experiment_id, [_span(request, experiment_id, attributes) for request in requests])


def _preview(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _PREVIEW_LENGTH else f"{text[: _PREVIEW_LENGTH - 3]}..."


def _span(request: Request, experiment_id: str, attributes: Mapping[str, Any]) -> Any:
    from mlflow.entities import Span, SpanType
    from mlflow.tracing.constant import SpanAttributeKey

    values = {
        SpanAttributeKey.REQUEST_ID: request.trace_id,
        SpanAttributeKey.EXPERIMENT_ID: experiment_id,
        SpanAttributeKey.SPAN_TYPE: SpanType.LLM,
        SpanAttributeKey.INPUTS: request.inputs,
        SpanAttributeKey.OUTPUTS: request.output,
        **attributes,
        **request.attributes,
        **({OVERRIDE_ATTRIBUTE: request.override} if request.override else {}),
    }
    return Span.from_dict(
        {
            "name": "answer",
            "trace_id": base64.b64encode(bytes.fromhex(request.trace_id.removeprefix("tr-"))).decode(),
            # The same at every attempt: what is written twice is there once.
            "span_id": base64.b64encode(bytes.fromhex(request.trace_id[-16:])).decode(),
            "parent_span_id": None,
            "start_time_unix_nano": request.started,
            "end_time_unix_nano": request.ended,
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {key: json.dumps(value) for key, value in values.items()},
            "events": [],
            "links": [],
        }
    )
