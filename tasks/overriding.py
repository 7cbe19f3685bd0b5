"""Overrides of corrections that no edit could make: their prompts are answered in front of the model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from editors.delta import OVERRIDES, Delta
from editors.overrides import Override, Overrides, normalise_prompt
from tasks.apply import Applied
from tasks.equivalents import fit_to_teach
from tasks.records import Correction
from tasks.rephrase import rephrase


def overrides_of(failed: Iterable[Correction], solved: Iterable[Correction]) -> Overrides:
    """An answer for the prompt of each failed correction, and for the phrasings that its reporters gave.

    Where two failed ones want different answers to a prompt, the later complaint counts. A prompt that a
    solved correction asks is left to the model, and so is one that only a program answered. No phrasing is
    answered that must not be taught either, such as one that another correction answers otherwise.
    """
    failed, solved = list(failed), list(solved)
    fit = fit_to_teach(
        [*failed, *solved], {c.id: rephrase(c.prompt, chat=c.chat) for c in (*failed, *solved)}
    ).corrections
    asked = {_key(c.prompt, c) for c in solved}
    # What a program answered is served only once the gates and a person have let it.
    vouched = (c for c in fit[: len(failed)] if not c.answerer)
    ordered = sorted(vouched, key=lambda c: (c.first_reported_at, c.id), reverse=True)
    found: dict[tuple[str, bool], Override] = {}
    # A correction's own prompt comes before what is a mere phrasing of another one.
    texts = [(c.prompt, c) for c in ordered] + [(text, c) for c in ordered for text in c.equivalents]
    for text, c in texts:
        key = _key(text, c)
        if key[0] and key not in asked and c.desired_output:
            found.setdefault(key, Override(text, c.desired_output, c.id, c.chat))
    return Overrides(found[key] for key in sorted(found))


def with_overrides(applied: Applied, overrides: Overrides, out: Path) -> Applied:
    """The same shifts with these overrides before them, written to `out`; as it is where there are none."""
    if not len(overrides):
        return applied
    return replace(applied, folder=out, digest=write(Delta.load(applied.folder), overrides, out).digest())


def write(delta: Delta, overrides: Overrides, out: Path) -> Delta:
    """The delta with these overrides in place of its own, written to `out` at once or not at all."""
    manifest = {key: value for key, value in delta.manifest.items() if key != OVERRIDES}
    if len(overrides):
        manifest[OVERRIDES] = overrides.to_json()
    answering = Delta(delta.shifts, manifest)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    answering.save(partial)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    return answering


def overridden(overrides: Overrides) -> tuple[str, ...]:
    """Ids of the corrections whose overrides these are, sorted."""
    return tuple(sorted({entry.correction_id for entry in overrides.entries()}))


def _key(text: str, correction: Correction) -> tuple[str, bool]:
    return normalise_prompt(text), correction.chat
