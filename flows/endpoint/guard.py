"""What a request has to pass before anything of it is read: its key, its rate, its form and its size."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from tasks.records import UserError
from tasks.reporters import Reporter, ReportersFile, reporter_of

BODY_BYTES = 128 * 1024
BODY_SECONDS = 10.0
_DROP_BYTES = 8 * BODY_BYTES
_DROP_SECONDS = 1.0
KEY_HEADER = "Idempotency-Key"
KEY_PATTERN = "^[A-Za-z0-9._~-]{1,128}$"
_SHOWN_FIELD = 60
Body = TypeVar("Body", bound=BaseModel)
_JSON = re.compile(r"application/json\s*(;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE)


class Refusal(Exception):  # noqa: N818
    """A request that is refused: the HTTP status, a sentence, and when to try again (seconds)."""

    def __init__(self, status: int, detail: str, *, again_after: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers: dict[str, str] = {}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        if again_after is not None:
            self.headers["Retry-After"] = str(math.ceil(again_after))


class Rates:
    """A bucket of tokens for every name: a minute's worth at first, refilled all the time.

    Buckets are this process's: where several listen, each allows as much.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._full = float(per_minute)
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> float:
        """Seconds to wait for a token; 0 if one was there, which is taken."""
        now = self._clock()
        tokens, at = self._buckets.get(name, (self._full, now))
        tokens = min(self._full, tokens + (now - at) * self._full / 60)
        if tokens < 1:
            return (1 - tokens) * 60 / self._full
        self._buckets[name] = (tokens - 1, now)
        return 0.0


class RefusalLog:
    """Refusals are counted; the first, tenth, hundredth of a kind is a line: a flood fills no disk."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, int]] = Counter()

    def note(self, route: str, refusal: Refusal) -> None:
        """Count a refusal; what it shows of the request is in its sentence."""
        self._counts[route, refusal.status] += 1
        count = self._counts[route, refusal.status]
        if 10 ** round(math.log10(count)) == count:
            logging.getLogger(__name__).warning(
                "refused %s with %d, %d so far: %s", route, refusal.status, count, refusal.detail
            )


def authenticated(key: str | None, reporters: ReportersFile) -> Reporter:
    """Who sends a request.

    Raises:
        Refusal: nobody's key; or the keys cannot be read.
    """
    try:
        present = reporters.now()
    except UserError as error:
        logging.getLogger(__name__).error("%s", error)
        raise Refusal(503, "the keys cannot be read now; try again later", again_after=60) from error
    found = reporter_of(key or "", present)
    if found is None:
        raise Refusal(401, "the key is missing or not known; send one as `Authorization: Bearer KEY`")
    return found


def idempotency_key(request: Request) -> str:
    """The key under which a report counts once.

    Raises:
        Refusal: there is none, several, or one with other characters.
    """
    given = request.headers.getlist(KEY_HEADER)
    if len(given) != 1 or not re.fullmatch(KEY_PATTERN, given[0]):
        raise Refusal(
            422,
            f"send one header {KEY_HEADER} of 1 to 128 letters, digits and . _ ~ -, new for every report and "
            "the same when a report is sent again",
        )
    return given[0]


async def json_bytes(request: Request) -> bytes:
    """The body, which says that it is JSON and is no longer than it may be.

    Raises:
        Refusal: another type, too long, too slow, or cut off.
    """
    headers = request.headers
    if not _JSON.fullmatch(headers.get("content-type", "")) or "content-encoding" in headers:
        raise Refusal(415, "send the body as `Content-Type: application/json`, in UTF-8 and not compressed")
    too_long = Refusal(413, f"the body is longer than {BODY_BYTES} bytes; send one report a request")
    if _declared(request) > BODY_BYTES:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES:
                    raise too_long
    except TimeoutError as error:
        raise Refusal(408, f"the body took more than {BODY_SECONDS:.0f} seconds; send it at once") from error
    except ClientDisconnect as error:
        raise Refusal(408, "the body was cut off; send it again") from error
    return bytes(body)


async def body_is_left(request: Request, refusal: Refusal) -> bool:
    """Whether a refused request may send for long still, which the server would read to drop it.

    A little is read here: a connection that is closed on what is being sent loses the refusal.
    """
    if "transfer-encoding" not in request.headers and _declared(request) <= BODY_BYTES:
        return refusal.status == 408
    dropped = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_DROP_SECONDS):
            async for chunk in request.stream():
                dropped += len(chunk)
                if dropped > _DROP_BYTES:
                    break
    return True


def _declared(request: Request) -> float:
    """The length that a body is said to have; 0 if nothing is said."""
    length = request.headers.get("content-length", "0")
    return int(length) if re.fullmatch("[0-9]{1,12}", length) else math.inf


def parsed(body: bytes, kind: type[Body]) -> Body:
    """The body as what it should be.

    Raises:
        Refusal: it is not; the sentence names the field and shows nothing of its content.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        shown = where if len(where) <= _SHOWN_FIELD else f"{where[:_SHOWN_FIELD]}..."
        # A field's name is the sender's word too: shown as a literal, it breaks no line of a log.
        said = f"{shown!r}: {first['msg']}" if where else first["msg"]
        raise Refusal(422, f"the body cannot be taken ({said}); see /openapi.json") from error
