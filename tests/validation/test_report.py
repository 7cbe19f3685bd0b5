from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.validation.examples import EXPECTED_ROWS, WRONG, gate, outcomes
from validation.gates import GateReport, run_gates
from validation.outcomes import EDIT, EQUIVALENCE, LOCALITY, RETENTION, outcomes_frame
from validation.report import SetAside, write_report
from validation.suppression import WITHHELD, withholding
from validation.thresholds import load_gates
from validation.verdict import decide

HOSTILE = "<script>alert('x')</script>&<img src=x onerror=alert(1)>"


def says(metric: str, row_id: str, answer: str) -> str:
    if (metric, row_id) in ((EDIT, "c5"), (EQUIVALENCE, "c7")):
        return WRONG
    if (metric, row_id) == (RETENTION, "r2"):
        return "It slipped my mind."
    if (metric, row_id) == (LOCALITY, "l3"):
        return HOSTILE
    return answer


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, the text of cells by row, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def gated() -> tuple[GateReport, pd.DataFrame]:
    frame = outcomes(says)
    report = gate(frame, teacher_forced=[0.97] * 12)
    return report, frame


@pytest.fixture(scope="module")
def source(gated: tuple[GateReport, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    report, frame = gated
    write_report(
        path,
        title="demo-model, version 3",
        summary={"Champion": "version 2", "Editor": "malmen"},
        verdict=decide(report, digests={"base": "ba5e" * 16}),
        metrics=report.metrics,
        outcomes=frame,
        set_aside=[
            SetAside("x1", HOSTILE, "quarantined", "the target is empty"),
            SetAside("x2", "", "failed", "no"),
        ],
        solves=[
            {"corrections": 12, "version": "3", "verdict": "REJECT", "reason": HOSTILE},
            {"corrections": 11, "version": "", "verdict": "none", "reason": "it is not finite"},
        ],
        stages_seconds={"collect": 3.25, "validate": 61.5},
        commands={
            "Promote it": "mendflow promote demo --version 3 && echo 'done'",
            "Undo": "mendflow rollback demo",
        },
        links={
            "Run": "http://localhost:5000/#/runs/1",
            "Docs": "docs/index.html",
            "Trap": "javascript:alert(1)",
        },
    )
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_the_verdict_comes_first(page: Page) -> None:
    assert page.text.index("REJECT") < page.text.index("Gates")
    assert "retention_greedy is 0.9, and has to be at least 1" in page.text


def test_every_gate_has_its_figures(page: Page) -> None:
    rows = {row[0]: row for row in page.rows if row}
    for name in load_gates().gates:
        assert [title for title in rows if title.startswith(name)], name
    edit = next(row for title, row in rows.items() if title.startswith(EDIT) and len(row) > 3)
    assert "0.917" in edit[2]
    assert "to" in edit[2]
    assert edit[3] == "≥ 0.9"
    assert edit[4:6] == ["0.000", "12"]
    assert "pass" in edit[6]
    assert sum("bar" in attributes.get("class", "") for tag, attributes in page.tags if tag == "svg") >= 10


def test_every_correction_is_there_before_and_after(page: Page) -> None:
    rows = [row for row in page.rows if len(row) == 6]
    for number in range(12):
        mark, _, before, after, wanted, phrasings = next(
            row for row in rows if row[1] == f"Who wrote book {number}?"
        )
        assert before == WRONG
        assert wanted == f"Author {number}"
        if number == 5:
            assert (mark, after) == ("✗", WRONG)
        else:
            assert (mark, after) == ("✓", f"It was written by Author {number}.")
        assert phrasings == ("0 / 2" if number == 7 else "2 / 2")
    listed = [row[1] for row in rows if row[1].startswith("Who wrote")]
    assert listed[:2] == ["Who wrote book 5?", "Who wrote book 7?"], "what needs a look stands first"
    assert [row[0] for row in page.rows if row[1:2] == ["Old question 2?"]] == ["✗"]
    assert "9 of 10 earlier corrections still hold" in page.text


def test_what_was_set_aside_moved_and_took_long(page: Page) -> None:
    assert [HOSTILE, "quarantined", "the target is empty"] in page.rows
    assert ["1", "12", "3", "REJECT", HOSTILE] in page.rows
    assert ["2", "11", "", "none", "it is not finite"] in page.rows
    assert "1 of 40 prompts that must not move" in page.text
    assert ["Where is thing 3?", "It stands at place 3.", HOSTILE, "near"] in page.rows
    assert "61.5 s" in page.text
    assert "mendflow promote demo --version 3 && echo 'done'" in page.text
    assert "mendflow rollback demo" in page.text
    assert "ba5e" * 16 in page.text


def test_there_are_three_plots_with_ids_of_their_own(page: Page) -> None:
    assert [tag for tag, _ in page.tags].count("figure") == 3
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded_and_nothing_runs(page: Page, source: str) -> None:
    assert not {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    }
    for tag, attributes in page.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")
        ]
        for name in ("href", "xlink:href"):
            if name in attributes and tag != "a":
                assert attributes[name].startswith("#")
    assert not re.search(r"url\((?!#)|@import", source)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["http://localhost:5000/#/runs/1", "docs/index.html"]
    assert "javascript:alert(1)" in page.text, "shown, and not to be clicked"


def test_it_is_light_and_dark(source: str) -> None:
    assert "prefers-color-scheme: dark" in source
    # The plots follow too: no colour of their own is left in them.
    figures = "".join(re.findall(r"<figure>.*?</figure>", source, flags=re.DOTALL))
    assert "var(--accent)" in figures
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]\b", figures)


def written(path: Path, report: GateReport, frame: pd.DataFrame, **more: Any) -> str:
    write_report(
        path, title="t", summary={}, verdict=decide(report), metrics=report.metrics, outcomes=frame, **more
    )
    return path.read_text(encoding="utf-8")


def test_the_same_report_twice(gated: tuple[GateReport, pd.DataFrame], tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, *gated) for name in ("a.html", "b.html"))
    assert first == second


def test_what_must_not_be_shown_is_withheld_and_who_answered_is_named(
    gated: tuple[GateReport, pd.DataFrame], tmp_path: Path
) -> None:
    text = written(
        tmp_path / "r.html",
        *gated,
        set_aside=[SetAside("x1", "Is it Someone Else?", "failed", "it said Someone Else")],
        answerers={"c3": "table right.jsonl"},
        withheld=withholding([(("Someone Else",), "")]),
    )
    assert "Someone Else" not in text
    assert text.count(WITHHELD) > 12
    rows = [row for row in Page(text).rows if any("answered by table right.jsonl" in cell for cell in row)]
    assert len(rows) == 1
    assert "Author 3" in rows[0][4]


def test_a_run_without_outcomes_has_a_report_too(tmp_path: Path) -> None:
    empty = outcomes_frame([])
    report = run_gates(empty, load_gates(), expected_rows=dict.fromkeys(EXPECTED_ROWS, 0))
    text = written(tmp_path / "r.html", report, empty)
    assert "INSUFFICIENT" in text
    assert "<figure>" not in text
