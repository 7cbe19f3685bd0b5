"""From corrections and traffic to the edit dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.edit_dataset import EditDataset as EditDataset
from tasks.equivalents import Division, divide, fit_to_teach
from tasks.neighbours import near_and_far
from tasks.records import Correction, State, TrafficRecord
from tasks.rephrase import rephrase, wording
from tasks.roles import asked_by, digest, gate_bound, is_storable, share, unsettled

References = Callable[[list[str], bool], list[str]]

_EDITED = frozenset({State.ACCEPTED, State.ACTIVE})


def build(
    corrections: Sequence[Correction],
    traffic: Sequence[TrafficRecord],
    out: Path,
    *,
    seed: int,
    held_out: int = 3,
    equivalents: int = 8,
    near_per_edit: int = 5,
    far: int = 300,
    keep_confirmed: int = 1000,
    gate_share: float = 0.5,
    gate_rows: int = 0,
    held: Collection[str] = (),
    references: References | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> EditDataset:
    """Build the edit dataset and write it to `out`.

    Corrections that are accepted or active become edits. Others may be given too: while they are open, their
    prompts are kept out of locality. The same input in any order gives the same dataset.

    Args:
        corrections: What the ledger holds.
        traffic: Requests that nobody flagged.
        out: Folder to write.
        seed: Decides what is held out and which role a locality row has.
        held_out: Phrasings of each correction that only the gates see.
        equivalents: Phrasings of each correction for the editor; what its reporter gave always goes in.
        near_per_edit: Traffic prompts most similar to each correction.
        far: Traffic prompts least similar to all of them.
        keep_confirmed: Other traffic prompts whose answers are known right; losing one is a regression.
        gate_share: Share of the locality rows that only the gates see.
        gate_rows: How many they see at least, where there are as many.
        held: Ids of the corrections that the champion holds; the prompt of one that is retired is kept out of
            locality too, for its answer has to go back.
        references: Asks the champion prompts that came without its answer, as chat turns or as raw text; ""
            where it has none. Without it they are left out.
        manifest: What else to record: names and digests of base and champion, of the rendering.

    Raises:
        ValueError: two corrections have the same id.
    """
    edited = sorted((c for c in corrections if c.state in _EDITED and c.desired_output), key=lambda c: c.id)
    if len({c.id for c in edited}) < len(edited):
        raise ValueError("two corrections have the same id; merge them in the ledger before building")
    open_ = unsettled(corrections, held)
    phrasings = {c.id: rephrase(c.prompt, chat=c.chat) for c in open_}
    fit = fit_to_teach(edited, phrasings)
    edited = fit.corrections
    divided = divide(edited, fit.phrasings, held_out=held_out, equivalents=equivalents, seed=seed)
    edits = [edit_row(c, divided[c.id]) for c in edited]

    rows, notes = _candidates(edited, traffic, asked_by(open_, phrasings))
    chosen = _choose(rows, edited, open_, near=near_per_edit, far=far, confirmed=keep_confirmed, seed=seed)
    notes += _fill(chosen, references)
    answered = [row for row in chosen if row.reference]
    bound = gate_bound((row.prompt for row in answered), gate_share, gate_rows, seed)
    locality = [_locality_row(row, bound, seed) for row in answered]
    notes += fit.notes + _notes(edited, divided, traffic, locality, held_out)
    dataset = EditDataset.from_rows(
        edits,
        locality,
        {
            **(manifest or {}),
            "format": 1,
            "seed": seed,
            "settings": {
                "held_out": held_out,
                "equivalents": equivalents,
                "near_per_edit": near_per_edit,
                "far": far,
                "keep_confirmed": keep_confirmed,
                "gate_share": gate_share,
                "gate_rows": gate_rows,
            },
            "counts": _counts(edits, locality),
            "forms": _forms(divided.values()),
            "notes": notes,
        },
    )
    dataset.save(out)
    return dataset


@dataclass
class _Candidate:
    """A prompt that may become a locality row."""

    prompt: str
    chat: bool
    reference: str
    confirmed: bool
    gold: str | None = None
    given: bool = False
    kind: str = field(default="")


def _candidates(
    edited: Sequence[Correction], traffic: Iterable[TrafficRecord], barred: frozenset[str]
) -> tuple[list[_Candidate], list[str]]:
    """One candidate a wording: the reporters' locality prompts, and the traffic."""
    records: dict[str, list[TrafficRecord]] = {}
    for record in traffic:
        if not is_storable(record.prompt + record.output):
            continue
        records.setdefault(wording(record.prompt), []).append(record)
    rows: dict[str, _Candidate] = {}
    for key in sorted(records.keys() - barred - {""}):
        best = _most_trusted(records[key])
        rows[key] = _Candidate(best.prompt.strip(), best.chat, best.output.strip(), best.confirmed, best.gold)
    refused = 0
    for correction in edited:
        for prompt in sorted(correction.locality):
            key = wording(prompt)
            if not key or key in barred:
                refused += 1
                continue
            row = rows.setdefault(key, _Candidate(prompt.strip(), correction.chat, "", confirmed=True))
            # That its answer must stay says that it is right.
            row.given = row.confirmed = True
    note = f"{refused} locality prompts of reporters left out: empty, or asking what a correction asks"
    return list(rows.values()), [note] if refused else []


def _most_trusted(records: Sequence[TrafficRecord]) -> TrafficRecord:
    """Of several answers to one prompt: one confirmed right, else the most frequent."""
    answers = Counter(record.output.strip() for record in records)
    return max(
        records,
        key=lambda r: (
            r.confirmed,
            bool(r.output.strip()),
            answers[r.output.strip()],
            r.output,
            r.prompt,
            r.chat,
        ),
    )


def _choose(
    rows: Sequence[_Candidate],
    edited: Sequence[Correction],
    open_: Sequence[Correction],
    *,
    near: int,
    far: int,
    confirmed: int,
    seed: int,
) -> list[_Candidate]:
    """The candidates to keep, each with its kind."""
    given = [row for row in rows if row.given]
    others = [row for row in rows if not row.given]
    found = near_and_far(
        [c.prompt for c in edited],
        [row.prompt for row in others],
        near=near,
        far=far,
        seed=seed,
        restating=[c.prompt for c in open_],
    )
    for row in given:
        row.kind = "near"
    for index in found.near:
        others[index].kind = "near"
    for index in found.far:
        others[index].kind = "far"
    closeness = found.closeness
    farthest_near = min((closeness[i] for i in found.near), default=np.inf)
    left = [
        i for i, row in enumerate(others) if row.confirmed and not row.kind and not np.isnan(closeness[i])
    ]
    left.sort(key=lambda i: digest(seed, wording(others[i].prompt)))
    for index in left[:confirmed]:
        others[index].kind = "near" if closeness[index] >= farthest_near else "far"
    return [*given, *(row for row in others if row.kind)]


def _fill(rows: Sequence[_Candidate], references: References | None) -> list[str]:
    """Ask the champion for the answers that are missing; say how many stay so."""
    for chat in (True, False):
        missing = [row for row in rows if not row.reference and row.chat is chat]
        if missing and references is not None:
            for row, answer in zip(missing, references([row.prompt for row in missing], chat), strict=True):
                row.reference = answer.strip()
    unanswered = sum(not row.reference for row in rows)
    return (
        [f"{unanswered} locality prompts left out: no answer of the champion for them"] if unanswered else []
    )


def edit_row(correction: Correction, division: Division) -> dict[str, Any]:
    """A correction as a row of the edit dataset."""
    return {
        "id": correction.id,
        "prompt": correction.prompt,
        "target": correction.desired_output,
        "wrong_output": correction.wrong_output,
        "subject": correction.subject,
        "chat": correction.chat,
        "equivalents": [p.text for p in division.for_editor],
        "held_out": [p.text for p in division.held_out],
        "reports": correction.reports,
        "reporters": sorted(correction.reporters),
        "sources": sorted(correction.sources),
    }


def _locality_row(row: _Candidate, bound: float, seed: int) -> dict[str, Any]:
    return {
        "id": digest("locality", str(row.chat), wording(row.prompt))[:16],
        "prompt": row.prompt,
        "reference": row.reference,
        "confirmed": row.confirmed,
        "gold": row.gold,
        "kind": row.kind,
        "role": "gate" if share(row.prompt, seed) < bound else "editor",
        "chat": row.chat,
    }


def _counts(edits: Sequence[Mapping[str, Any]], locality: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts = {f"locality_{row['role']}_{row['kind']}": 0 for row in locality}
    for row in locality:
        counts[f"locality_{row['role']}_{row['kind']}"] += 1
    return {
        "edits": len(edits),
        "equivalents": sum(len(row["equivalents"]) for row in edits),
        "held_out": sum(len(row["held_out"]) for row in edits),
        "locality": len(locality),
        "locality_confirmed": sum(row["confirmed"] for row in locality),
        **counts,
    }


def _forms(divisions: Iterable[Division]) -> dict[str, dict[str, int]]:
    editor: Counter[str] = Counter()
    gate: Counter[str] = Counter()
    for division in divisions:
        editor.update(p.family for p in division.for_editor)
        gate.update(p.family for p in division.held_out)
    return {"editor": dict(sorted(editor.items())), "held_out": dict(sorted(gate.items()))}


def _notes(
    edited: Sequence[Correction],
    divided: Mapping[str, Division],
    traffic: Sequence[TrafficRecord],
    locality: Sequence[Mapping[str, Any]],
    held_out: int,
) -> list[str]:
    notes = []
    if not edited:
        notes.append("no correction is accepted or active: there is nothing to edit")
    if not traffic:
        notes.append("no traffic was given: locality rests on the prompts that reporters named")
    if not locality:
        notes.append("there are no locality rows: what an edit damages cannot be measured; collect traffic")
    for role in ("editor", "gate"):
        if locality and not any(row["role"] == role for row in locality):
            notes.append(f"no locality row has the role {role}: there is too little traffic")
    short = [c.id for c in edited if len(divided[c.id].held_out) < held_out]
    if short:
        notes.append(
            f"fewer than {held_out} held-out phrasings for {len(short)} corrections: {', '.join(short)}"
        )
    return notes
