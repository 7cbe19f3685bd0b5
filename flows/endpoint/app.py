"""The application: reports and edits in, corrections out; refusals are a status and a sentence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from flows.endpoint.bodies import EditBody, Health, Refused, ReportBody, Taken
from flows.endpoint.guard import (
    KEY_HEADER,
    KEY_PATTERN,
    Rates,
    Refusal,
    RefusalLog,
    authenticated,
    body_is_left,
    idempotency_key,
    json_bytes,
    parsed,
)
from flows.endpoint.intake import Intake
from flows.endpoint.teller import Teller
from tasks.ledger import Ledger, SourceTaken
from tasks.records import ErrorReport, UserError
from tasks.reporters import Reporter, ReportersFile

SOURCE_PREFIX = "http:"
REFUSALS = {
    401: "No key, or one that nobody has.",
    403: "The key is not for this model.",
    408: "The body does not arrive.",
    409: "The idempotency key has made another report about the model.",
    413: "The body is too long.",
    415: "The body is not declared as JSON.",
    422: "The body is not a report, or there is no idempotency key.",
    429: "Too many requests with this key.",
    503: "The ledger or the keys cannot be used.",
}
_BEARER = HTTPBearer(auto_error=False, description="A key that `mendflow add-reporter` made.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


@dataclass
class Desk:
    """Where reports are handed in: who may, how often, and who writes them down."""

    reporters: ReportersFile
    rates: Rates
    intake: Intake

    def admit(self, key: str | None) -> Reporter:
        """Who sends a request, which counts against what this reporter may send."""
        reporter = authenticated(key, self.reporters)
        wait = self.rates.take(reporter.name)
        if wait > 0:
            raise Refusal(
                429, f"reporter {reporter.name!r} sends too much; wait as Retry-After says", again_after=wait
            )
        return reporter

    async def take(self, report: ErrorReport) -> tuple[Taken, bool]:
        """Hand a report in; what became of it, and whether it was new."""
        try:
            one, new = await asyncio.wrap_future(self.intake.take(report))
        except SourceTaken as error:
            raise Refusal(
                409,
                f"this {KEY_HEADER} has made another report about model {report.model_name!r}; "
                "give every report its own",
            ) from error
        except UserError as error:
            logging.getLogger(__name__).error("%s", error)
            raise Refusal(
                503, "the ledger cannot be used now; send the report again later", again_after=5
            ) from error
        return Taken(correction=one.id, state=one.state), new


def make_app(ledger_url: str, reporters: ReportersFile, *, per_minute: int) -> FastAPI:
    """The application, which opens the ledger when it starts and closes it when it ends."""
    refusals = RefusalLog()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with Ledger(ledger_url, kept_open=True) as ledger:
            teller = Teller()
            intake = Intake(ledger, teller.tell)
            app.state.desk = Desk(reporters, Rates(per_minute), intake)
            try:
                yield
            finally:
                for part in (intake, teller):
                    await run_in_threadpool(part.close)

    # The pages that show it load scripts from elsewhere.
    app = FastAPI(
        title="mendflow",
        summary="Reports of a model's errors, for its correction.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )

    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> JSONResponse:
        route = request.scope.get("route")
        refusals.note(f"{request.method} {route.path}" if route else "a request", refusal)
        if await body_is_left(request, refusal):
            refusal.headers["Connection"] = "close"
        return JSONResponse({"detail": refusal.detail}, refusal.status, refusal.headers)

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> JSONResponse:
        detail = {404: "there is nothing here; see /openapi.json", 405: "this is not how it is asked"}
        refusal = Refusal(error.status_code, detail.get(error.status_code, error.detail))
        refusal.headers.update(error.headers or {})
        return await refuse(request, refusal)

    @app.get("/health")
    async def health() -> Health:
        """Whether the endpoint runs; it asks neither the ledger nor for a key."""
        return Health()

    @app.post("/reports", status_code=201, responses=_RESPONSES, openapi_extra=_described(ReportBody))
    async def report(request: Request, credentials: Credentials) -> Taken:
        """Report a wrong answer."""
        return await _handed_in(request, credentials, ReportBody)

    @app.post("/edits", status_code=201, responses=_RESPONSES, openapi_extra=_described(EditBody))
    async def edit(request: Request, credentials: Credentials) -> Taken:
        """Report that a user edited an answer: the edited text is the right one."""
        return await _handed_in(request, credentials, EditBody)

    return app


async def _handed_in(
    request: Request,
    credentials: HTTPAuthorizationCredentials | None,
    kind: type[ReportBody] | type[EditBody],
) -> Any:
    """A report's way from a request into the ledger; what can be refused unread is refused first."""
    desk: Desk = request.app.state.desk
    reporter = desk.admit(credentials.credentials if credentials else None)
    source = f"{SOURCE_PREFIX}{reporter.name}:{idempotency_key(request)}"
    body = parsed(await json_bytes(request), kind)
    if reporter.models and body.model not in reporter.models:
        raise Refusal(403, f"reporter {reporter.name!r} may not report about model {body.model!r}")
    taken, new = await desk.take(body.report(reporter=reporter.name, source=source))
    return JSONResponse(taken.model_dump(), 201 if new else 200)


def _described(body: type[ReportBody] | type[EditBody]) -> dict[str, Any]:
    """What FastAPI cannot see: bodies and keys are read by hand, after what refuses them."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body.model_json_schema()}},
        },
        "parameters": [
            {
                "name": KEY_HEADER,
                "in": "header",
                "required": True,
                "description": "New for every report of a model; the same when a report is sent again.",
                "schema": {"type": "string", "pattern": KEY_PATTERN},
            }
        ],
    }


_RESPONSES: dict[int | str, dict[str, Any]] = {
    201: {"model": Taken, "description": "The report is in the ledger."},
    200: {"model": Taken, "description": "It was in the ledger already."},
    **{status: {"model": Refused, "description": why} for status, why in REFUSALS.items()},
}
