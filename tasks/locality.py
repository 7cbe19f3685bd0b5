"""Which prompts become locality rows: answers near the corrections, and far from them, that must stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.embedding import Embed
from tasks.neighbours import meaning_search, near_and_far, restates, tfidf_search
from tasks.records import Correction, TrafficRecord
from tasks.rephrase import wording
from tasks.roles import digest, is_storable, share
from validation.matching import answers

References = Callable[[list[str], bool], list[str]]

# Closeness below which a prompt is near to nothing; sentences about nothing in common have up to 0.2.
_LEAST_IN_WORDS, _LEAST_IN_MEANING = 0.1, 0.3


@dataclass
class Candidate:
    """A prompt that may become a locality row."""

    prompt: str
    chat: bool
    reference: str
    confirmed: bool
    gold: str | None = None
    given: bool = False
    kind: str = field(default="")
    near_to: list[Correction] = field(default_factory=list)

    def answered_alike(self) -> bool:
        """Whether its answer is what a correction that it was found for said, or shall say."""
        return any(_answered_alike(self, correction) for correction in self.near_to)


def candidates(
    tried: Sequence[Correction], traffic: Iterable[TrafficRecord], barred: frozenset[str]
) -> tuple[list[Candidate], list[str]]:
    """One candidate a wording: the reporters' locality prompts, and the traffic.

    `tried` are the corrections that are solved, or were and failed.
    """
    records: dict[str, list[TrafficRecord]] = {}
    for record in traffic:
        if not is_storable(record.prompt + record.output):
            continue
        records.setdefault(wording(record.prompt), []).append(record)
    rows: dict[str, Candidate] = {}
    for key in sorted(records.keys() - barred - {""}):
        best = _most_trusted(records[key])
        rows[key] = Candidate(best.prompt.strip(), best.chat, best.output.strip(), best.confirmed, best.gold)
    refused = 0
    for correction in tried:
        for prompt in sorted(correction.locality):
            key = wording(prompt)
            if not key or key in barred:
                refused += 1
                continue
            row = rows.setdefault(key, Candidate(prompt.strip(), correction.chat, "", confirmed=True))
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


def choose(
    rows: Sequence[Candidate],
    tried: Sequence[Correction],
    open_: Sequence[Correction],
    *,
    near: int,
    far: int,
    confirmed: int,
    seed: int,
    embed: Embed | None,
) -> tuple[list[Candidate], list[Candidate]]:
    """The candidates to keep, and more of the traffic from the least close on, each with its kind.

    With `embed` the near ones are those close in meaning.
    """
    given = [row for row in rows if row.given]
    others = [row for row in rows if not row.given]

    def same_question(edit: int, index: int, similarity: float) -> bool:
        """Whether nothing says that the answer must stay, and it may have to change with the correction's."""
        row, correction = others[index], tried[edit]
        if row.confirmed:
            return False
        return restates(correction.prompt, row.prompt, similarity) or _answered_alike(row, correction)

    found = near_and_far(
        [c.prompt for c in tried],
        [row.prompt for row in others],
        near=near,
        far=far,
        seed=seed,
        least=_LEAST_IN_MEANING if embed else _LEAST_IN_WORDS,
        restating=[c.prompt for c in open_],
        search=meaning_search(embed) if embed else tfidf_search,
        refuse=same_question if embed else None,
    )
    for row in given:
        row.kind = "near"
    for index in found.near:
        others[index].kind = "near"
        if embed and not others[index].confirmed:
            others[index].near_to = [tried[edit] for edit in found.near_to[index]]
    for index in found.far:
        others[index].kind = "far"
    closeness = found.closeness
    farthest_near = min((closeness[i] for i in found.near), default=np.inf)
    left = [i for i, row in enumerate(others) if not row.kind and not np.isnan(closeness[i])]
    left.sort(key=lambda i: digest(seed, wording(others[i].prompt)))
    for index in left:
        others[index].kind = "near" if closeness[index] >= farthest_near else "far"
    right = [i for i in left if others[i].confirmed][:confirmed]
    kept = {*found.near, *found.far, *right}
    spare = sorted((i for i in left if i not in kept), key=lambda i: closeness[i])
    return [*given, *(others[i] for i in sorted(kept))], [others[i] for i in spare]


def _answered_alike(row: Candidate, correction: Correction) -> bool:
    said = (correction.wrong_output or "", correction.desired_output or "")
    return any(answers(row.reference, text) for text in said)


def fill(rows: Sequence[Candidate], references: References | None) -> list[str]:
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


def locality_row(row: Candidate, bound: float, seed: int) -> dict[str, Any]:
    """The row of the dataset; gates ask those whose share is below `bound`."""
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
