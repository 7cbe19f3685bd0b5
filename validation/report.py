"""The report a person reads in one minute: one HTML file that loads nothing from anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from validation import plots
from validation.metric_definitions import DEFINITIONS
from validation.metrics import Metric, Severity, Status
from validation.outcomes import EDIT, EQUIVALENCE, LOCALITY, REPLAY, RETENTION, substance
from validation.verdict import Decision, Verdict

_TONES = {
    Verdict.PROMOTE: "good",
    Verdict.REJECT: "bad",
    Verdict.HOLD: "wait",
    Verdict.INSUFFICIENT: "wait",
}
_WORDS = {
    Status.PASSED: "pass",
    Status.FAILED: "fail",
    Status.INSUFFICIENT: "too little data",
    Status.NOT_APPLICABLE: "not asked",
    Status.DIAGNOSTIC: "no gate",
}
_SHOWN = ("prompt", "expected", "champion_output", "candidate_output")
_LINK_SCHEMES = frozenset({"", "http", "https", "file"})
_BAR_WIDTH = 170.0


@dataclass(frozen=True)
class SetAside:
    """A correction that was not applied, or not kept, and why."""

    id: str
    prompt: str
    state: str
    reason: str


def write_report(
    path: Path,
    *,
    title: str,
    summary: Mapping[str, str],
    verdict: Decision,
    metrics: Sequence[Metric],
    outcomes: pd.DataFrame,
    set_aside: Sequence[SetAside] = (),
    tried: Sequence[Mapping[str, Any]] = (),
    solves: Sequence[Mapping[str, Any]] = (),
    answerers: Mapping[str, str] | None = None,
    withheld: Callable[[str], str] | None = None,
    stages_seconds: Mapping[str, float] | None = None,
    commands: Mapping[str, str] | None = None,
    links: Mapping[str, str] | None = None,
) -> None:
    """Write the report.

    Args:
        path: of the HTML file; its folder is made.
        title: for example "demo-model, version 3".
        summary: facts in the head, label to value: model, champion, editor, how many corrections.
        verdict: from `decide`.
        metrics: from `run_gates`.
        outcomes: the outcomes frame.
        set_aside: corrections that were quarantined, held or failed.
        tried: where several methods were tried, a row for each: method, taken, version, verdict, failing,
            reason, seconds_per_edit, and its figures by metric.
        solves: where parts of the batch were tried, a row for each, the whole first: corrections (how many),
            version, verdict, reason.
        answerers: the program that gave a correction's answer, by id, where no person has vouched for it.
        withheld: puts something else in place of a text that must not be shown; by default all are shown.
        stages_seconds: stage to seconds, in order.
        commands: what it does to the exact command, in order: to promote, to undo.
        links: label to address; http(s), file and relative addresses become links, others stay text.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((files("validation") / "report.html.j2").read_text(encoding="utf-8"))
    drawn = {
        "Success by correction": plots.success_by_correction(outcomes),
        "Movement where none is wanted": plots.locality_divergence(outcomes),
        "Length of answers": plots.answer_lengths(outcomes),
    }
    if withheld is not None:
        outcomes = outcomes.assign(**{column: outcomes[column].map(withheld) for column in _SHOWN})
        set_aside = [
            replace(one, prompt=withheld(one.prompt), reason=withheld(one.reason)) for one in set_aside
        ]
    corrections = _corrections(outcomes, EDIT, answerers or {})
    earlier = _corrections(outcomes, RETENTION, answerers or {})
    stays = outcomes[outcomes["metric"] == LOCALITY]
    moved = stays[substance(stays, "candidate") != 1]
    text = template.render(
        title=title,
        summary=dict(summary),
        decision=verdict,
        tone=_TONES[verdict.verdict],
        gates=[_gate(metric) for metric in metrics if metric.severity is not None],
        diagnostics=[_gate(metric) for metric in metrics if metric.severity is None],
        corrections=corrections,
        holding=[row for row in earlier if row["ok"]],
        forgotten=[row for row in earlier if not row["ok"]],
        moved=moved.to_dict("records"),
        replayed=int((outcomes["metric"] == REPLAY).sum()),
        changed=_changed(outcomes),
        locality_rows=len(stays),
        set_aside=list(set_aside),
        tried=[_method(row) for row in tried] if len(tried) > 1 else [],
        solves=list(solves),
        plots={name: Markup(svg) for name, svg in drawn.items() if svg},
        stages=_stages(stages_seconds or {}),
        total_seconds=sum((stages_seconds or {}).values()),
        commands=dict(commands or {}),
        links=[(label, address, _safe(address)) for label, address in (links or {}).items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _gate(metric: Metric) -> dict[str, Any]:
    count = metric.name.endswith(("_parameters", "_renderings"))
    return {
        "name": metric.name,
        "protocol": metric.protocol,
        "value": _figure(metric.value, count=count),
        "interval": "" if math.isnan(metric.low) else f"{_figure(metric.low)} to {_figure(metric.high)}",
        "n": metric.n,
        "threshold": _threshold(metric),
        "champion": "–" if metric.champion is None else _figure(metric.champion, count=count),
        "status": metric.status.value,
        "word": _WORDS[metric.status],
        "warning": metric.severity is Severity.WARNING,
        "reason": metric.reason,
        "bar": _bar(metric),
    }


def _changed(outcomes: pd.DataFrame) -> list[dict[str, Any]]:
    """Replayed requests that are answered in other words."""
    replayed = outcomes[(outcomes["metric"] == REPLAY) & (outcomes["candidate_ok"] != 1)]
    return replayed.to_dict("records")


def _method(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table of methods, its figures as text."""
    figures = {name: row[name] for name in (EDIT, EQUIVALENCE, LOCALITY)}
    seconds = row["seconds_per_edit"]
    return {
        **row,
        "figures": ["–" if value is None else _figure(value) for value in figures.values()],
        "cost": "–" if seconds is None else f"{seconds:.2f} s",
    }


def _figure(value: float, *, count: bool = False) -> str:
    """Three decimals, or none for a count."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if count:
        return f"{value:.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"


def _threshold(metric: Metric) -> str:
    if metric.threshold is None:
        return "–"
    return f"{'≥' if metric.direction == 'higher' else '≤'} {metric.threshold:.4g}"


def _bar(metric: Metric) -> dict[str, Any] | None:
    """Places on a bar from 0 to `_BAR_WIDTH`; none for counts and what has no interval."""
    figures = [metric.value, metric.low, metric.high]
    if not all(math.isfinite(figure) for figure in figures):
        return None
    marks = [mark for mark in (metric.threshold, metric.champion) if mark is not None and math.isfinite(mark)]
    known = DEFINITIONS.get(metric.name)
    if known and known.estimate == "proportion":
        left, right = 0.0, 1.0
    else:
        left, right = min(figures + marks), max(figures + marks)
        margin = 0.15 * (right - left) or 0.5
        left, right = left - margin, right + margin

    def place(figure: float | None) -> float | None:
        return (
            None
            if figure is None or not math.isfinite(figure)
            else round((figure - left) / (right - left) * _BAR_WIDTH, 1)
        )

    threshold = place(metric.threshold)
    if threshold is None:
        good = None
    elif metric.direction == "higher":
        good = (threshold, round(_BAR_WIDTH - threshold, 1))
    else:
        good = (0.0, threshold)
    return {
        "width": _BAR_WIDTH,
        "low": place(metric.low),
        "high": place(metric.high),
        "value": place(metric.value),
        "threshold": threshold,
        "champion": place(metric.champion),
        "good": good,
    }


def _corrections(outcomes: pd.DataFrame, metric: str, answerers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of the before-and-after table, what did not succeed first."""
    equivalents = outcomes[outcomes["metric"] == EQUIVALENCE].groupby("id")["candidate_ok"]
    right, total = equivalents.sum(), equivalents.size()
    rows = [
        {
            "id": row.id,
            "prompt": row.prompt,
            "before": row.champion_output,
            "after": row.candidate_output,
            "wanted": row.expected,
            "answerer": answerers.get(row.id, ""),
            "ok": row.candidate_ok == 1,
            "right": int(right.get(row.id, 0)),
            "total": int(total.get(row.id, 0)),
        }
        for row in outcomes[outcomes["metric"] == metric].itertuples(index=False)
    ]
    return sorted(rows, key=lambda row: (row["ok"], row["right"] == row["total"]))


def _stages(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    longest = max(seconds.values(), default=0.0) or 1.0
    return [
        {"name": name, "seconds": f"{value:.1f}", "share": round(100 * value / longest, 1)}
        for name, value in seconds.items()
    ]


def _safe(address: str) -> bool:
    try:
        return urlsplit(address).scheme.lower() in _LINK_SCHEMES
    except ValueError:
        return False
