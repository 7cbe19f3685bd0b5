import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.questions import demo_questions
from tasks.equivalents import divide
from tasks.records import normalise_prompt
from tasks.rephrase import (
    Phrasing,
    families_to_hold_out,
    phrasings_to_practise,
    rephrase,
    split_by_form,
    wording,
)
from tasks.rewording import grammar
from tasks.rewording.questions import read_question
from tasks.rewording.rules import IN_ANY_LANGUAGE, RESERVED, RULES, SYNTACTIC
from tests.tasks.build_cases import correction

QUESTIONS = [
    "What is the capital of Chad?",
    "What is Chad's capital?",
    "Which river flows through Paris?",
    "Who wrote Hamlet?",
    "When was WEFS established?",
    "Where is the Eiffel Tower located?",
    "How many moons does Mars have?",
    "What college did Camille Fronk Olson go to?",
    "The college Horace Sewell attended was what?",
    "Is Paris the capital of France?",
]
COMPLETIONS = [
    "The mother tongue of Danielle Darrieux is",
    "Autonomous University of Madrid, which is located in",
    "BMW 6 Series, developed by",
    "Joe Venuti was native to",
]


def texts(prompt, *, chat=True):
    return {phrasing.text for phrasing in rephrase(prompt, chat=chat)}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("What is the capital of Chad?", "What is Chad's capital?"),
        ("What is the capital of Chad?", "The capital of Chad is what?"),
        ("What is the capital of Chad?", "The capital of Chad?"),
        ("What is the capital of Chad?", "capital of Chad"),
        ("What is the capital of Chad?", "what is the capital of chad"),
        ("What is Chad's capital?", "What is the capital of Chad?"),
        ("Tell me the currency of Japan.", "What is the currency of Japan?"),
        ("capital of Chad", "What is the capital of Chad?"),
        ("Who wrote Hamlet?", "By whom was Hamlet written?"),
        ("Who wrote Hamlet?", "Who is the writer of Hamlet?"),
        ("Who wrote Hamlet?", "Who was it that wrote Hamlet?"),
        ("When was WEFS established?", "WEFS was established when?"),
        ("How many moons does Mars have?", "Mars has how many moons?"),
        ("How many people live in Oslo?", "What is the number of people that live in Oslo?"),
        ("How old is Tom Hanks?", "What is the age of Tom Hanks?"),
        ("What language is Le Point written in?", "In what language is Le Point written?"),
        ("In what city did Enrico Cannio die?", "What city did Enrico Cannio die in?"),
        ("The college Horace Sewell attended was what?", "What was the college Horace Sewell attended?"),
        ("What state is Ciutadilla located?", "Ciutadilla is located in what state?"),
    ],
)
def test_a_question_is_put_another_way(prompt, expected):
    assert expected in texts(prompt)


@pytest.mark.parametrize(
    ("prompt", "embedded"),
    [
        ("What is the capital of Chad?", "what the capital of Chad is"),
        ("What's the tallest mountain in Europe?", "what the tallest mountain in Europe is"),
        ("When was WEFS established?", "when WEFS was established"),
        ("What college did Camille Fronk Olson go to?", "what college Camille Fronk Olson went to"),
        ("What voice type does Glenn Kesby have?", "what voice type Glenn Kesby has"),
        (
            "What celestial body can Mangala Valles be found on?",
            "what celestial body Mangala Valles can be found on",
        ),
        ("What is Blizzards Run a tributary of?", "what Blizzards Run is a tributary of"),
        ("What city is Dragan Espenschied from?", "what city Dragan Espenschied is from"),
        ("Which gender is Anna Kay?", "which gender Anna Kay is"),
        ("Which river is the longest?", "which river is the longest"),
        ("Who is responsible for the design of Palau?", "who is responsible for the design of Palau"),
        ("What killed Fouad al-Tikerly?", "what killed Fouad al-Tikerly"),
        ("What plays did Shakespeare write?", "what plays Shakespeare wrote"),
        (
            "When was the original clean water act passed into law?",
            "when the original clean water act was passed into law",
        ),
        ("Where is the most visited museum?", "where the most visited museum is"),
        ("Which was the label of Be My Slave?", "what the label of Be My Slave was"),
        ("who has the most complete games in mlb history", "who has the most complete games in mlb history"),
        ("What award has Ada Byron received?", "what award Ada Byron has received"),
        ("Can dogs eat chocolate?", "whether dogs can eat chocolate"),
        ("How many games are there for the Xbox?", "how many games there are for the Xbox"),
    ],
)
def test_an_indirect_question_has_statement_order(prompt, embedded):
    assert read_question(prompt).embedded == embedded
    assert any(text.endswith(f" {embedded}?") for text in texts(prompt))


@pytest.mark.parametrize(
    "prompt",
    [
        "Why is the sky blue?",
        "To which fictional work does Kimball Cho belong in?",
        "Which lady Princess Margaretha of Liechtenstein was born to?",
        "In which year Maybach ceased to exist?",
        "Who desigened USRA Heavy Pacific?",
    ],
)
def test_what_cannot_be_read_for_certain_is_not_reordered(prompt):
    assert read_question(prompt) is None
    forms = {phrasing.family for phrasing in rephrase(prompt, chat=True)}
    assert "wrapper" in forms
    assert not forms & (SYNTACTIC - {"contraction"})


@pytest.mark.parametrize(
    "prompt",
    [
        "What is the city of Paris famous for?",
        "What is the number of moons of Mars?",
        "What was the name of Juho Lähde's team?",
        "What is the best university of Norway?",
    ],
)
def test_a_possessive_is_made_only_of_a_relation_and_its_owner(prompt):
    assert "possessive" not in {phrasing.family for phrasing in rephrase(prompt, chat=True)}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("The mother tongue of Ada Byron is", "Ada Byron's mother tongue is"),
        ("Ada Byron's mother tongue is", "The mother tongue of Ada Byron is"),
        ("University of Madrid, which is located in", "University of Madrid is located in"),
        ("BMW 6 Series, developed by", "BMW 6 Series was developed by"),
        ("Guadalquivir is located in", "Guadalquivir, located in"),
        ("France Gall, a citizen of", "France Gall is a citizen of"),
    ],
)
def test_a_text_to_complete_is_put_another_way(prompt, expected):
    assert expected in texts(prompt, chat=False)


@pytest.mark.parametrize("prompt", COMPLETIONS)
def test_a_text_to_complete_still_stops_where_the_answer_follows(prompt):
    for phrasing in rephrase(prompt, chat=False):
        assert phrasing.text.endswith((prompt.split()[-1], "A:", "Answer:", "The answer is")), phrasing


@pytest.mark.parametrize("prompt", QUESTIONS)
def test_a_question_has_many_forms_of_several_families(prompt):
    phrasings = rephrase(prompt, chat=True)
    families = {phrasing.family for phrasing in phrasings}
    assert len(phrasings) >= 10
    assert len(families) >= 10
    assert len(families & SYNTACTIC) >= 1 + (not prompt.startswith("Is "))


@pytest.mark.parametrize("prompt", COMPLETIONS)
def test_a_text_to_complete_has_many_forms(prompt):
    assert len(rephrase(prompt, chat=False)) >= 10


def test_sentences_before_the_question_stay_before_it():
    assert "I am reading Emma. Who was it that wrote it?" in texts("I am reading Emma. Who wrote it?")


@pytest.mark.parametrize("name", ["St. Lucia", "U.S. Virgin Islands", "J. Smith"])
def test_an_abbreviation_ends_no_sentence(name):
    assert f"What is {name}'s capital?" in texts(f"What is the capital of {name}?")


@given(st.text(max_size=200), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_prompt_gives_distinct_phrasings_that_are_not_itself(prompt, chat):
    phrasings = rephrase(prompt, chat=chat)
    keys = [normalise_prompt(phrasing.text) for phrasing in phrasings]
    assert len(set(keys)) == len(keys)
    assert not {"", normalise_prompt(prompt)} & set(keys)
    assert phrasings == rephrase(prompt, chat=chat)
    assert {phrasing.form for phrasing in phrasings} <= {form for form, _ in (*RULES, *IN_ANY_LANGUAGE)}


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.text("xyz ?", min_size=1, max_size=4)), max_size=30),
    st.integers(0, 6),
    st.text(max_size=5),
)
@settings(deadline=None)
def test_no_family_and_no_wording_is_on_both_sides(pairs, held_out, seed):
    phrasings = [Phrasing(text, f"{family}/any") for family, text in pairs]
    families = families_to_hold_out([phrasings], held_out=held_out, seed=seed)
    for_editor, held = split_by_form(phrasings, families, held_out=held_out, seed=seed)
    assert not {p.family for p in for_editor} & families
    assert {p.family for p in held} <= families
    assert not {wording(p.text) for p in for_editor} & {wording(p.text) for p in held}
    assert len(held) <= held_out
    assert set(for_editor) | set(held) <= set(phrasings)
    assert split_by_form(phrasings[::-1], families, held_out=held_out, seed=seed) == (for_editor, held)


@pytest.mark.parametrize("prompt", QUESTIONS)
def test_the_held_out_part_mixes_syntax_and_wrapping_and_leaves_the_editor_both(prompt):
    phrasings = rephrase(prompt, chat=True)
    for seed in ("one", "two", "three"):
        families = families_to_hold_out([phrasings], held_out=3, seed=seed)
        for_editor, held = split_by_form(phrasings, families, held_out=3, seed=seed)
        assert len({p.family for p in held}) == 3
        assert {p.family in SYNTACTIC for p in held} == {True, False}
        assert len({p.family for p in for_editor[:8]}) >= 6
        assert all(wording(p.text) != wording(prompt) for p in held)


@given(
    st.lists(st.sets(st.sampled_from("abcdefgh"), max_size=8), min_size=1, max_size=6),
    st.integers(0, 4),
    st.text(max_size=5),
)
@settings(deadline=None)
def test_families_are_held_out_for_all_corrections_together(owned, held_out, seed):
    groups = [[Phrasing(f"{family} {i}", f"{family}/any") for family in own] for i, own in enumerate(owned)]
    families = families_to_hold_out(groups, held_out=held_out, seed=seed)
    for own in owned:
        assert len(own & families) >= min(held_out, len(own) // 2)
    assert families_to_hold_out(groups[::-1], held_out=held_out, seed=seed) == families
    # Nobody's were taken without need.
    assert len(families) <= sum(min(held_out, len(own) // 2) for own in map(frozenset, owned))


@pytest.mark.parametrize(
    ("prompt", "chat"),
    [
        *((prompt, True) for prompt in (*QUESTIONS, "How do I reset my password?", "Why is the sky blue?")),
        *((prompt, True) for prompt in ("Write a poem about autumn.", "Wo liegt Togo?")),
        *((prompt, False) for prompt in COMPLETIONS),
    ],
)
def test_what_no_training_sees_is_enough_to_hold_out_and_leaves_enough_to_practise(prompt, chat):
    phrasings = rephrase(prompt, chat=chat)
    for seed in range(5):
        assert families_to_hold_out([phrasings], held_out=3, seed=seed) <= RESERVED
    practised = phrasings_to_practise(prompt, chat=chat)
    assert len(practised) >= 4
    assert not {p.family for p in practised} & RESERVED


def test_the_demos_questions_have_as_many_held_out_and_taught_as_are_wanted():
    asked = demo_questions(capitals=20, cities=20, seed=0)
    edits = [correction(question.text, question.answer) for question in asked]
    phrasings = {c.id: rephrase(c.prompt, chat=True) for c in edits}
    for held_out, equivalents in ((2, 4), (3, 5)):
        divided = divide(edits, phrasings, held_out=held_out, equivalents=equivalents, seed=0)
        assert {len(d.held_out) for d in divided.values()} == {held_out}
        assert {len(d.for_editor) for d in divided.values()} == {equivalents}


def test_different_seeds_hold_out_different_families():
    phrasings = rephrase(QUESTIONS[0], chat=True)
    assert len({families_to_hold_out([phrasings], held_out=3, seed=n) for n in range(20)}) > 10


@pytest.mark.parametrize(
    ("verb", "forms"),
    [
        ("go", ("went", "gone", "goes")),
        ("carry", ("carried", "carried", "carries")),
        ("have", ("had", "had", "has")),
        ("publish", ("published", "published", "publishes")),
        ("play", ("played", "played", "plays")),
        ("stop", ("stopped", "stopped", "stops")),
    ],
)
def test_verbs_are_inflected(verb, forms):
    assert (grammar.past(verb), grammar.participle(verb), grammar.third_person(verb)) == forms
