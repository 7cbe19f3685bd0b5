"""What MALMEN does in its passes: it asks for what is not right yet, and holds on to what must stay."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from editors.delta import applied
from editors.gather import answered_exactly, encode_kept, encode_openings, encode_requests
from editors.malmen import Malmen, MalmenConfig
from editors.protocol import Kept
from editors.replay import PrefixCache
from editors.requests import EditRequest
from tests import tiny_models
from tests.editors.facts import Facts, learnt

# An untrained editor of a model this small needs large steps.
CONFIG = MalmenConfig(rank=8, rate=60.0, kept_weight=1.0, caution=1.0, passes=8)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return learnt(tiny_models.build(tmp_path_factory.mktemp("base"), "llama", initializer_range=0.1))


def rates(facts: Facts, keep: list[Kept], **changes: Any) -> tuple[float, float]:
    """Shares of corrections that took, equivalents among them, and of all answers that stayed."""
    editor = Malmen.untrained(facts.model, dataclasses.replace(CONFIG, **changes))
    delta = editor.edit(facts.model, facts.tokenizer, facts.requests, keep)
    cache = PrefixCache(facts.model, editor.modules_edited)
    with applied(facts.model, delta):
        shares = [
            sum(right := answered_exactly(facts.model, examples, 0, cache)) / len(right)
            for examples in (
                encode_requests(facts.tokenizer, facts.requests),
                encode_kept(facts.tokenizer, facts.keep),
            )
        ]
    return shares[0], shares[1]


def test_answers_that_must_stay_do(facts: Facts) -> None:
    took, stayed = rates(facts, [])
    took_beside, stayed_beside = rates(facts, facts.keep)
    assert took > 0.9 > 0.5 > stayed
    assert took_beside > 0.8
    assert stayed_beside > 0.9


def test_more_weight_holds_more_and_lets_less_through(facts: Facts) -> None:
    light, middle, heavy = (rates(facts, facts.keep, kept_row_weight=w) for w in (0.0, 1.0, 10.0))
    assert light == rates(facts, [])
    assert light[0] > middle[0] > heavy[0]
    assert light[1] < middle[1] <= heavy[1]


def test_more_passes_bring_more_corrections_home(facts: Facts) -> None:
    took = [rates(facts, facts.keep, passes=passes, further=0)[0] for passes in (1, 3, 8)]
    assert took == sorted(took)
    assert took[0] < 0.5 < took[2]


def test_further_passes_are_made_while_too_many_are_wrong(facts: Facts) -> None:
    many = len(facts.requests) + 1
    took = [rates(facts, facts.keep, passes=1, further=further, few=many)[0] for further in (0, 2, 7)]
    assert took == sorted(took)
    assert took[0] < 0.5 < took[2]
    tolerant = rates(facts, facts.keep, passes=1, further=7, few=many, tolerated=0.5)[0]
    assert took[0] < tolerant <= took[2]
    for enough in ({"few": many, "tolerated": 1.0}, {"few": many - 1}):
        assert rates(facts, facts.keep, passes=1, further=7, **enough)[0] == took[0]


def test_it_is_prompts_that_further_passes_are_made_for(facts: Facts) -> None:
    """One wrong prompt among many right phrasings is one correction that did not take."""
    requests = [
        EditRequest(k.prompt, k.prompt, k.answer, equivalents=(k.prompt,) * 3, chat=False)
        for k in facts.keep[:8]
    ]
    first = facts.requests[0]
    requests.insert(3, dataclasses.replace(first, equivalents=(facts.keep[0].prompt,)))
    made: list[int] = []
    config = dataclasses.replace(CONFIG, passes=1, further=4, share=0.01, certainty=0.0)
    Malmen.untrained(facts.model, config).edit(
        facts.model, facts.tokenizer, requests, progress=lambda done, *_: made.append(done)
    )
    assert made == [1, 2, 3, 4, 5]


def test_what_is_right_already_is_not_asked_for(facts: Facts) -> None:
    """Every answer is the model's own: nothing is left to do, and no pass is made."""
    requests = [EditRequest(k.prompt, k.prompt, k.answer, chat=False) for k in facts.keep]
    sure = dataclasses.replace(CONFIG, certainty=0.0)
    made: list[int] = []
    delta = Malmen.untrained(facts.model, sure).edit(
        facts.model, facts.tokenizer, requests, progress=lambda done, *_: made.append(done)
    )
    assert not delta.shifts
    assert not made


def test_certainty_goes_on_after_the_answer_is_right(facts: Facts) -> None:
    """One that is right by a hair is asked for until it is sure, which other wordings profit from."""
    requests = [EditRequest(k.prompt, k.prompt, k.answer, chat=False) for k in facts.keep]
    demanding = dataclasses.replace(CONFIG, certainty=0.9999)
    assert Malmen.untrained(facts.model, demanding).edit(facts.model, facts.tokenizer, requests).shifts


def test_what_the_model_never_answered_is_not_asked_for(facts: Facts) -> None:
    """An earlier edit may have answered so, but a withdrawn answer must not come back."""
    foreign = [Kept(r.prompt, r.target, chat=False) for r in facts.requests[8:]]
    editor = Malmen.untrained(facts.model, CONFIG)
    alone, beside = (
        editor.edit(facts.model, facts.tokenizer, facts.requests[:8], keep) for keep in ([], foreign)
    )
    assert alone.digest() == beside.digest()


def test_an_opening_ends_where_it_says(facts: Facts) -> None:
    tokenizer = facts.tokenizer
    answer = "The capital is Lima, on the coast of the sea."

    def opening(so_much: str | None) -> str:
        (example,) = encode_openings(tokenizer, [Kept("Where?", answer, chat=False, opening=so_much)], 3)
        return str(tokenizer.decode(example.target_ids)).strip()

    assert opening("The capital is Lima").startswith("The capital is Lima")
    assert len(opening("The capital is Lima")) < len(answer)
    assert opening(answer).startswith(answer)
    assert opening(None) not in (opening("The capital is Lima"), opening(answer))
