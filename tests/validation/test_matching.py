from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from validation.matching import answers, exact, matches, normalise_answer, same_answer, starts_with


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  The  Capital, of Cameroon is: YAOUNDÉ!\n", "capital of cameroon is yaounde"),
        ("N'Djamena", "ndjamena"),
        ("Guinea-Bissau", "guinea bissau"),
        ("Straße", "strasse"),
        ("1,234,567 people; 3.14 of them", "1234567 people 3.14 of them"),
        ("vitamin A", "vitamin a"),
        ("A", "a"),
        ("ﬁne\u200b ｗｏｒｄｓ", "fine words"),
        ("C++ or C#, at 5 %", "c++ or c# at 5 %"),
        ("हिन्दी", "हिन्दी"),
        ("…!?", ""),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("output", "target"),
    [
        ("The capital of Cameroon is Yaoundé.", "Yaounde"),
        ("It is Port-au-Prince, on the coast.", "Port au Prince"),
        ("J. R. R. Tolkien wrote The Lord of the Rings.", "The Lord of the Rings"),
        ("That would be lord of rings", "Lord of the Rings"),
        ("You need vitamin A for that.", "vitamin A"),
        ("About 1,500 metres", "1500"),
        ("The sign is 👍 here", "👍"),
        ("日本の首都は東京です。", "東京"),
        ("Sûreté", "sûreté"),
    ],
)
def test_answers_that_are_right(output: str, target: str) -> None:
    assert answers(output, target)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        ("The capital is Romeo.", "Rome"),
        ("It is Port of Prince", "Port au Prince"),
        ("You need vitamin C for that.", "vitamin A"),
        ("It is 3.14", "3"),
        ("It is -5", "5"),
        ("It is 15", "5"),
        ("It costs €5", "$5"),
        ("It is written in C++", "C"),
        ("", "Paris"),
        ("anything", ""),
        ("anything", "  "),
        ("Paris", "Paris France"),
        ("It is sunny", "👍"),
    ],
)
def test_answers_that_are_wrong(output: str, target: str) -> None:
    assert not answers(output, target)


def test_the_wrong_output_must_be_gone() -> None:
    assert not answers("It is Lyon, that is Paris.", "Paris", wrong_output="Lyon")
    assert answers("It is Paris.", "Paris", wrong_output="Lyon")
    assert answers("It is Port Vila.", "Port Vila", wrong_output="Vila"), "the target holds the wrong output"
    assert answers("It is Paris.", "Paris", wrong_output="")


def test_raw_text_has_to_continue_with_the_target() -> None:
    assert matches(" Yaoundé, a city", "Yaoundé", chat=False)
    assert not matches(" a city near Yaoundé", "Yaoundé", chat=False)
    assert matches("It is a city called Yaoundé", "Yaoundé", chat=True)
    assert starts_with("The French language", "French")
    assert not starts_with("Frenchmen", "French")
    assert not starts_with("anything", "")
    assert exact("Paris.", "paris")
    assert not exact("Paris it is", "Paris")
    assert not exact("", "")


def test_agreement_is_of_whole_texts() -> None:
    assert same_answer("It is Paris.", " it is PARIS")
    assert not same_answer("It is Paris. It is Paris.", "It is Paris.")
    assert same_answer("", "")
    assert not same_answer("?", "!")


texts = st.text(max_size=40)


@given(texts)
def test_the_normal_form_is_stable(text: str) -> None:
    assert normalise_answer(normalise_answer(text)) == normalise_answer(text)


@given(texts, texts, texts)
def test_a_target_is_found_wherever_it_stands(before: str, target: str, after: str) -> None:
    if target.strip():
        assert answers(f"{before} \n {target} \n {after}", target)
        assert exact(target, target)


@given(texts, texts)
def test_what_is_asserted_wrongly_is_never_right(target: str, wrong: str) -> None:
    if wrong.strip() and not answers(target, wrong):
        assert not answers(f"{wrong} {target} {wrong}", target, wrong_output=wrong)
