"""A headless Chromium for tests, and everything that it complains of or asks the network for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

VARIABLE = "MENDFLOW_TEST_BROWSER"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class NoBrowserError(Exception):
    """No browser can be had; the message says why, and how one is."""


@dataclass
class Opened:
    """A page, and what became known while it was open."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start one.

    Raises:
        NoBrowserError: there is none on this machine, or what drives it is not installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NoBrowserError("playwright is not installed: pip install 'mendflow[dev]'") from error
    found = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise NoBrowserError(f"there is no Chromium: apt install chromium, or name one in {VARIABLE}")
    with sync_playwright() as playwright:
        # Containers run as root, where Chromium's own sandbox refuses to.
        driven = playwright.chromium.launch(executable_path=found, chromium_sandbox=False)
        try:
            yield driven
        finally:
            driven.close()


@contextmanager
def opened(driven: Browser, url: str, *, width: int, height: int, dark: bool = False) -> Iterator[Opened]:
    """A page in a window of this size, without network."""
    context = driven.new_context(
        viewport={"width": width, "height": height},
        offline=True,
        color_scheme="dark" if dark else "light",
    )
    with context:
        seen = Opened(context.new_page())
        seen.page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: seen.complaints.append(f"error: {error}"))
        seen.page.on("dialog", lambda dialog: seen.complaints.append(f"dialog: {dialog.message}"))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(url)
        yield seen
