"""Bisect: which corrections to leave out of a batch that the gates refuse, in a bounded number of solves.

Delta debugging's halving (Zeller and Hildebrandt 2002), the other way round: what passes grows, the largest
groups first, so that the budget buys the largest part. Where single corrections show the harm, they are
parted from the rest before anything is halved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

UNTAKEN = "the edit did not take"


@dataclass(frozen=True)
class Trial:
    """What came of solving and gating a set of corrections.

    Attributes:
        passes: whether the gates let it pass.
        untaken: ids of those whose own prompt is not answered with their target.
        failing: the gates that refuse it.
        undecided: no gate refuses it, but one has too few rows to let it pass.
    """

    passes: bool
    untaken: frozenset[str] = frozenset()
    failing: tuple[str, ...] = ()
    undecided: bool = False


@dataclass(frozen=True)
class Found:
    """The largest set found to pass, None where none does, and why each other correction is left out.

    `failed` is empty where nothing passes: without a part that does, there is nothing to blame the rest by.
    """

    kept: frozenset[str] | None
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Group:
    """Corrections that are added together; `suspect` where their own prompts failed in a larger set."""

    ids: tuple[str, ...]
    suspect: bool = False
    why: str = ""


def bisect(
    trial: Callable[[frozenset[str]], Trial], new: Sequence[str], held: Collection[str] = (), *, budget: int
) -> Found:
    """The largest part of a batch that passes, as far as a budget of solves shows it.

    What the champion holds already is left out only where nothing is new: users have seen it mended. No set
    is tried twice, and the same answers give the same result. A set that is undecided shows no harm: until
    one passes, more is added to it.

    Args:
        trial: solves and gates a set of ids; the whole batch first.
        new: ids of new corrections, those most worth keeping first.
        held: ids of those that the champion holds.
        budget: trials at most, one for the whole batch included.
    """
    search = _Search(trial, budget)
    fixed = frozenset(held)
    if not new:
        return _without_untaken(search, fixed)
    place = {id_: index for index, id_ in enumerate(new)}
    groups = [_Group(tuple(new))]
    failed: dict[str, str] = {}
    kept, passes = fixed, False
    while groups:
        groups.sort(key=lambda group: (-len(group.ids), group.suspect, place[group.ids[0]]))
        group = groups.pop(0)
        # One trial is kept back for what is held: if that fails too, no new correction is to blame.
        spare = 1 if fixed and not passes and budget > 2 else 0
        found = search.of(kept | set(group.ids), spare)
        if found is None:
            failed |= dict.fromkeys(group.ids, group.why)
        elif found.passes or (found.undecided and not passes):
            kept, passes = kept | set(group.ids), found.passes
        else:
            parts, blamed = _parts(group, found, len(kept), budget)
            groups += parts
            failed |= blamed
    if not passes:
        # Where nothing but undecided sets was found, nothing is known of those that were refused beside them.
        alone = search.of(fixed) if fixed and kept == fixed else None
        if alone is None or not alone.passes:
            return Found(None)
    return Found(kept, failed)


class _Search:
    """Trials within a budget; what was tried is known and costs nothing."""

    def __init__(self, trial: Callable[[frozenset[str]], Trial], budget: int) -> None:
        self._trial = trial
        self._left = budget
        self._known: dict[frozenset[str], Trial] = {}

    def of(self, ids: frozenset[str], spare: int = 0) -> Trial | None:
        """The trial of a set; None where it would take more than is left but for `spare`."""
        if ids not in self._known:
            if self._known and self._left <= spare:
                return None
            self._left -= 1
            self._known[ids] = self._trial(ids)
        return self._known[ids]


def _parts(group: _Group, found: Trial, beside: int, budget: int) -> tuple[list[_Group], dict[str, str]]:
    """What to try next of a group that fails beside `beside` others, and which of it is to blame, and why."""
    untaken = tuple(id_ for id_ in group.ids if id_ in found.untaken)
    rest = tuple(id_ for id_ in group.ids if id_ not in found.untaken)
    gates = ", ".join(found.failing) or "the solve"
    unknown = f"one of {len(group.ids)} that {gates} refused together; {budget} solves did not tell which"
    if untaken and (group.suspect or len(group.ids) == 1):
        # Twice, or alone: no smaller set would say more.
        return [_Group(rest, True, unknown)] if rest else [], dict.fromkeys(untaken, UNTAKEN)
    if len(group.ids) == 1:
        others = f"with {beside} others that pass without it" if beside else "with no other"
        return [], {group.ids[0]: f"refused by {gates} {others}"}
    if untaken and rest:
        return [_Group(rest, False, unknown), _Group(untaken, True, UNTAKEN)], {}
    half = (len(group.ids) + 1) // 2
    halves = group.ids[:half], group.ids[half:]
    return [_Group(ids, group.suspect, unknown) for ids in halves], {}


def _without_untaken(search: _Search, held: frozenset[str]) -> Found:
    """Of a batch without anything new, the part whose own prompts are answered rightly, if that passes."""
    kept = held
    while kept and (found := search.of(kept)) is not None:
        if found.passes:
            return Found(kept, dict.fromkeys(held - kept, UNTAKEN))
        if not found.untaken & kept:
            break
        kept -= found.untaken
    return Found(None)
