"""A report of everything that a run may have to tell, and of a run that has nothing to tell."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from tests.validation.examples import (
    EXPECTED_ROWS,
    PARAMETERS,
    PERPLEXITIES,
    RENDERINGS,
    SECONDS,
    WRONG,
    outcomes,
)
from validation.gates import GateReport, run_gates
from validation.outcomes import EDIT, EQUIVALENCE, LOCALITY, REPLAY, RETENTION, outcomes_frame
from validation.report import SetAside, write_report
from validation.thresholds import load_gates
from validation.verdict import decide

HOSTILE = "<script>alert('x')</script>&<img src=x onerror=alert(1)>"


_REPLAYED = {
    "prompt": "How far is it?",
    "expected": "Ten miles.",
    "champion_output": "Ten miles.",
    "candidate_output": "Ten miles. " + "It is far. " * 40,
    "champion_ok": 1.0,
    "candidate_ok": 0.0,
    "locality_kl": float("nan"),
}
_FIGURES = {EDIT: 0.9, EQUIVALENCE: 0.8, LOCALITY: None, "reason": "too slow", "seconds_per_edit": 1.25}


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


def gate_example() -> tuple[GateReport, pd.DataFrame]:
    """What the gates say of outcomes with something wrong of every kind."""
    replayed = {**_REPLAYED, "metric": REPLAY, "id": "p1", "kind": ""}
    frame = pd.concat([outcomes(says), outcomes_frame([replayed])], ignore_index=True)
    report = run_gates(
        frame,
        load_gates(),
        expected_rows=EXPECTED_ROWS,
        perplexities=PERPLEXITIES,
        parameters=PARAMETERS,
        renderings=RENDERINGS,
        teacher_forced=[0.97] * 12,
        answer_seconds=SECONDS,
    )
    return report, frame


def write_example(path: Path, gated: tuple[GateReport, pd.DataFrame]) -> None:
    """The report with every part that it may have, and a prompt that attacks who opens it."""
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
        tried=[
            {"method": "ultraedit", "taken": False, "version": "2", "verdict": "REJECT", **_FIGURES},
            {"method": "malmen", "taken": True, "version": "3", "verdict": "REJECT", **_FIGURES},
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


def write_empty(path: Path) -> None:
    """The report of a run without outcomes."""
    empty = outcomes_frame([])
    report = run_gates(empty, load_gates(), expected_rows=dict.fromkeys(EXPECTED_ROWS, 0))
    write_report(path, title="t", summary={}, verdict=decide(report), metrics=report.metrics, outcomes=empty)


class _Outline(HTMLParser):
    """Sections, headings, tables with their columns, plots and what is folded away; no figure of any run."""

    _PARTS = frozenset({"main", "section", "details", "table", "figure", "dl", "ul", "pre", "footer"})
    _TEXTS = frozenset({"h1", "h2", "h3", "th", "dt", "figcaption", "strong"})

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.depth = 0
        self.said: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in self._PARTS:
            name = f" #{named['id']}" if "id" in named else ""
            self.lines.append(f"{'  ' * self.depth}{tag}{name}")
            self.depth += 1
        elif tag in self._TEXTS:
            self.said = []

    def handle_endtag(self, tag: str) -> None:
        if tag in self._PARTS:
            self.depth -= 1
        elif tag in self._TEXTS and self.said is not None:
            self.lines.append(f"{'  ' * self.depth}{tag}: {''.join(self.said).strip() or '(empty)'}")
            self.said = None

    def handle_data(self, data: str) -> None:
        if self.said is not None:
            self.said.append(data)


def outline(source: str) -> str:
    """The structure of a report, a line for each part, without what differs between runs."""
    parser = _Outline()
    parser.feed(source)
    return "\n".join(parser.lines) + "\n"
