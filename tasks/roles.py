"""Who sees a prompt of the traffic: the editor and its training, or the gates alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.neighbours import keeps_names, restated
from tasks.records import Correction, State, TrafficRecord
from tasks.rephrase import Phrasing, rephrase, wording

# Nothing is wrong any more with the answer to these: a withdrawn complaint, and one that was right already.
_SETTLED = frozenset({State.RETIRED, State.ALREADY_CORRECT})


@dataclass(frozen=True)
class Learnable:
    """Traffic that an editor may be trained on, and what prompts like it must not be.

    `asked` are the wordings of all that was ever asked, or named as what must stay; `corrected` are the
    prompts of corrections, as they were reported, of which no other wording may be trained on either. `split`
    is what decides which prompts are the gates', and the `bound` that came of it: the share from which on
    they are not.
    """

    traffic: list[TrafficRecord]
    asked: frozenset[str]
    corrected: tuple[str, ...] = ()
    split: Mapping[str, float] | None = None

    @property
    def withheld(self) -> frozenset[str]:
        """Wordings of what gates and corrections ask, or may ask: no editor practises on them."""
        return self.asked - {wording(r.prompt) for r in self.traffic}


def unsettled(corrections: Iterable[Correction], held: Collection[str] = ()) -> list[Correction]:
    """The corrections whose answers may have to change now, by id.

    `held` are the ids of those that the champion holds: the answer to one that was withdrawn since goes back.
    """
    return sorted(
        (c for c in corrections if c.state not in _SETTLED or (c.state is State.RETIRED and c.id in held)),
        key=lambda c: c.id,
    )


def asked_by(
    corrections: Iterable[Correction], phrasings: Mapping[str, Sequence[Phrasing]]
) -> frozenset[str]:
    """All wordings of what corrections ask, whose answers must change and not stay.

    A reporter's phrasing that names other things is not taught, and what it asks stays.
    """
    return frozenset(
        wording(text)
        for c in corrections
        for text in (
            c.prompt,
            *(text for text in c.equivalents if keeps_names(c.prompt, text)),
            *(p.text for p in phrasings[c.id]),
        )
    )


def by_rules(corrections: Iterable[Correction]) -> dict[str, list[Phrasing]]:
    """The rewordings that rules make, by correction id."""
    return {c.id: rephrase(c.prompt, chat=c.chat) for c in corrections}


def free_prompts(
    traffic: Iterable[TrafficRecord], open_: Sequence[Correction], barred: Collection[str]
) -> dict[str, str]:
    """The prompts of the traffic that no correction asks, by wording: the gates' are among these.

    Args:
        traffic: requests that nobody flagged.
        open_: corrections whose answers may have to change; what restates one of their prompts is not free.
        barred: wordings that are not free either.
    """
    once = {wording(r.prompt): r.prompt for r in traffic if is_storable(r.prompt)}
    free = {key: prompt for key, prompt in sorted(once.items()) if key and key not in barred}
    again = restated([c.prompt for c in open_], list(free.values()))
    return {key: prompt for place, (key, prompt) in enumerate(free.items()) if place not in again}


def for_training(
    traffic: Iterable[TrafficRecord],
    corrections: Iterable[Correction],
    *,
    gate_share: float,
    gate_rows: int,
    seed: int,
    held: Collection[str] = (),
) -> Learnable:
    """What an editor may be trained on: neither the gates' prompts, nor what corrections ask.

    It is nothing while the traffic has fewer free prompts than the gates need: as it grows, each of them may
    become the gates'.
    """
    corrections = list(corrections)
    open_ = unsettled(corrections, held)
    barred = asked_by(open_, by_rules(open_))
    named = {wording(prompt) for c in corrections for prompt in c.locality}
    storable = [r for r in traffic if is_storable(r.prompt + r.output)]
    free = free_prompts(storable, open_, barred)
    bound = gate_bound(free.values(), gate_share, gate_rows, seed) if len(free) >= gate_rows else 1.0
    learnable = [r for r in storable if wording(r.prompt) in free and share(r.prompt, seed) >= bound]
    corrected = tuple(text for c in open_ for text in (c.prompt, *c.equivalents))
    asked = barred | named | {wording(r.prompt) for r in storable}
    split = {"seed": seed, "gate_share": gate_share, "gate_rows": gate_rows, "bound": bound}
    return Learnable(learnable, asked, corrected, split)


def recent(
    traffic: Sequence[TrafficRecord],
    corrections: Iterable[Correction],
    *,
    held: Collection[str] = (),
) -> list[tuple[str, bool]]:
    """The prompts that were served, each once, the latest first, and whether they are chat turns.

    What corrections ask, in whatever words, is not among them: the answers to these are to change.

    Args:
        traffic: in the order of time.
        corrections: what the ledger holds.
        held: ids of the corrections that the champion holds.
    """
    open_ = unsettled(corrections, held)
    barred = asked_by(open_, by_rules(open_))
    once: dict[tuple[str, bool], str] = {}
    for record in reversed(traffic):
        if is_storable(record.prompt) and wording(record.prompt) not in barred:
            once.setdefault((wording(record.prompt), record.chat), record.prompt.strip())
    prompts = list(once.values())
    again = restated([c.prompt for c in open_], prompts)
    return [(prompt, key[1]) for i, (key, prompt) in enumerate(once.items()) if i not in again]


def is_storable(text: str) -> bool:
    """Whether a text can be written as UTF-8; half of a surrogate pair, from a cut-off emoji, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def share(prompt: str, seed: int) -> float:
    """Where in [0, 1) a prompt is: by itself alone, so that it keeps its role as the traffic grows."""
    return int(digest(seed, "role", wording(prompt))[:13], 16) / 16**13


def gate_bound(prompts: Iterable[str], gate_share: float, gate_rows: int, seed: int) -> float:
    """The share below which prompts are the gates', so that they get `gate_rows` if there are so many."""
    shares = sorted(share(prompt, seed) for prompt in prompts)
    if not 0 < gate_rows <= len(shares):
        return gate_share
    return max(gate_share, float(np.nextafter(shares[gate_rows - 1], 1)))


def digest(*parts: object) -> str:
    """SHA-256 of parts, in hexadecimal."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
