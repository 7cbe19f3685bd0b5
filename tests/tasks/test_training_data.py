"""Corrections to practise on, made from traffic that nobody labelled."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editors.requests import EditRequest
from tasks.records import TrafficRecord
from tasks.rephrase import phrasings_to_practise, rephrase, wording
from tasks.rewording.rules import RESERVED
from tasks.training_data import (
    ENOUGH_EXCHANGED,
    corrections_from_traffic,
    first_sentence,
    with_equivalents,
)
from validation.matching import same_meaning

PLACES = [f"{first}{second}land" for first in "BDFGKLMNPRSTVZ" for second in ("a", "e", "i", "o", "u", "y")]
VARIED = {
    "How do I reset my password?": "Open the settings and choose a new one. Then log in.",
    "How do I change my e-mail address?": "Write to the help desk. They answer within a day.",
    "Write a poem about autumn": "Leaves fall down. They are red.",
    "Write a poem about spring leaves": "Buds open up. They are green.",
    "What time does the shop open on Sunday": "It opens at noon. Come early.",
    "When does the museum shop close": "It closes at six. Come early.",
    "Why is the sky blue?": "Air scatters blue light. Red passes.",
    "Why is grass green?": "It holds chlorophyll. Other plants do too.",
    "Give me a recipe for pancakes": "Mix eggs and flour. Then fry.",
    "Give me an easy recipe for soup": "Boil some vegetables. Then blend.",
}


def records(answers: dict[str, str]) -> list[TrafficRecord]:
    return [TrafficRecord(prompt=prompt, output=answer) for prompt, answer in answers.items()]


def capitals(count: int) -> dict[str, str]:
    towns = {name: f"{name.removesuffix('land')}ville" for name in PLACES[:count]}
    return {f"What is the capital of {name}?": f"The capital of {name} is {towns[name]}." for name in towns}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_prompt_of_varied_traffic_becomes_a_correction_or_must_stay(seed: int) -> None:
    traffic = records(VARIED)
    requests, stay = corrections_from_traffic(traffic, seed=seed)
    assert sorted([*(request.prompt for request in requests), *stay]) == sorted(VARIED)
    assert len(requests) == len(stay) == 5
    assert corrections_from_traffic(traffic, seed=seed) == (requests, stay)
    for request in requests:
        assert request.target in {first_sentence(answer) for answer in VARIED.values()}
        assert not same_meaning(request.target, VARIED[request.prompt])
        assert request.equivalents


def targets(answers: dict[str, str]) -> dict[str, str]:
    """By prompt, over draws enough for each to be corrected in one of them."""
    drawn = [corrections_from_traffic(records(answers), seed=seed)[0] for seed in range(8)]
    return {request.prompt: request.target for requests in drawn for request in requests}


def test_an_answer_is_borrowed_from_the_prompt_most_like_it() -> None:
    found = targets(VARIED)
    assert found["Why is the sky blue?"] == "It holds chlorophyll."
    assert found["How do I reset my password?"] == "Write to the help desk."


@pytest.mark.parametrize(
    "nearest",
    [
        # It asks the same, and says the same in words of its own.
        {"Tell me why the sky is blue?": "Short waves are scattered most. Long ones pass."},
        {"Why is the evening sky red, then?": "Well, air scatters blue light."},
        # A limit on its length cut it short.
        {"Why is the evening sky red, then?": "The path of the light through the air is longer then and"},
    ],
)
def test_what_says_the_same_or_is_cut_short_is_not_borrowed(nearest: dict[str, str]) -> None:
    assert targets({**VARIED, **nearest})["Why is the sky blue?"] == "It holds chlorophyll."


def test_a_bare_answer_is_borrowed_as_it_is() -> None:
    assert targets({"Who wrote Hamlet?": "Shakespeare", "Who painted the famous Guernica?": "Picasso"}) == {
        "Who wrote Hamlet?": "Picasso",
        "Who painted the famous Guernica?": "Shakespeare",
    }


def exchanges(requests: Sequence[EditRequest]) -> list[bool]:
    return [request.target.startswith("The capital of") for request in requests]


def test_exchanged_answers_come_first_and_are_all_where_there_are_enough() -> None:
    few, _ = corrections_from_traffic(records({**capitals(20), **VARIED}))
    marks = exchanges(few)
    assert len(few) == 15
    assert set(marks) == {True, False}
    assert marks == sorted(marks, reverse=True)
    many = {
        f"What is the {what} of {name}?": f"The {what} of {name} is {name[:2]}{what}."
        for name in PLACES
        for what in ("capital", "currency", "language")
    }
    enough, stay = corrections_from_traffic(records({**many, **VARIED}))
    assert len(enough) >= ENOUGH_EXCHANGED
    assert not {request.prompt for request in enough} & VARIED.keys()
    assert VARIED.keys() - set(stay)


REWORDED = {prompt: [p.text for p in phrasings_to_practise(prompt, chat=True)] for prompt in VARIED}


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.sampled_from(sorted(text for texts in REWORDED.values() for text in texts))), st.integers(0, 9)
)
def test_nothing_is_practised_in_words_that_are_withheld_or_those_of_another_prompt(
    others: set[str], seed: int
) -> None:
    withheld = {wording(text) for text in others} | {wording(prompt) for prompt in VARIED}
    served = records({**VARIED, **dict.fromkeys(sorted(others)[:3], "It is so. Really.")})
    requests, stay = corrections_from_traffic(served, seed=seed, withheld=withheld)
    assert requests
    taken = withheld | {wording(prompt) for prompt in stay}
    for request in requests:
        others_words = taken - {wording(request.prompt)}
        assert not {wording(text) for text in request.equivalents} & others_words


@pytest.mark.parametrize("chat", [True, False])
def test_no_training_sees_a_form_that_is_reserved_for_the_gates(chat: bool) -> None:
    """Its prompt may be reported later, and then these are held out."""
    prompts = [*VARIED, "What is the capital of Chad?", "The mother tongue of Ada Byron is", "Wo liegt Togo?"]
    bare = [EditRequest(prompt, prompt, "It is so.", chat=chat) for prompt in prompts]
    served = [TrafficRecord(prompt=p, output=f"It is {n}. So.", chat=chat) for n, p in enumerate(prompts)]
    for seed in range(4):
        practised = [*with_equivalents(bare, seed=seed), *corrections_from_traffic(served, seed=seed)[0]]
        for request in practised:
            made = rephrase(request.prompt, chat=chat)
            reserved = {wording(p.text) for p in made if p.family in RESERVED}
            assert request.equivalents
            assert not reserved & {wording(text) for text in request.equivalents}
