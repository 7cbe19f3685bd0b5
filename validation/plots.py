"""The report's plots: inline SVG in the page's own colours, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from validation.outcomes import DRAWDOWN, EDIT, EQUIVALENCE, LOCALITY, RETENTION

# Matplotlib wants colours; each of these stands for one of the page's, which knows light from dark.
_INK, _MUTED, _AFTER, _BEFORE, _GRID = "#010101", "#020202", "#030303", "#040404", "#050505"
_STYLE = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _AFTER: "var(--accent)",
    _BEFORE: "var(--before)",
    _GRID: "var(--line)",
}
_SMALLEST_KL = 1e-6


def success_by_correction(outcomes: pd.DataFrame) -> str | None:
    """Corrections by the share of their phrasings answered right, before and after."""
    rows = outcomes[outcomes["metric"].isin([EDIT, EQUIVALENCE])]
    if rows.empty:
        return None
    shares = rows.groupby("id")[["champion_ok", "candidate_ok"]].mean()
    bins = np.linspace(0, 1, 11)

    def draw(axes: Any) -> None:
        _before_and_after(axes, shares["champion_ok"], shares["candidate_ok"], bins)
        axes.set_xlabel("share of a correction's phrasings right")
        axes.set_ylabel("corrections")

    return _svg("success", draw)


def locality_divergence(outcomes: pd.DataFrame) -> str | None:
    """Locality prompts by KL(champion || candidate), on a logarithmic scale."""
    values = outcomes.loc[outcomes["metric"] == LOCALITY, "locality_kl"].dropna()
    values = values[np.isfinite(values)]
    if values.empty:
        return None
    top = max(float(values.max()), 1.0)
    bins = np.logspace(np.log10(_SMALLEST_KL), np.log10(top) + 1e-9, 25)

    def draw(axes: Any) -> None:
        axes.hist(values.clip(lower=_SMALLEST_KL), bins=bins, color=_AFTER, alpha=0.85)
        axes.axvline(
            max(float(np.quantile(values, 0.95)), _SMALLEST_KL), color=_INK, linewidth=1, linestyle="--"
        )
        axes.set_xscale("log")
        axes.set_xlabel("KL from the champion, nats; dashed: 95th percentile")
        axes.set_ylabel("locality prompts")

    return _svg("divergence", draw)


def answer_lengths(outcomes: pd.DataFrame) -> str | None:
    """Answers by their number of words, before and after, over every prompt asked."""
    rows = outcomes[outcomes["metric"].isin([EDIT, EQUIVALENCE, RETENTION, LOCALITY, DRAWDOWN])]
    if rows.empty:
        return None
    before, after = (
        rows[column].map(lambda text: len(str(text).split()))
        for column in ("champion_output", "candidate_output")
    )
    longest = max(int(before.max()), int(after.max()), 1)
    bins = np.linspace(0, longest + 1, min(longest + 2, 25))

    def draw(axes: Any) -> None:
        _before_and_after(axes, before, after, bins)
        axes.set_xlabel("words in an answer")
        axes.set_ylabel("answers")

    return _svg("lengths", draw)


def _before_and_after(axes: Any, before: Sequence[float], after: Sequence[float], bins: Any) -> None:
    axes.hist(after, bins=bins, color=_AFTER, alpha=0.85, label="after")
    axes.hist(before, bins=bins, color=_BEFORE, histtype="step", linewidth=1.5, label="before")
    axes.legend(frameon=False, labelcolor=_MUTED, fontsize=8, loc="best", handlelength=1.2)


def _svg(name: str, draw: Callable[[Any], None]) -> str:
    """An SVG element whose ids begin with `name`, so that several can stand in one page."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Text stays text, and the same figures give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = Figure(figsize=(4.2, 2.7), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.grid(axis="y", color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=_MUTED, labelcolor=_MUTED, labelsize=8, length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(_MUTED)
            label.set_fontsize(8.5)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    for colour, variable in _STYLE.items():
        text = text.replace(colour, variable)
    return text
