"""What a bench found, as Markdown tables and a plot."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editors.catalogue import EDITORS
from flows.fresh_process import MEASURED, OVER_BUDGET
from tasks.trial import HARMONIC_MEAN, LOCALITY
from validation.metric_definitions import TEACHER_FORCED
from validation.outcomes import EDIT, EQUIVALENCE

Cell = Mapping[str, Any]
_MARKERS = "osD^vP*Xh<>dp"
_TELL = (
    "Harmonic mean of three shares (in brackets): corrections answered right, held-out phrasings answered "
    "right, and locality prompts whose first five tokens are the base's; all by free greedy generation. "
    "Methods are given nothing but the corrections: no held-out phrasing, and no prompt that must stay, "
    "neither those that are judged nor such as `mendflow edit` has the model write."
)
_TELL_SEQUENCE = (
    "In sequence, every correction is applied to the model that the last one left, and all are judged at the "
    "end. mendflow itself solves all corrections again from the base, which ends in the column of the same "
    "size in one batch."
)
_TELL_COST = (
    "Seconds for one correction; the same in E, a forward and a backward pass over the tokens given to the "
    "method, measured beside it; the most memory during the edit above the loaded model's. What a method "
    "needs once for a model is under `training`: its training, or its statistics of what the layers read."
)


@dataclass(frozen=True)
class Column:
    """A number of corrections, in one batch or in sequence, and over how many draws."""

    size: int
    draws: int
    sequence: bool = False

    @property
    def title(self) -> str:
        """As a table's heading."""
        return f"{self.size} in sequence" if self.sequence else str(self.size)


@dataclass
class Row:
    """A method and its cells so far; seconds are None where nobody recorded them.

    `gathers`: whether it was given statistics of what the model's layers read.
    """

    label: str
    trained: bool = False
    training_seconds: float | None = None
    cells: dict[Column, Cell] = field(default_factory=dict)
    gathers: bool = False
    statistics_seconds: float | None = None


def describe(cell: Cell) -> str:
    """A cell in one line."""
    if cell["status"] == MEASURED:
        return f"{_success(cell)}; {_cost(cell)}"
    if cell["status"] == OVER_BUDGET:
        return _absent(cell)
    return f"{cell['status']}: {cell['reason']}"


def write_tables(
    path: Path, heading: Sequence[str], rows: Sequence[Row], columns: Sequence[Column], notes: Sequence[str]
) -> None:
    """Write the tables, at once or not at all: success, cost, the diagnostic, and why cells are empty."""
    titles = [column.title for column in columns]
    best = {column: _best(rows, column) for column in columns}

    def success(row: Row, column: Column) -> str:
        cell = row.cells.get(column)
        text = _shown(cell, _success)
        return f"**{text}**" if cell is not None and cell is best[column] else text

    heading = [*heading, *_of_unknown_machine(rows)]
    lines = ["# Editing methods side by side", "", *(f"- {line}" for line in heading), ""]
    lines += ["## Success", "", _TELL, ""]
    if any(column.sequence for column in columns):
        lines += [" ".join([_TELL_SEQUENCE, *_applied_anew(rows)]), ""]
    lines += _table(["method", *titles], [[r.label, *(success(r, c) for c in columns)] for r in rows])
    lines += ["", "Judged (corrections, held-out phrasings, locality prompts): " + _judged(rows, columns), ""]
    lines += _without_subject(rows)
    lines += ["## Cost", "", _TELL_COST, ""]
    lines += _table(
        ["method", "training", *titles],
        [[r.label, _training(r), *(_shown(r.cells.get(c), _cost) for c in columns)] for r in rows],
    )
    lines += ["", "## Diagnostic", "", "Share of target tokens ranked first under teacher forcing.", ""]
    lines += _table(
        ["method", *titles], [[r.label, *(_shown(r.cells.get(c), _forced) for c in columns)] for r in rows]
    )
    reasons = [*notes, *_reasons(rows)]
    if reasons:
        lines += ["", "## Not measured", "", *(f"- {reason}" for reason in reasons)]
    written = path.with_name(f"{path.name}.new")
    written.write_text("\n".join(lines) + "\n")
    os.replace(written, path)


def write_plot(path: Path, rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """Success and equivalence against locality, and cost against size, as one picture (SVG, PNG, ...)."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    # Text stays text, and the same figures give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        figure = Figure(figsize=(13, 4.8), layout="constrained")
        fixed, general, cost = figure.subplots(1, 3)
        colours = matplotlib.colormaps["tab20"]
        shown = []
        for number, row in enumerate(rows):
            cells = [(c, row.cells[c]) for c in columns if row.cells.get(c, {}).get("status") == MEASURED]
            if not cells:
                continue
            style: dict[str, Any] = {
                "color": colours(number % 20),
                "marker": _MARKERS[number % len(_MARKERS)],
            }
            shown.append(Line2D([], [], linestyle="", label=row.label, **style))
            for column, cell in cells:
                size = 30 + 40 * math.log10(column.size)
                face = "none" if column.sequence else style["color"]
                for axes, metric in ((fixed, EDIT), (general, EQUIVALENCE)):
                    x, y = cell[LOCALITY]["value"], cell[metric]["value"]
                    if x is not None and y is not None:
                        axes.scatter(
                            x, y, s=size, marker=style["marker"], facecolors=face,
                            edgecolors=style["color"], alpha=0.85, clip_on=False,
                        )  # fmt: skip
            batches = [(c.size, cell["cost_in_units"]) for c, cell in cells if not c.sequence]
            if batches:
                cost.plot(*zip(*batches, strict=True), linewidth=1.2, markersize=5, **style)
        for axes, title in ((fixed, "corrections answered right"), (general, "held-out phrasings right")):
            axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="locality: five tokens unchanged", ylabel=title)
        cost.set(xlabel="corrections in one batch", ylabel="cost of one correction, in E")
        if cost.lines:
            cost.set(xscale="log", yscale="log")
            for axis in (cost.xaxis, cost.yaxis):
                axis.set_major_formatter("{x:g}")
            cost.yaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else "")
        for axes in (fixed, general, cost):
            axes.grid(color="0.9", linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        sizes = ", ".join(str(column.size) for column in columns if not column.sequence)
        figure.suptitle(f"Larger marks, larger batches ({sizes}); hollow: in sequence", fontsize=10)
        if shown:
            figure.legend(
                handles=shown, loc="outside lower center", ncols=min(len(shown), 7), frameon=False, fontsize=9
            )
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows)]


def _shown(cell: Cell | None, show: Any) -> str:
    if cell is None:
        return ""
    return show(cell) if cell["status"] == MEASURED else _absent(cell)


def _absent(cell: Cell) -> str:
    return f"over {cell['minutes']:g} min" if cell["status"] == OVER_BUDGET else str(cell["status"])


def _success(cell: Cell) -> str:
    parts = " / ".join(_share(cell[metric]["value"]) for metric in (EDIT, EQUIVALENCE, LOCALITY))
    return f"{_share(cell[HARMONIC_MEAN])} ({parts})"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _cost(cell: Cell) -> str:
    seconds, memory = cell["seconds_per_edit"], cell["peak_bytes"] / 2**20
    return f"{seconds:.3g} s, {cell['cost_in_units']:.3g} E, {memory:.0f} MiB"


def _forced(cell: Cell) -> str:
    return _share(cell[TEACHER_FORCED])


def _training(row: Row) -> str:
    if row.gathers:
        seconds = row.statistics_seconds
        return "statistics, not recorded" if seconds is None else f"statistics {seconds:.3g} s"
    if not row.trained:
        return "none"
    return "not recorded" if row.training_seconds is None else f"{row.training_seconds / 60:.1f} min"


def _best(rows: Sequence[Row], column: Column) -> Cell | None:
    measured = [row.cells[column] for row in rows if column in row.cells]
    ranked = [cell for cell in measured if cell["status"] == MEASURED and cell[HARMONIC_MEAN] is not None]
    best = max(ranked, key=lambda cell: cell[HARMONIC_MEAN], default=None)
    return best if best is not None and best[HARMONIC_MEAN] else None


def _judged(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    told = []
    for column in columns:
        for row in rows:
            cell = row.cells.get(column)
            if cell is not None and cell["status"] == MEASURED:
                counts = " / ".join(str(cell[metric]["n"]) for metric in (EDIT, EQUIVALENCE, LOCALITY))
                draws = f" over {column.draws} draws" if column.draws > 1 else ""
                told.append(f"{column.title}: {counts}{draws}")
                break
    return "; ".join(told) or "nothing yet"


def _applied_anew(rows: Sequence[Row]) -> list[str]:
    """That methods which keep something between edits, as they are published, do not here."""
    kept = {row.label: EDITORS[row.label].between_edits for row in rows if row.label in EDITORS}
    told = [f"{label}, {what}" for label, what in kept.items() if what]
    about = "Every edit is applied anew, without what some methods keep between edits as published: "
    return [f"{about}{'; '.join(told)}."] if told else []


def _without_subject(rows: Sequence[Row]) -> list[str]:
    """A paragraph on the corrections that editors which write at subjects could not be given."""
    told = [
        f"{row.label} ({', '.join(counts)})"
        for row in rows
        if (
            counts := [
                f"{cell['without_subject']} at {column.title}"
                for column, cell in row.cells.items()
                if cell.get("without_subject")
            ]
        )
    ]
    about = "Left out of the edit and counted as not made, as no subject was found in the prompt: "
    return [f"{about}{'; '.join(told)}.", ""] if told else []


def _of_unknown_machine(rows: Sequence[Row]) -> list[str]:
    """A line on the cells that do not tell what they were measured on."""
    titles: dict[str, list[str]] = {}
    for row in rows:
        for column, cell in row.cells.items():
            if cell["status"] == MEASURED and "machine" not in cell:
                titles.setdefault(row.label, []).append(column.title)
    told = [f"{label} ({', '.join(which)})" for label, which in titles.items()]
    return [f"Device, threads and torch unknown of: {'; '.join(told)}"] if told else []


def _reasons(rows: Sequence[Row]) -> list[str]:
    """One line for each method and reason, with the columns it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for column, cell in row.cells.items():
            if "reason" in cell:
                said = f"{cell['status']}: {' '.join(cell['reason'].split())}"
                found.setdefault((row.label, said), []).append(column.title)
    return [f"{label}, {'; '.join(titles)}: {said}" for (label, said), titles in found.items()]
