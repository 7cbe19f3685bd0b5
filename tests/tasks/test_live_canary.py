"""How a canary stands by what users said of both arms."""

from __future__ import annotations

import pytest

from tasks.live_canary import Judgement, stand
from tasks.live_candidate import drawn


def complaints(version: str, users: list[str]) -> list[Judgement]:
    return [Judgement(user, version, False, 0.5, at) for at, user in enumerate(users)]


def test_complaints_of_many_users_withdraw_a_canary_and_many_of_one_user_do_not():
    many = [f"user {number}" for number in range(8)]
    champion = complaints("2", ["somebody"])
    assert stand([*complaints("3", many), *champion], "3").evidence > 8
    assert stand(complaints("3", many), "3").worse
    angry = stand([*complaints("3", ["ann"] * 8), *champion], "3")
    assert not angry.worse
    assert angry.evidence < 2
    # Shown are all of them.
    assert (angry.canary, angry.champion) == ((8, 8), (1, 1))
    assert "flagged 8 of 8 (1.000, 95 % 0.676 to 1.000) of its answers" in angry.told(0.5)


def test_answers_that_users_call_right_are_no_evidence():
    right = [Judgement(f"user {number}", "2", True, 0.1, number) for number in range(50)]
    assert stand(right, "3").evidence == 1.0
    assert stand([], "3").told(0.1).startswith("it got 0.1 of the requests; users flagged 0 of 0 of its")


def test_a_lot_falls_as_often_as_it_should_and_always_the_same_way_for_a_user():
    users = [f"user {number}" for number in range(4000)]
    for share in (0.0, 0.1, 0.9, 1.0):
        chosen = [drawn(share, "canary", "3 beside 2", user) for user in users]
        assert chosen == [drawn(share, "canary", "3 beside 2", user) for user in users]
        assert sum(chosen) / len(users) == pytest.approx(share, abs=0.03)
    # Those who tried one candidate are not those who try the next.
    both = sum(drawn(0.1, "3 beside 2", user) and drawn(0.1, "4 beside 2", user) for user in users)
    assert both / len(users) == pytest.approx(0.01, abs=0.01)
