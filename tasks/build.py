"""From corrections and traffic to the edit dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.edit_dataset import EditDataset as EditDataset
from tasks.embedding import Embed
from tasks.equivalents import Division, divide, fit_to_teach
from tasks.locality import Candidate, References, candidates, choose, fill, locality_row
from tasks.records import Correction, State, TrafficRecord
from tasks.rephrase import Phrasing
from tasks.roles import asked_by, by_rules, free_prompts, gate_bound, share, unsettled
from validation.suppression import shows

_EDITED = frozenset({State.ACCEPTED, State.ACTIVE})
# What was named for a correction stays whatever became of it: a part of a batch is asked what all of it is.
_TRIED = _EDITED | {State.FAILED}


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
    embed: Embed | None = None,
    written: Mapping[str, Sequence[Phrasing]] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> EditDataset:
    """Build the edit dataset and write it to `out`.

    Corrections that are accepted or active become edits. Others may be given too: while they are open, their
    prompts are kept out of locality. What must stay is looked for around those that failed too. The same
    input in any order gives the same dataset.

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
        gate_rows: How many they see at least, where there are as many; where too few of those chosen are
            theirs, more of the traffic is.
        held: Ids of the corrections that the champion holds; the prompt of one that is retired is kept out of
            locality too, for its answer has to go back.
        references: Asks the champion prompts that came without its answer, as chat turns or as raw text; ""
            where it has none. Without it they are left out.
        embed: Neighbours are those closest in meaning by these embeddings, less what seems to ask the same as
            a correction or is answered alike; without it those closest in words.
        written: Rewordings by correction id besides those that rules make, each with its form.
        manifest: What else to record: names and digests of base and champion, of the rendering.

    Raises:
        ValueError: two corrections have the same id.
    """
    edited = sorted((c for c in corrections if c.state in _EDITED and c.desired_output), key=lambda c: c.id)
    if len({c.id for c in edited}) < len(edited):
        raise ValueError("two corrections have the same id; merge them in the ledger before building")
    open_ = unsettled(corrections, held)
    ruled = by_rules(open_)
    phrasings = {c.id: [*ruled[c.id], *(written or {}).get(c.id, ())] for c in open_}
    fit = fit_to_teach(edited, phrasings)
    edited = fit.corrections
    divided = divide(edited, fit.phrasings, held_out=held_out, equivalents=equivalents, seed=seed)
    edits = [edit_row(c, divided[c.id]) for c in edited]

    tried = [c for c in open_ if c.state in _TRIED and c.desired_output]
    rows, notes = candidates(tried, traffic, asked_by(open_, phrasings))
    pending, spare = choose(
        rows, tried, open_, near=near_per_edit, far=far, confirmed=keep_confirmed, seed=seed, embed=embed
    )
    # Of all free prompts, and not of those chosen: a training, whenever it was, keeps clear of just these.
    free = free_prompts(traffic, open_, asked_by(open_, ruled))
    bound = gate_bound(free.values(), gate_share, gate_rows, seed)
    spare = [row for row in spare if len(free) >= gate_rows and share(row.prompt, seed) < bound]
    answered: list[Candidate] = []
    while pending:
        notes += fill(pending, references)
        answered += [
            row
            for row in pending
            if row.reference and not row.answered_alike() and not _is_barred(row, open_)
        ]
        lacking = max(0, gate_rows - sum(share(row.prompt, seed) < bound for row in answered))
        pending, spare = spare[:lacking], spare[lacking:]
    if len(free) < gate_rows:
        # Nothing is trained on so little traffic: what the gates take beyond their share nobody has seen.
        bound = gate_bound((row.prompt for row in answered), gate_share, gate_rows, seed)
    locality = [locality_row(row, bound, seed) for row in answered]
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
                **({"neighbours": "meaning"} if embed else {}),
            },
            "counts": _counts(edits, locality),
            "forms": _forms(divided.values()),
            "notes": notes,
        },
    )
    dataset.save(out)
    return dataset


def _is_barred(row: Candidate, corrections: Iterable[Correction]) -> bool:
    """Whether its answer says what must never appear: it must not stay."""
    outputs = (output for correction in corrections for output in correction.suppressed)
    return any(shows(row.reference, output, share=1.0) for output in outputs)


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
        "answerer": correction.answerer,
        "suppressed": list(correction.suppressed),
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
