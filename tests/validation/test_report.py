"""What the report says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd
import pytest

from tests.validation.examples import WRONG
from tests.validation.report_example import HOSTILE, Page, gate_example, outline, write_empty, write_example
from validation.gates import GateReport
from validation.outcomes import EDIT
from validation.report import SetAside, write_report
from validation.suppression import WITHHELD, withholding
from validation.thresholds import load_gates
from validation.verdict import decide

GOLDEN = Path(__file__).parent / "golden"


def built_as(name: str, source: str) -> None:
    """Hold a report's structure against a golden file, or write that anew where `GOLDEN=write` says so."""
    found, kept = outline(source), GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        kept.write_text(found, encoding="utf-8")
    assert found == kept.read_text(encoding="utf-8"), f"if it is meant so, GOLDEN=write writes {kept} anew"


@pytest.fixture(scope="module")
def gated() -> tuple[GateReport, pd.DataFrame]:
    return gate_example()


@pytest.fixture(scope="module")
def source(gated: tuple[GateReport, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    write_example(path, gated)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_it_has_the_structure_that_it_had(source: str) -> None:
    built_as("report.txt", source)


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


def test_the_same_report_twice(gated: tuple[GateReport, pd.DataFrame], tmp_path: Path) -> None:
    report, frame = gated
    for name in ("a.html", "b.html"):
        write_report(
            tmp_path / name,
            title="t",
            summary={},
            verdict=decide(report),
            metrics=report.metrics,
            outcomes=frame,
        )
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_what_must_not_be_shown_is_withheld_and_who_answered_is_named(
    gated: tuple[GateReport, pd.DataFrame], tmp_path: Path
) -> None:
    report, frame = gated
    write_report(
        tmp_path / "r.html",
        title="t",
        summary={},
        verdict=decide(report),
        metrics=report.metrics,
        outcomes=frame,
        set_aside=[SetAside("x1", "Is it Someone Else?", "failed", "it said Someone Else")],
        answerers={"c3": "table right.jsonl"},
        withheld=withholding([(("Someone Else",), "")]),
    )
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Someone Else" not in text
    assert text.count(WITHHELD) > 12
    rows = [row for row in Page(text).rows if any("answered by table right.jsonl" in cell for cell in row)]
    assert len(rows) == 1
    assert "Author 3" in rows[0][4]


def test_a_run_without_outcomes_has_a_report_too(tmp_path: Path) -> None:
    write_empty(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "INSUFFICIENT" in text
    built_as("empty_report.txt", text)
    assert "<figure>" not in text
