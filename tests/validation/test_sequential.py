"""Complaints about two arms: a harmless canary is seldom accused, however often one looks."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.sequential import evidence_of_harm

_shares = st.floats(0.01, 0.99)


def drawn(share: float, risk: float, count: int, seed: int) -> list[tuple[bool, float]]:
    """Complaints about two arms, of which the canary's are `risk` times as likely."""
    about = np.random.default_rng(seed).random(count) < share * risk / (share * risk + 1 - share)
    return [(bool(one), share) for one in about]


def alarm(complaints: list[tuple[bool, float]]) -> int | None:
    """After how many complaints somebody who looks after each of them is sure."""
    looks = range(1, len(complaints) + 1)
    return next((n for n in looks if evidence_of_harm(complaints[:n]) >= 20), None)


@given(st.lists(_shares, max_size=6))
def test_of_a_canary_that_is_no_worse_the_evidence_is_one_on_average(shares: list[float]):
    """The promise itself, over all ways in which the complaints may fall."""
    average = 0.0
    for about in product((False, True), repeat=len(shares)):
        chance = np.prod([share if one else 1 - share for one, share in zip(about, shares, strict=True)])
        average += chance * evidence_of_harm(zip(about, shares, strict=True))
    assert average == pytest.approx(1.0)


@given(st.lists(_shares, min_size=1, max_size=6), st.data())
def test_a_complaint_about_the_canary_adds_to_the_evidence_and_one_about_the_champion_takes_away(
    shares: list[float], data: st.DataObject
):
    about = data.draw(st.lists(st.booleans(), min_size=len(shares), max_size=len(shares)))
    known = list(zip(about, shares, strict=True))
    more = data.draw(_shares)
    before = evidence_of_harm(known)
    assert evidence_of_harm([*known, (False, more)]) < before < evidence_of_harm([*known, (True, more)])
    # Their order says nothing.
    assert evidence_of_harm(known[::-1]) == pytest.approx(before)


def test_a_harmless_canary_is_seldom_accused_though_one_looks_after_every_complaint():
    for share in (0.1, 0.5):
        accused = [alarm(drawn(share, 1.0, 120, seed)) is not None for seed in range(100)]
        assert Fraction(sum(accused), len(accused)) <= Fraction(9, 100)


def test_a_worse_canary_is_found_after_few_complaints():
    for share, risk, median in ((0.1, 3.0, 60), (0.1, 20.0, 6), (0.5, 5.0, 16)):
        found = [alarm(drawn(share, risk, 300, seed)) or 300 for seed in range(15)]
        assert np.median(found) <= median


def test_arms_that_are_not_dealt_by_lot_cannot_be_compared():
    for share in (0.0, 1.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            evidence_of_harm([(True, share)])
    assert evidence_of_harm([]) == 1.0
