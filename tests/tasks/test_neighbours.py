import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.neighbours import Hits, meaning_search, near_and_far, restated, restates, tfidf_search

EDITS = ["What is the capital of Sudan?", "Who wrote Hamlet?"]
TRAFFIC = [
    "What is the capital of South Sudan?",
    "What is the capital of Norway?",
    "Who wrote Macbeth?",
    "How do I boil an egg?",
    "Write a poem about autumn leaves.",
    "What is the currency of Sudan?",
]


def test_near_prompts_resemble_a_correction_and_far_ones_do_not():
    found = near_and_far(EDITS, TRAFFIC, near=2, far=2, seed=0)
    near, far = [TRAFFIC[i] for i in found.near], [TRAFFIC[i] for i in found.far]
    assert near[0] == "What is the capital of South Sudan?"
    assert "Who wrote Macbeth?" in near
    assert set(far) == {"How do I boil an egg?", "Write a poem about autumn leaves."}


@pytest.mark.parametrize(
    "again",
    [
        "what is the capital of sudan",
        "Sudan's capital?",
        "Tell me the capital of Sudan, please.",
        "What is the capital city of Sudan?",
        "who wrote hamlet???",
        "Do you know who wrote Hamlet?",
    ],
)
def test_another_wording_of_a_correction_is_never_held_still(again):
    found = near_and_far(EDITS, [*TRAFFIC, again], near=5, far=5, seed=0)
    assert len(TRAFFIC) not in {*found.near, *found.far}
    assert np.isnan(found.closeness[-1])


@pytest.mark.parametrize(
    ("edit", "other"),
    [
        ("What is the capital of Sudan?", "What is the capital of South Sudan?"),
        ("What is the capital of South Sudan?", "What is the capital of Sudan?"),
        ("Where was Ada Lovelace born?", "When was Ada Lovelace born?"),
        ("What is the capital of Chad?", "What is the currency of Chad?"),
        ("Who wrote Hamlet?", "Who wrote Macbeth?"),
    ],
)
def test_a_hard_negative_is_no_restatement(edit, other):
    assert restated([edit], [other]) == set()


def test_excluded_prompts_are_compared_by_their_words():
    found = near_and_far(EDITS, TRAFFIC, near=5, far=5, seed=0, exclude=["how do i boil an egg"])
    assert TRAFFIC.index("How do I boil an egg?") not in {*found.near, *found.far}


@given(
    st.permutations([*TRAFFIC, *TRAFFIC[:2], "  how do I BOIL an egg? "]),
    st.integers(0, 5),
    st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_the_choice_ignores_order_and_repeats(traffic, near, far):
    def chosen(prompts):
        found = near_and_far(EDITS, prompts, near=near, far=far, seed=3)
        assert not set(found.near) & set(found.far)
        return [[prompts[i].split()[-1].casefold() for i in part] for part in (found.near, found.far)]

    assert chosen(traffic) == chosen(sorted(traffic))


def test_nothing_to_choose_from_or_for():
    assert near_and_far(EDITS, [], near=3, far=3, seed=0).near == []
    found = near_and_far([], TRAFFIC, near=3, far=3, seed=0)
    assert found.near == []
    assert len(found.far) == 3


def test_another_index_can_take_the_place_of_the_search():
    def last_first(queries, candidates, k):
        order = np.arange(len(candidates))[::-1][:k]
        nearest = np.tile(order, (len(queries), 1))
        return Hits(nearest, np.ones(nearest.shape), np.arange(len(candidates), dtype=float))

    found = near_and_far(EDITS, TRAFFIC, near=1, far=1, seed=0, search=last_first)
    assert [TRAFFIC[i] for i in found.near] == [max(TRAFFIC, key=str.casefold)]
    assert [TRAFFIC[i] for i in found.far] == [min(TRAFFIC, key=str.casefold)]


def test_chunks_change_nothing(monkeypatch):
    candidates = [f"prompt {word} number {n}" for n, word in enumerate(["river", "moon", "song"] * 20)]
    whole = tfidf_search(EDITS, candidates, 7)
    monkeypatch.setattr("tasks.neighbours._MOST_ROWS", 4)
    parts = tfidf_search(EDITS, candidates, 7)
    np.testing.assert_array_equal(whole.nearest, parts.nearest)
    np.testing.assert_array_equal(whole.closeness, parts.closeness)


def test_prompts_without_words_are_searched_without_failing():
    assert tfidf_search(["???"], ["!!!", "..."], 5).nearest.shape == (1, 2)


def test_what_is_refused_is_neither_near_nor_far_and_others_take_its_place():
    def refuse(edit, index, similarity):
        assert 0 <= similarity <= 1.0001
        return "South" in TRAFFIC[index] or (edit == 1 and "Macbeth" in TRAFFIC[index])

    found = near_and_far(EDITS, TRAFFIC, near=1, far=9, seed=0, refuse=refuse)
    assert [TRAFFIC[i] for i in found.near_to] == ["What is the capital of Norway?"]
    chosen = {TRAFFIC[i] for i in (*found.near, *found.far)}
    assert not chosen & {"What is the capital of South Sudan?", "Who wrote Macbeth?"}
    assert np.isnan(found.closeness[0])
    assert found.near_to == {TRAFFIC.index("What is the capital of Norway?"): [0, 1]}


def test_neighbours_by_meaning_need_no_word_in_common():
    meaning = {"Hamlet": (1, 0), "Macbeth": (0.9, 0.436), "bard": (0.8, 0.6), "Sudan": (0, 1)}

    def embed(texts):
        vectors = [next((v for w, v in meaning.items() if w in text), (-0.6, -0.8)) for text in texts]
        return np.array(vectors, dtype=np.float32)

    prompts = ["Some other play by the bard", "How do I boil an egg?", "Who wrote Macbeth?"]
    found = near_and_far(EDITS[1:], prompts, near=2, far=1, seed=0, search=meaning_search(embed))
    assert found.near == [2, 0]
    assert found.far == [1]


@pytest.mark.parametrize(
    ("edit", "other", "similarity", "same"),
    [
        ("What is the capital of Sudan?", "Sudan's seat of government is which city?", 0.93, True),
        ("What is the capital of Sudan?", "Sudan's seat of government is which city?", 0.8, False),
        ("What is the capital of Sudan?", "Which city is the capital of South Sudan?", 0.95, False),
        ("What is the capital of South Sudan?", "Which city is the capital of Sudan?", 0.95, False),
        ("What is the capital of Sudan?", "which town governs sudan", 0.95, True),
        ("When was Ada Lovelace born?", "Where was Ada Lovelace born?", 0.97, False),
        ("When was Ada Lovelace born?", "What is Ada Lovelace's date of birth?", 0.94, True),
    ],
)
def test_what_means_the_same_restates_unless_names_or_question_words_differ(edit, other, similarity, same):
    assert restates(edit, other, similarity) is same
