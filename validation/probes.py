"""Texts that a corrected model must read as its base does: neutral prose, code and arithmetic."""

from __future__ import annotations

from importlib.resources import files

PROSE, CODE, ARITHMETIC = "perplexity_ratio", "perplexity_ratio_code", "perplexity_ratio_arithmetic"
_FILES = {PROSE: "prose.txt", CODE: "code.txt", ARITHMETIC: "arithmetic.txt"}


def probes() -> dict[str, list[str]]:
    r"""The texts of each perplexity metric, by its name; none holds a fact that anyone would correct.

    A line of a file is a text, in which `\n` and `\t` stand for a new line and a tab.
    """
    return {metric: _texts(file) for metric, file in _FILES.items()}


def _texts(file: str) -> list[str]:
    text = (files("validation") / "probes" / file).read_text(encoding="utf-8")
    return [line.replace("\\n", "\n").replace("\\t", "\t") for line in text.splitlines() if line]
