"""Neutral prose on which a corrected model must write as its champion does."""

from __future__ import annotations

from importlib.resources import files


def neutral_prose() -> list[str]:
    """About sixty short English paragraphs on everyday things, holding no fact that anyone would correct."""
    text = (files("validation") / "probes" / "prose.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]
