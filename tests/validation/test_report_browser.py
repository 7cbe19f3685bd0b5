"""The report as a browser shows it: its table and plots are there, nothing fails and nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.browser import NoBrowserError, browser, opened
from tests.validation.report_example import gate_example, write_example
from validation.outcomes import EDIT
from validation.thresholds import load_gates

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
DESKTOP, PHONE = (1280, 900), (360, 740)


@pytest.fixture(scope="module")
def driven() -> Iterator[Browser]:
    with ExitStack() as stack:
        try:
            started = stack.enter_context(browser())
        except NoBrowserError as error:
            pytest.skip(str(error))
        yield started


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_example(path, gate_example())
    return path.as_uri()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_shows_its_table_and_plots_without_an_error(
    driven: Browser, url: str, size: tuple[int, int], dark: bool
) -> None:
    width, height = size
    with opened(driven, url, width=width, height=height, dark=dark) as seen:
        page = seen.page
        assert page.locator("#verdict strong").is_visible()
        verdict = page.locator("#verdict").bounding_box()
        assert verdict is not None
        assert verdict["y"] + verdict["height"] < height, "the verdict is seen without scrolling"

        names = page.locator("#gates table.gates").first.locator("tbody tr .name")
        assert set(load_gates().gates) <= set(names.all_inner_texts())
        for name in names.all():
            box = name.bounding_box()
            assert box is not None
            assert box["width"] > 20
        row = page.locator("#gates tr", has_text=EDIT).first
        assert "0.917" in row.inner_text()
        assert row.locator("svg.bar circle.value").is_visible()
        word = row.locator(".chip").bounding_box()
        assert word is not None
        assert word["x"] + word["width"] <= width, "whether a gate passed is seen without scrolling sideways"

        plots = page.locator("#plots figure svg")
        assert plots.count() == 3
        for plot in plots.all():
            plot.scroll_into_view_if_needed()
            box = plot.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width, "a plot stands out of the page"
            assert box["width"] > 200
            assert box["height"] > 80
            assert plot.locator("path").count() > 5

        # Wide tables scroll within themselves.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background, ink = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
        assert (background, ink) == (
            ("rgb(20, 23, 26)", "rgb(228, 231, 234)") if dark else ("rgb(255, 255, 255)", "rgb(27, 32, 38)")
        )
        assert seen.complaints == []
        assert seen.requests == [url]


def test_what_is_folded_opens_and_what_was_written_to_harm_does_nothing(driven: Browser, url: str) -> None:
    width, height = DESKTOP
    with opened(driven, url, width=width, height=height) as seen:
        folded = seen.page.locator("#moved details").first
        cell = folded.locator("td", has_text="<script>alert('x')</script>").first
        assert not cell.is_visible()
        folded.locator("summary").first.click()
        assert cell.is_visible()
        long = seen.page.locator("#replay")
        long.locator("details.more > summary").click()
        end = "It is far. It is far."
        inner = long.locator("td details")
        inner.locator("summary").click()
        assert inner.inner_text().count(end) > 10
        assert seen.complaints == []
        assert seen.requests == [url]
