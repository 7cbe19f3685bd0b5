"""What no rewording may do: lose words, turn a no into a yes, or break the sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rephrase import rephrase
from tasks.rewording.checks import is_sound
from tasks.rewording.grammar import word_set
from tasks.rewording.questions import read_question


def texts(prompt, *, chat=True):
    return {phrasing.text for phrasing in rephrase(prompt, chat=chat)}


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Who discovered radium and where?", "Who  ?"),
        ("Who discovered radium?", "Who discovered?"),
        ("What is 12 times 7?", "What is 1 times 7?"),
        ("What is -5 plus 7?", "What is 5 plus 7?"),
        ("Is Ada Byron the mother of Ada King?", "Is Ada Byron the mother of King?"),
        ("Who wrote Emma?", "Who wrote  Emma?"),
        ("Who wrote Emma?", "Who wrote Emma ?"),
        ("Q: Who wrote Emma? A:", "Q: Who wrote Emma? A:."),
        ("Who wrote Emma?", "Who wrote Emma?."),
    ],
)
def test_what_lost_a_word_or_has_stray_marks_is_not_sound(prompt, text):
    assert is_sound(prompt, prompt)
    assert not is_sound(prompt, text)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("When did World War II end?", "The date when World War II ended?"),
        ("How old is Tom Hanks?", "What is the age of Tom Hanks?"),
        ("Where was J.R.R. Tolkien born?", "The place of birth of J.R.R. Tolkien?"),
        ("What is the capital of Chad?", "Finish this sentence: The capital of Chad is ..."),
        ("Qui a écrit Emma ?", "1) Qui a écrit Emma ?"),
    ],
)
def test_another_form_of_a_verb_or_a_measure_loses_nothing(prompt, text):
    assert is_sound(prompt, text)


WORDS = sorted(word_set("who what is the of and Ada Byron 12 , . ? when not or you a name wrote did"))


@given(st.lists(st.sampled_from(WORDS)))
def test_every_rewording_of_any_words_is_sound(words):
    prompt = " ".join(words)
    assert all(is_sound(prompt, text) for text in texts(prompt))


@pytest.mark.parametrize(
    "prompt", ["Who invented the telephone and when?", "Who discovered radium and where?"]
)
def test_a_question_with_a_second_question_word_keeps_its_words(prompt):
    assert all("telephone" in text or "radium" in text for text in texts(prompt))


@pytest.mark.parametrize(
    "prompt", ["Q: What is 2+2?\nA:", "Q: Who wrote Hamlet? A:", "The capital of Togo is", "To be or not"]
)
def test_raw_text_ends_as_it_did(prompt):
    for phrasing in rephrase(prompt, chat=False):
        assert phrasing.text.endswith((prompt[-3:], "A:", "Answer:", "The answer is")), phrasing


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("Could you tell me the capital of Peru?", "What is the capital of Peru?"),
        ("Would you please name the largest ocean?", "What is the largest ocean?"),
        ("Do you know who wrote Hamlet?", "Who wrote Hamlet?"),
        ("I'd like to know the population of Malta.", "What is the population of Malta?"),
        ("Can you tell me when the war ended?", "Do you know when the war ended?"),
        ("Let me know if the shop is open.", "Do you know whether the shop is open?"),
        ("Can you explain photosynthesis?", "Explain photosynthesis."),
        ("Could you please translate 'dog' into Spanish?", "Translate 'dog' into Spanish."),
    ],
)
def test_what_a_request_is_for_is_put_another_way(prompt, inside):
    found = texts(prompt)
    assert inside in found or inside.replace("Do you know", "Could you tell me") in found
    assert not any("whether you" in text for text in found)


@pytest.mark.parametrize(
    "prompt", ["Are you a robot?", "Can you swim?", "Will you marry me?", "Do you like tea?"]
)
def test_nobody_else_is_asked_what_you_are(prompt):
    assert not any("whether" in text for text in texts(prompt))


@pytest.mark.parametrize(
    ("prompt", "clause"),
    [
        ("Which state does not border Canada?", "state does not border Canada"),
        ("Who did not sign the treaty?", "who did not sign the treaty"),
        ("Who was never president?", "who was never president"),
        ("What should never be mixed with water?", "what should never be mixed with water"),
    ],
)
def test_a_no_stays_where_it_was(prompt, clause):
    assert any(clause in text and text.startswith(("Can", "Could", "Do", "Would")) for text in texts(prompt))
    assert not any(
        wrong in text for text in texts(prompt) for wrong in ("not borders", "not signed", "never should")
    )


@pytest.mark.parametrize(
    "prompt",
    [
        "What state does Canada not border?",
        "What can dogs not eat?",
        "Which countries don't have an army?",
        "Why is Pluto not a planet?",
        "What is the capital of France and what is its population?",
        "What was the cause of the Great Fire, and how long did it last?",
        "What is the capital of Chad, Bongor or Abeche?",
        "Where was Mozart born and when?",
        "When was the Magna Carta signed and by whom?",
        "Where was the treaty that ended World War I signed?",
    ],
)
def test_what_cannot_be_moved_as_a_whole_is_not_read(prompt):
    assert read_question(prompt) is None


@pytest.mark.parametrize(
    ("prompt", "embedded"),
    [
        ("Which is heavier, gold or lead?", "which is heavier, gold or lead"),
        ("How old was Mozart when he died?", "how old Mozart was when he died"),
        ("How far is the Moon from the Earth?", "how far the Moon is from the Earth"),
        ("How much is 7 x 8?", "how much 7 x 8 is"),
        ("Whose idea was the Eiffel Tower?", "whose idea the Eiffel Tower was"),
        ("Who is the mayor of Portland, Oregon?", "who the mayor of Portland, Oregon is"),
        ("Which are the Baltic states?", "which the Baltic states are"),
    ],
)
def test_an_indirect_question_has_its_words_in_order(prompt, embedded):
    assert read_question(prompt).embedded == embedded


@pytest.mark.parametrize("prompt", ["Who were the Beatles?", "What is the heart?"])
def test_what_something_is_is_no_order_to_give_it(prompt):
    assert "imperative" not in {phrasing.family for phrasing in rephrase(prompt, chat=True)}


@pytest.mark.parametrize(
    "prompt",
    [
        "The capital of Togo, a country in West Africa, is",
        "The capital of Togo, a country in",
        "The Louvre, located in Paris, is",
        "The River Thames, which flows through London, is",
        "The man who wrote Hamlet was",
        "To be or not to be, that is",
    ],
)
def test_an_aside_inside_a_text_to_complete_is_left_there(prompt):
    assert "main_clause" not in {phrasing.family for phrasing in rephrase(prompt, chat=False)}


@pytest.mark.parametrize("prompt", ["What is the GDP of the U.S.", "What is the GDP of the U.S.?"])
def test_an_abbreviation_keeps_its_mark(prompt):
    assert read_question(prompt).embedded == "what the GDP of the U.S. is"


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [("What else is made of carbon?", "the else"), ("What is the population of St. John's?", "'s's")],
)
def test_no_noun_is_made_of_what_is_none(prompt, wrong):
    assert not any(wrong in text for text in texts(prompt))


def test_a_relative_clause_alone_is_made_a_main_clause():
    assert "Arctic Monkeys originated in" in texts("Arctic Monkeys, that originated in", chat=False)


def test_a_title_that_begins_like_an_order_is_none():
    assert not any("you show" in text for text in texts("Show Me a Hero debuted on", chat=False))


def test_a_word_with_its_own_spelling_gets_no_capital():
    assert not any("IPhone" in text or "Len(" in text for text in texts("What is iPhone's maker called?"))
    assert "len(x) in Python is what?" in texts("What is len(x) in Python?")
