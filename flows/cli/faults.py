"""Faults of the machine's, told in a sentence whichever library comes upon them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.records import UserError
from tasks.urls import without_password


@contextmanager
def in_words() -> Iterator[None]:
    """Have a full disk and a Prefect server that is away told in words.

    Raises:
        UserError: something inside the block failed because of one of them.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        for one in _causes(error):
            told = _full_disk(one) or _prefect_away(one)
            if told:
                raise UserError(told) from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _full_disk(error: BaseException) -> str:
    # What is written below Python has no number.
    number = error.errno if isinstance(error, OSError) else None
    if number not in (errno.ENOSPC, errno.EDQUOT) and os.strerror(errno.ENOSPC) not in str(error):
        return ""
    file = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return f"the disk{f' of {file}' if file else ''} is full; free some space and give the command again"


def _prefect_away(error: BaseException) -> str:
    import httpx
    from prefect.settings import PREFECT_API_URL

    url = str(PREFECT_API_URL.value() or "")
    if isinstance(error, httpx.HTTPStatusError):
        failed = error.response.is_server_error
    else:
        failed = isinstance(error, httpx.TransportError)
    try:
        asked = str(error.request.url) if failed and isinstance(error, httpx.HTTPError) else ""
    except RuntimeError:  # It is of no request.
        return ""
    if not url or not asked.startswith(url):
        return ""
    cause = " ".join(str(error).split())
    return (
        f"the Prefect server at {without_password(url)} cannot be used ({cause}); see that it runs and has "
        "room, and give the command again"
    )
