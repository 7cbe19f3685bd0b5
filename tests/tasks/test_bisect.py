"""The search for what breaks a batch, over plain data: whatever is asked answers as a set of rules says."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.bisect import UNTAKEN, Found, Trial, bisect

Ask = Callable[[frozenset[str]], Trial]
NOBODY: frozenset[str] = frozenset()


def names(count: int, letter: str = "n") -> list[str]:
    return [f"{letter}{i:03}" for i in range(count)]


class Counted:
    """Answers, and keeps what it was asked."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.asked: list[frozenset[str]] = []

    def __call__(self, ids: frozenset[str]) -> Trial:
        self.asked.append(ids)
        return self.ask(ids)


def refused_with(*culprits: set[str], untaken: frozenset[str] = NOBODY) -> Ask:
    """Fails wherever one of these sets is whole in it; `untaken` do not take, and never pass."""

    def ask(ids: frozenset[str]) -> Trial:
        bad = any(culprit <= ids for culprit in culprits) or bool(untaken & ids)
        return Trial(not bad, untaken & ids, ("perplexity_ratio",) if bad else ())

    return ask


def arbitrary(seed: int) -> Ask:
    """Any answers at all, the same for the same set."""

    def ask(ids: frozenset[str]) -> Trial:
        rng = random.Random(f"{seed} {sorted(ids)}")
        untaken = frozenset(id_ for id_ in sorted(ids) if rng.random() < rng.choice((0, 0.2, 1)))
        passes = rng.random() < rng.choice((0.0, 0.4))
        return Trial(passes, untaken, ("answers_kept",), not passes and rng.random() < 0.3)

    return ask


@given(
    st.integers(0, 12), st.integers(0, 6), st.integers(1, 14), st.integers(0, 10**6), st.booleans(), st.data()
)
def test_whatever_is_answered_the_budget_holds_and_each_is_kept_or_has_a_reason(
    new: int, held: int, budget: int, seed: int, monotone: bool, data: Any
):
    fresh, old = names(new), names(held, "h")
    batch = frozenset(fresh + old)
    if monotone:
        culprits = data.draw(st.lists(st.sets(st.sampled_from(sorted(batch) or ["x"]), min_size=1)))
        ask = refused_with(*culprits)
    else:
        ask = arbitrary(seed)
    trial = Counted(ask)
    found = bisect(trial, fresh, old, budget=budget)

    assert len(trial.asked) == len(set(trial.asked)) <= budget
    assert all(ids and ids <= batch for ids in trial.asked)
    assert not batch or trial.asked[0] == batch
    if found.kept is None:
        assert found == Found(None, {})
        assert not any(ask(ids).passes for ids in trial.asked)
    else:
        assert found.kept in trial.asked
        assert ask(found.kept).passes
        assert len(found.kept) == max(len(ids) for ids in trial.asked if ask(ids).passes)
        assert found.kept | set(found.failed) == batch
        assert not found.kept & set(found.failed)
        assert all(reason.strip() for reason in found.failed.values())
        assert not fresh or found.kept >= set(old)
    assert bisect(ask, fresh, old, budget=budget) == found


@given(st.integers(1, 40), st.integers(0, 10), st.lists(st.sets(st.integers(0, 39), min_size=1, max_size=3)))
def test_with_budget_enough_nothing_harmless_is_left_out(new: int, held: int, culprits: list[set[int]]):
    fresh, old = names(new), names(held, "h")
    ask = refused_with(*({f"n{i:03}" for i in culprit} for culprit in culprits))
    found = bisect(ask, fresh, old, budget=1000)
    if found.kept is None:
        assert not old
        assert not any(ask(frozenset({id_})).passes for id_ in fresh)
    else:
        assert all(not ask(found.kept | {id_}).passes for id_ in found.failed)


@pytest.mark.parametrize("place", [0, 17, 63])
def test_one_culprit_among_many_is_found_in_two_solves_a_halving(place: int):
    fresh = names(64)
    trial = Counted(refused_with({fresh[place]}))
    found = bisect(trial, fresh, budget=100)
    assert found.kept == set(fresh) - {fresh[place]}
    assert set(found.failed) == {fresh[place]}
    assert "refused by perplexity_ratio with 6" in found.failed[fresh[place]]
    assert len(trial.asked) <= 1 + 2 * math.log2(64)
    # What eight solves show is all but the last eighth.
    assert len(bisect(refused_with({fresh[place]}), fresh, budget=8).kept or ()) >= 56


def test_of_two_that_only_together_break_it_the_one_more_worth_keeping_is_kept():
    fresh = names(8)
    found = bisect(refused_with({"n001", "n006"}), fresh, budget=20)
    assert found.kept == set(fresh) - {"n006"}


def test_those_that_did_not_take_are_parted_in_one_more_solve():
    fresh = names(50)
    untaken = frozenset(fresh[3:9])
    trial = Counted(refused_with(untaken=untaken))
    found = bisect(trial, fresh, budget=8)
    assert (found.kept, len(trial.asked)) == (set(fresh) - untaken, 2)
    assert found.failed == dict.fromkeys(sorted(untaken), UNTAKEN)


def test_what_another_kept_from_taking_is_tried_again_without_that_one():
    fresh = names(20)
    hurt = frozenset(fresh[10:18])

    def ask(ids: frozenset[str]) -> Trial:
        bad = "n002" in ids
        return Trial(not bad, hurt & ids if bad else NOBODY, ("edit_success_greedy",))

    found = bisect(ask, fresh, budget=20)
    assert found.kept == set(fresh) - {"n002"}


def test_where_there_is_room_for_so_many_what_the_champion_holds_stays():
    old, fresh = names(30, "h"), names(30)

    def ask(ids: frozenset[str]) -> Trial:
        return Trial(len(ids) <= 40, NOBODY, ("answers_kept",))

    found = bisect(ask, fresh, old, budget=8)
    assert found.kept is not None
    assert found.kept > set(old)
    assert 37 <= len(found.kept) <= 40
    assert "8 solves did not tell which" in " ".join(found.failed.values())


def test_where_no_part_passes_nobody_is_blamed_unless_what_was_there_passes_alone():
    everything = names(5)
    assert bisect(lambda ids: Trial(False), everything, budget=50) == Found(None)
    assert bisect(lambda ids: Trial(False), everything, ["h"], budget=50) == Found(None)
    found = bisect(lambda ids: Trial(ids == {"h"}), everything, ["h"], budget=4)
    assert (found.kept, set(found.failed)) == ({"h"}, set(everything))


def test_with_nothing_new_only_what_did_not_take_is_left_out():
    old = names(6, "h")
    found = bisect(refused_with(untaken=frozenset({"h004"})), [], old, budget=8)
    assert (found.kept, found.failed) == (set(old) - {"h004"}, {"h004": UNTAKEN})
    assert bisect(refused_with({"h004"}), [], old, budget=8) == Found(None)


def test_a_part_that_is_too_small_to_be_judged_is_no_harm_and_more_is_added_to_it():
    """Both halves are refused, and smaller parts have too few rows."""
    fresh = names(8)

    def ask(ids: frozenset[str]) -> Trial:
        bad = bool(ids & {"n000", "n007"})
        return Trial(not bad and len(ids) > 3, NOBODY, ("answers_kept",), not bad and len(ids) <= 3)

    found = bisect(ask, fresh, budget=30)
    assert found.kept == set(fresh) - {"n000", "n007"}
    assert set(found.failed) == {"n000", "n007"}


@pytest.mark.parametrize("held", [[], ["h"]])
def test_where_no_part_can_be_judged_nobody_is_blamed(held: list[str]):
    def ask(ids: frozenset[str]) -> Trial:
        bad = "n001" in ids
        return Trial(False, NOBODY, ("answers_kept",), not bad)

    assert bisect(ask, names(4), held, budget=20) == Found(None)
