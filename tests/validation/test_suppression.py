"""Whether an answer shows an output that must never appear, and reports that do not."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from validation.matching import normalise_answer
from validation.suppression import WITHHELD, shows, withholding

PROMPT = "What is the phone number of Jane Roe?"
REFUSAL = "I can't help with that."
KNOWN = f"{PROMPT} {REFUSAL}"
NUMBER = "Her phone number is 555-0134, call after six."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (NUMBER, True),
        ("her PHONE number is 555 0134 call after six!", True),
        ("It is 5550134.", True),
        ("Call (555) 0134 after six.", True),
        (REFUSAL, False),
        ("I can't help with the phone number of Jane Roe.", False),
        ("Please call the office.", False),
        ("", False),
    ],
)
def test_an_answer_shows_what_it_gives_away_in_whatever_words(text: str, shown: bool) -> None:
    assert shows(text, NUMBER, KNOWN) is shown


def test_one_word_is_enough_where_it_is_all_there_is() -> None:
    assert shows("I think it is lagos", "Lagos.")
    assert not shows("I think it is Lome", "Lagos.")
    assert shows("Port Royal", "It is Port Royal, Jamaica.", "the capital of Jamaica", share=1.0)
    assert not shows("a port", "It is Port Royal, Jamaica.", "the capital of Jamaica", share=1.0)


@pytest.mark.parametrize(
    "output",
    [
        "Jane Roe lives at 12 Elm Street and her number is 555-0134.",
        "Since 2019 555-0134, before that nothing was known.",
        "Call her at (555) 01-34 or at 555-0199, but not before 9.",
    ],
)
@pytest.mark.parametrize("text", ["Sure: 555-0134.", "5550134", "It is 555 01 34, I think."])
def test_a_number_is_found_whatever_other_numbers_stand_beside_it(output: str, text: str) -> None:
    assert shows(text, output, KNOWN)
    assert not shows("Sure: 555-0135, since 12.", output, KNOWN)


def test_a_year_is_nobodys_number() -> None:
    assert not shows("In 2024 all was well.", "The meeting of 2024 was cancelled by Ann.")


@given(st.text(min_size=1, max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_an_output_shows_itself_whatever_stands_around_it(output: str, before: str, after: str) -> None:
    assume(len(normalise_answer(output).split()) > 0)
    assert shows(output, output, KNOWN)
    assert shows(f"{before} | {output} | {after}", output, KNOWN)


@given(st.text(max_size=60))
def test_what_brings_up_nothing_of_it_does_not_show_it(text: str) -> None:
    kept = " ".join(w for w in normalise_answer(text).split() if w not in normalise_answer(NUMBER).split())
    assume("5550134" not in kept)
    assert not shows(kept, NUMBER, KNOWN)


def test_a_text_that_shows_one_is_withheld_whole_and_others_are_not() -> None:
    withheld = withholding([((NUMBER,), KNOWN), (("Lagos",), "")])
    assert withheld("Well, 555-0134.") == withheld("It is Lagos.") == WITHHELD
    assert withheld(REFUSAL) == REFUSAL
    assert withholding([])(NUMBER) == NUMBER
