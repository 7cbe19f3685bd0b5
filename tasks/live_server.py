"""The HTTP side of serving: OpenAI's chat and text completions, one trace a request."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from tasks.live_answer import Answer, Asked, Places, Turns
from tasks.live_rollout import Begun, Dealt, Rollout
from tasks.live_traces import TraceWriter
from tasks.live_version import Follower
from tasks.openai_api import ApiError, ChatRequest, CompletionRequest, chunk, event, read, response, usage
from tasks.tracing import new_trace_id

_log = logging.getLogger("mendflow.serve")


@dataclass(frozen=True)
class Limits:
    """What one request may take, and how many there may be.

    Attributes:
        tokens: the most that an answer has.
        at_once: requests under way; more are told to come again.
        body_bytes: of a request.
        body_seconds: that a request's body may take to arrive.
    """

    tokens: int = 1024
    at_once: int = 32
    body_bytes: int = 1 << 20
    body_seconds: float = 30.0


@dataclass
class Service:
    """What the application serves with."""

    follower: Follower
    traces: TraceWriter
    limits: Limits = field(default_factory=Limits)
    api_key: str = ""
    turns: Turns = field(default_factory=Turns)
    places: Places = field(init=False)
    rollout: Rollout | None = None

    def __post_init__(self) -> None:
        self.places = Places(self.limits.at_once)


def application(service: Service) -> FastAPI:
    """The application; while it runs, the champion is followed and traces are written."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.follower.start()
        service.traces.start()
        if service.rollout is not None:
            service.rollout.start()
        try:
            yield
        finally:
            if service.rollout is not None:
                await run_in_threadpool(service.rollout.stop)
            await run_in_threadpool(service.follower.stop)
            await run_in_threadpool(service.traces.stop)

    app = FastAPI(title="mendflow serve", lifespan=lifespan, openapi_url=None)
    app.state.service = service

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> Response:
        headers = {"retry-after": "1"} if error.status == 429 else {}
        return JSONResponse(error.body(), error.status, headers)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        said = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return JSONResponse(ApiError(error.status_code, said).body(), error.status_code, error.headers)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return _health(service)

    @app.get("/v1/models")
    def models(request: Request) -> dict[str, Any]:
        _check_key(service, request)
        version, since = service.follower.current, int(service.follower.since)
        one = {"id": version.name, "object": "model", "created": since, "owned_by": "mendflow"}
        return {"object": "list", "data": [{**one, "version": version.number}]}

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await _body(service, request)
        return await _serve(service, request, read(ChatRequest, body))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        body = await _body(service, request)
        return await _serve(service, request, read(CompletionRequest, body))

    return app


def _health(service: Service) -> dict[str, Any]:
    follower, traces = service.follower, service.traces
    fault = follower.fault
    return {
        "status": "ok" if fault is None else "degraded",
        "model": follower.name,
        "version": follower.current.number,
        "since": follower.since,
        "swaps": follower.swaps,
        "last_swap_seconds": follower.last_swap_seconds,
        "fault": fault and {"version": fault.version, "reason": fault.reason, "since": fault.since},
        "candidate": service.rollout and service.rollout.health(),
        "traces": {"written": traces.written, "waiting": traces.waiting, "lost": traces.lost},
    }


def _check_key(service: Service, request: Request) -> None:
    """Refuse whoever does not have the key, where there is one."""
    wanted = f"Bearer {service.api_key}"
    given = request.headers.get("authorization", "")
    if service.api_key and not hmac.compare_digest(given.encode(), wanted.encode()):
        raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")


async def _body(service: Service, request: Request) -> bytes:
    """The body of a request that may ask, no larger than is allowed."""
    _check_key(service, request)
    # Other types a web page may send from any browser without asking.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the content type has to be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(service.limits.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > service.limits.body_bytes:
                    raise ApiError(413, f"the request is larger than {service.limits.body_bytes} bytes")
    except TimeoutError as error:
        raise ApiError(408, f"the body took more than {service.limits.body_seconds:g} seconds") from error
    except ClientDisconnect as error:
        raise ApiError(400, "the request ended before its body did") from error
    return bytes(body)


async def _serve(service: Service, connection: Request, request: ChatRequest | CompletionRequest) -> Response:
    if not service.places.take():
        raise ApiError(429, "too many requests are under way; try again", code="rate_limit_exceeded")
    handed_over = False
    try:
        # From here on this version answers, whatever champion and candidate are meanwhile.
        champion, trace_id = service.follower.current, new_trace_id()
        if request.model not in (None, champion.name):
            raise ApiError(
                404, f"there is no model {request.model!r}; there is {champion.name!r}",
                code="model_not_found", param="model",
            )  # fmt: skip
        dealt = Dealt(champion)
        if service.rollout is not None:
            dealt = service.rollout.deal(champion, request.sticky, trace_id)
        begun = Begun(champion, dealt, service.rollout, service.turns, service.limits.tokens)
        answer = await run_in_threadpool(begun.answer, Asked.of(request), trace_id)
        if request.stream:
            counted = request.stream_options is not None and request.stream_options.include_usage
            answer, pieces = await run_in_threadpool(begun.streamed, answer)
            handed_over = True
            return _Stream(
                _events(answer, pieces, counted=counted, failed=begun.failed),
                _headers(answer),
                lambda: _ended(service, dealt, answer),
            )
        watching = asyncio.create_task(_cancel_with(connection, answer))
        try:
            answer = await run_in_threadpool(begun.whole, answer)
        finally:
            watching.cancel()
        _trace(service, answer)
        counts = usage(answer.prompt_tokens, answer.completion_tokens)
        for_all = response(answer.asked.chat, _head(answer), answer.text, answer.finish, counts)
        then = None
        if service.rollout is not None and dealt.trial is not None:
            then = BackgroundTask(service.rollout.answered, dealt, answer)
        return JSONResponse(for_all, headers=_headers(answer), background=then)
    except ApiError:
        raise
    except Exception as error:
        _log.exception("a request failed")
        raise ApiError(500, f"the model failed to answer ({type(error).__name__})") from error
    finally:
        if not handed_over:
            service.places.give_back()


def _headers(answer: Answer) -> dict[str, str]:
    return {"x-mendflow-version": answer.version.number, "x-mendflow-trace": answer.trace_id}


async def _cancel_with(connection: Request, answer: Answer) -> None:
    """Cancel an answer once its client has left, which is all that is heard after a request's body."""
    while (await connection.receive())["type"] != "http.disconnect":
        pass
    answer.cancel()


def _events(
    answer: Answer, pieces: Iterator[str], *, counted: bool, failed: Callable[[Exception], None]
) -> Iterator[str]:
    chat, head = answer.asked.chat, _head(answer)
    if chat:
        yield event(chunk(chat, head, "", first=True))
    try:
        for piece in pieces:
            yield event(chunk(chat, head, piece))
    except Exception as error:
        _log.exception("a streamed request failed")
        failed(error)
        yield event(ApiError(500, f"the model failed to answer ({type(error).__name__})").body())
        return
    yield event(chunk(chat, head, None, finish=answer.finish))
    if counted:
        totals = usage(answer.prompt_tokens, answer.completion_tokens)
        yield event({**chunk(chat, head, None), "choices": [], "usage": totals})
    yield event("[DONE]")


def _ended(service: Service, dealt: Dealt, answer: Answer) -> None:
    """A stream has been read to its end, or not: then nobody asks for its next piece."""
    service.places.give_back()
    _trace(service, answer)
    if service.rollout is not None:
        service.rollout.answered(dealt, answer)


def _trace(service: Service, answer: Answer) -> None:
    """Leave the trace of an answer, unless nothing came of it before its client left."""
    if answer.finish or answer.text:
        service.traces.add(answer.version, answer.traced())


def _head(answer: Answer) -> dict[str, Any]:
    kind = "chatcmpl" if answer.asked.chat else "cmpl"
    return {
        "id": f"{kind}-{answer.trace_id.removeprefix('tr-')}",
        "created": int(time.time()),
        "model": answer.version.name,
        "system_fingerprint": answer.version.fingerprint,
    }


class _Stream(StreamingResponse):
    """Server-sent events, and what is to be done when they are over, however they end."""

    def __init__(self, events: Iterator[str], headers: dict[str, str], ended: Callable[[], None]) -> None:
        super().__init__(
            events, media_type="text/event-stream", headers={**headers, "cache-control": "no-cache"}
        )
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()
