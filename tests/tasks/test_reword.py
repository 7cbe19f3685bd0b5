from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.embedding import has_encoder, open_encoder
from tasks.neighbours import keeps_names, without_names
from tasks.records import Correction, State, correction_id
from tasks.rephrase import Phrasing, wording
from tasks.reword import Bounds, keep_meaning, propose
from tasks.rewording.examples import forms, pairs
from tasks.rewording.rules import SYNTACTIC
from tasks.rewording.wrappers import FAMILIES


def correction(prompt, target="The capital of Chad is N'Djamena.", wrong="It is Bongor."):
    return Correction(
        id=correction_id(prompt, target, chat=True),
        model_name="demo",
        prompt=prompt,
        wrong_output=wrong,
        desired_output=target,
        chat=True,
        state=State.ACCEPTED,
        first_reported_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


CHAD = correction("What is the capital of Chad?")


def by_words(texts):
    """Sentences mean what the stems of their words say."""
    vectors = np.zeros((len(texts), 512), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in wording(text).split() or ["nothing"]:
            vectors[row, sum(map(ord, word[:4])) % 512] += 1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def kept(texts, *, answers=None, bounds=None, embed=by_words):
    proposed = {CHAD.id: [Phrasing(text, f"indirect/{i}") for i, text in enumerate(texts)]}
    said = answers or {}

    def answer(prompts, chat):
        assert chat
        return [said.get(prompt, "The capital is Bongor.") for prompt in prompts]

    found = keep_meaning([CHAD], proposed, embed, answer, bounds or Bounds(least=0.3, nameless=0.3))
    return [p.text for p in found[CHAD.id]]


def test_the_model_is_shown_each_form_and_its_first_line_is_the_rewording():
    shown = []

    def generate(texts):
        shown.extend(texts)
        return [' "Name the capital of Chad."\nPrompt: another', "", "\n"][: len(texts)]

    found = propose(["What is the capital of Chad?", "Who wrote Hamlet?", "Hi."], generate, chat=True)
    assert [p.form for p in found[0]] == [f"{form}_by_model" for form in forms(completion=False)]
    assert {p.text for p in found[0]} == {"Name the capital of Chad."}
    assert found[1:] == [[], []]
    assert all(text.endswith("\nReworded:") for text in shown)
    begun = propose(["The capital of Chad is"], lambda texts: ["Chad's capital is"] * len(texts), chat=False)
    assert [p.family for p in begun[0]] == ["nominal", "passive", "topic", "dialogue"]


@pytest.mark.parametrize("completion", [True, False])
def test_the_examples_themselves_are_rewordings(completion):
    for form in forms(completion=completion):
        assert form.partition("/")[0] in SYNTACTIC | set(FAMILIES)
        for prompt, reworded in pairs(form, completion=completion):
            assert wording(prompt) != wording(reworded)
            assert keeps_names(prompt, reworded), (prompt, reworded)


@pytest.mark.parametrize(
    "bad",
    [
        "what is the capital of Chad",
        "What is the capital of Mali?",
        "What is the capital of Chad in 1990?",
        "Is Bongor the capital of Chad?",
        "The capital of Chad is N'Djamena?",
        "Tell me about rivers and Chad, and about the fish that live there, if any do.",
        "Which capital has Chad, " + "please, " * 20 + "tell me?",
    ],
)
def test_what_is_a_copy_or_names_others_or_gives_an_answer_or_strays_is_left_out(bad):
    good = "Name the capital of Chad."
    assert kept([bad, good]) == [good]


def test_of_two_that_are_alike_one_is_kept():
    alike = ["Name the capital of Chad.", "Name the capital of Chad, please!", "Chad has what capital?"]
    assert len(kept(alike, bounds=Bounds(least=0.3, nameless=0.3, apart=0.9))) == 2


def test_what_is_answered_otherwise_is_left_out():
    texts = ["Name the capital of Chad.", "Chad has what capital?"]
    assert kept(texts, answers={texts[1]: "Lakes mostly, fish and some rice."}) == texts[:1]
    assert kept(texts, answers={CHAD.prompt: "Bongor.", texts[1]: "It is Bongor, of course."}) == texts


def test_a_correction_without_rewordings_is_asked_of_nobody():
    def answer(prompts, chat):
        raise AssertionError("there is nothing to ask")

    assert keep_meaning([CHAD], {}, by_words, answer) == {CHAD.id: []}


def test_many_corrections_are_judged_each_for_itself_in_a_few_calls_of_the_encoder():
    places = ["Chad", "Mali", "Peru"]
    many = [correction(f"What is the capital of {place}?", f"{place}ville", "No.") for place in places]
    written = {
        c.id: [Phrasing(f"Name the capital of {place}{end}", "indirect/0") for end in (".", ", you river!")]
        for c, place in zip(many[:2], places, strict=False)
    }
    calls = []

    def embed(texts):
        calls.append(len(texts))
        return by_words(texts)

    def judged(corrections):
        bounds = Bounds(least=0.3, nameless=0.3, apart=0.9)
        return keep_meaning(corrections, written, embed, lambda prompts, _: ["It is."] * len(prompts), bounds)

    apart = {id_: found for c in many for id_, found in judged([c]).items()}
    assert [len(apart[c.id]) for c in many] == [2, 2, 0]
    calls.clear()
    assert judged(many) == apart
    assert len(calls) <= 3
    assert judged([]) == {}


@given(st.lists(st.text(max_size=40), max_size=6))
def test_whatever_a_model_writes_what_is_kept_is_new_and_names_the_same(texts):
    found = kept([*texts, "Name the capital of Chad."])
    assert "Name the capital of Chad." in found
    for text in found:
        assert keeps_names(CHAD.prompt, text)
        assert wording(text) != wording(CHAD.prompt)
    assert len(set(map(wording, found))) == len(found)


def test_names_and_numbers_are_struck_out_for_what_is_asked_of_them():
    prompt = "Who was the mother of Anna Maria Berg in 1912?"
    assert without_names(prompt, prompt) == "Who was the mother of X in X?"
    assert without_names("Anna Maria Berg's father?", prompt) == "X's father?"


@pytest.mark.skipif(not has_encoder(), reason="the extra `meaning` is not installed")
def test_the_packaged_encoder_tells_another_question_about_the_same_name():
    texts = ["Name the capital of Chad.", "Chad has which currency?", "What is the population of Chad?"]
    assert kept(texts, bounds=Bounds(), embed=open_encoder()) == texts[:1]
