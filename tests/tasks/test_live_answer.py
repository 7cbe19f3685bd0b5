"""What of an answer under way is shown, and whose turn it is."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.live_answer import Turns, _certain

_texts = st.text("ab \n", max_size=4)


@given(
    st.lists(_texts, max_size=12),
    st.lists(st.text("ab \n", min_size=1, max_size=3), max_size=3).map(tuple),
    st.booleans(),
)
def test_what_was_shown_is_never_taken_back(pieces: list[str], stops: tuple[str, ...], strip: bool) -> None:
    shown, text, stopped = "", "", False
    for piece in pieces:
        text += piece
        sure, stopped = _certain(text, stops, strip=strip, ended=False)
        assert sure.startswith(shown)
        shown = sure
        if stopped:
            break
    if not stopped:
        sure, stopped = _certain(text, stops, strip=strip, ended=True)
        assert not stopped
        assert sure.startswith(shown)
        shown = sure
    assert not any(stop in shown for stop in stops)
    cut = min((text.index(stop) for stop in stops if stop in text), default=len(text))
    assert shown == (text[:cut].strip() if strip else text[:cut])


@pytest.mark.parametrize(
    ("text", "ended", "shown"),
    [
        ("Caf\ufffd", False, "Caf"),
        ("Caf\ufffd", True, "Caf\ufffd"),
        ("go on ST", False, "go on "),
        ("go on ST", True, "go on ST"),
        ("go on STOP there", False, "go on "),
    ],
)
def test_half_a_character_and_half_a_stop_are_held_back(text: str, ended: bool, shown: str) -> None:
    assert _certain(text, ("STOP",), strip=False, ended=ended)[0] == shown


def test_turns_are_taken_in_order_and_one_at_a_time() -> None:
    turns, order, inside = Turns(), [], []

    def take(number: int) -> None:
        for _ in range(3):
            with turns.turn():
                inside.append(number)
                assert len(inside) == 1
                order.append(number)
                time.sleep(0.02)
                inside.pop()

    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    with turns.turn():
        for number, thread in enumerate(threads, 1):
            thread.start()
            while len(turns._waiting) < number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    # Nobody is passed over: whoever comes back waits behind all others.
    assert order == [0, 1, 2, 3] * 3


def test_a_turn_that_fails_is_over() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.turn():
        raise KeyError
    with turns.turn():
        pass
