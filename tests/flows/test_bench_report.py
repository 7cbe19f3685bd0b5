"""The tables and the plot of a bench: what was measured, what was not and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.bench_report import Column, Row, write_plot, write_tables
from flows.fresh_process import MEASURED, OVER_BUDGET
from tasks.trial import HARMONIC_MEAN, LOCALITY
from validation.metric_definitions import TEACHER_FORCED
from validation.outcomes import EDIT, EQUIVALENCE


def example() -> tuple[list[Row], list[Column]]:
    def cell(mean: float, peak: int, **changes: Any) -> dict[str, Any]:
        shares = {name: {"value": mean, "n": n} for name, n in ((EDIT, 3), (EQUIVALENCE, 6), (LOCALITY, 9))}
        return {
            "status": MEASURED, **shares, HARMONIC_MEAN: mean, TEACHER_FORCED: 0.9,
            "seconds_per_edit": 0.01234, "cost_in_units": 1.25, "peak_bytes": peak * 2**20,
            "machine": {"name": "abacus"}, **changes,
        }  # fmt: skip

    one, many, row = Column(1, 3), Column(100, 1), Column(100, 1, sequence=True)
    no_phrasings = {EQUIVALENCE: {"value": None, "n": 0}, HARMONIC_MEAN: None}
    rows = [
        Row("slow", cells={one: cell(0.5, 10), many: {"status": OVER_BUDGET, "minutes": 2.0}}),
        Row(
            "learnt", True, 90.0, {one: cell(0.75, 20), many: cell(0.25, 30, **no_phrasings), row: cell(0, 1)}
        ),
        Row("picky", True, None, {one: {"status": "cannot", "reason": "no subject"}}),
        Row("reading", cells={one: cell(0.25, 5)}, gathers=True, statistics_seconds=12.34),
        Row("read", cells={one: cell(0.25, 5), many: cell(0.125, 5)}, gathers=True),
    ]
    for unknown in rows[-1].cells.values():
        unknown.pop("machine")  # type: ignore[attr-defined]
    return rows, [one, many, row]


def test_the_tables_say_what_was_measured_and_why_not(tmp_path: Path):
    rows, columns = example()
    write_tables(tmp_path / "t.md", ["Model m", "file f"], rows, columns, ["1000: left out"])
    lines = [
        line for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith(("|", "#", "-"))
    ]
    assert lines == GOLDEN.strip().splitlines()
    write_plot(tmp_path / "p.svg", rows, columns)
    write_plot(tmp_path / "p.png", rows, columns)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    write_plot(tmp_path / "again.svg", rows, columns)
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "p.svg").read_bytes()


GOLDEN = """
# Editing methods side by side
- Model m
- file f
- Device, threads and torch unknown of: read (1, 100)
## Success
| method | 1 | 100 | 100 in sequence |
| --- | --- | --- | --- |
| slow | 0.50 (0.50 / 0.50 / 0.50) | over 2 min |  |
| learnt | **0.75 (0.75 / 0.75 / 0.75)** | – (0.25 / – / 0.25) | 0.00 (0.00 / 0.00 / 0.00) |
| picky | cannot |  |  |
| reading | 0.25 (0.25 / 0.25 / 0.25) |  |  |
| read | 0.25 (0.25 / 0.25 / 0.25) | **0.12 (0.12 / 0.12 / 0.12)** |  |
## Cost
| method | training | 1 | 100 | 100 in sequence |
| --- | --- | --- | --- | --- |
| slow | none | 0.0123 s, 1.25 E, 10 MiB | over 2 min |  |
| learnt | 1.5 min | 0.0123 s, 1.25 E, 20 MiB | 0.0123 s, 1.25 E, 30 MiB | 0.0123 s, 1.25 E, 1 MiB |
| picky | not recorded | cannot |  |  |
| reading | statistics 12.3 s | 0.0123 s, 1.25 E, 5 MiB |  |  |
| read | statistics, not recorded | 0.0123 s, 1.25 E, 5 MiB | 0.0123 s, 1.25 E, 5 MiB |  |
## Diagnostic
| method | 1 | 100 | 100 in sequence |
| --- | --- | --- | --- |
| slow | 0.90 | over 2 min |  |
| learnt | 0.90 | 0.90 | 0.90 |
| picky | cannot |  |  |
| reading | 0.90 |  |  |
| read | 0.90 | 0.90 |  |
## Not measured
- 1000: left out
- picky, 1: cannot: no subject
"""


def test_methods_that_keep_something_between_edits_as_published_are_told_of(tmp_path: Path):
    def text(labels: list[str], **column: Any) -> str:
        rows = [Row(label) for label in labels]
        write_tables(tmp_path / "t.md", [], rows, [Column(3, 1, **column)], [])
        return (tmp_path / "t.md").read_text()

    anew = "Every edit is applied anew, without what some methods keep between edits as published: "
    both = text(["alphaedit", "finetune", "ultraedit"], sequence=True)
    assert f"{anew}alphaedit, the keys of earlier edits (K_p); ultraedit, the statistics of all" in both
    assert anew not in text(["alphaedit"])
    assert anew not in text(["finetune", "malmen (mine)"], sequence=True)


def test_corrections_without_a_subject_are_told_of(tmp_path: Path):
    figures = {metric: {"value": 0.5, "n": 2} for metric in (EDIT, EQUIVALENCE, LOCALITY)}
    cell = {"status": MEASURED, HARMONIC_MEAN: 0.6, TEACHER_FORCED: 0.5, "machine": {}, **figures}
    cell |= {"seconds_per_edit": 1.0, "cost_in_units": 1.0, "peak_bytes": 0}
    one, two = Column(2, 1), Column(3, 1)
    rows = [
        Row("rome", cells={one: {**cell, "without_subject": 1}, two: {**cell, "without_subject": 2}}),
        Row("lora", cells={one: cell, two: {**cell, "without_subject": 0}}),
    ]
    write_tables(tmp_path / "t.md", [], rows, [one, two], [])
    text = (tmp_path / "t.md").read_text()
    assert "counted as not made, as no subject was found in the prompt: rome (1 at 2, 2 at 3)." in text
