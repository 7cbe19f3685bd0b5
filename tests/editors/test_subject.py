"""Where a request's subject ends: found by rule or given, at its last occurrence, in any rendering."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from editors.requests import EditRequest, render
from editors.subject import find_subjects, place, subject_span, with_any_subjects, with_subjects
from tests.tiny_models import build_tokenizer

TOKENIZER = build_tokenizer()


class WithoutOffsets:
    """The same tokenizer, as one that is not fast would be."""

    is_fast = False

    def __getattr__(self, name: str) -> Any:
        return getattr(TOKENIZER, name)

    def __call__(self, text: str, **settings: Any) -> Any:
        assert "return_offsets_mapping" not in settings
        return TOKENIZER(text, **settings)


def find(prompt: str, *equivalents: str, others: tuple[str, ...] = ()) -> str:
    requests = [EditRequest("this", prompt, "x", equivalents)]
    requests += [EditRequest(str(i), other, "x") for i, other in enumerate(others)]
    return find_subjects(requests)[0]


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("What is the capital of Egypt?", "Egypt"),
        ("What is Egypt's capital?", "Egypt"),
        ("Who painted the Mona Lisa?", "Mona Lisa"),
        ("The author of the novel Moby Dick is", "Moby Dick"),
        ("Where is the Gulf of Oran?", "Gulf of Oran"),
        ("Which river flows through Frankfurt am Main, and why?", "Frankfurt am Main"),
        ("Leonardo da Vinci was born in", "Leonardo da Vinci"),
        ("The mother tongue of Jean-Luc O'Brien is", "Jean-Luc O'Brien"),
        ('Who wrote "the old man and the sea"?', "the old man and the sea"),
        ("Who wrote “Emma” in England?", "Emma"),
        ("When was the T-34 built?", "T-34"),
        ("In which city do people speak of Łódź?", "Łódź"),
        ("How can I tell who I'm, and who wrote Emma?", "Emma"),
        ("When was Elizabeth I born?", "Elizabeth I"),
        ("Who won World War I?", "World War I"),
        ("Where did Francis I of France die?", "Francis I of France"),
    ],
)
def test_named_and_quoted_subjects_are_found(prompt: str, subject: str) -> None:
    assert find(prompt) == subject


def test_equivalents_tell_the_subject_from_other_names() -> None:
    prompt = "According to the Oxford Dictionary, what is the capital of Egypt?"
    assert find(prompt) == "Oxford Dictionary"
    assert find(prompt, "Name Egypt's capital.") == "Egypt"
    assert find("Egypt has its capital in", "The capital of Egypt is") == "Egypt"


def test_other_requests_tell_the_subject_from_what_all_ask() -> None:
    prompts = [f"According to the CIA Factbook, where is {place}?" for place in ("Oslo", "Bern", "Lima")]
    assert [find(p, others=tuple(q for q in prompts if q != p)) for p in prompts] == ["Oslo", "Bern", "Lima"]
    assert find("what is the capital of egypt", others=("what is the capital of peru",)) == "egypt"
    assert find("Egypt has its capital in", others=("Peru has its capital in",)) == "Egypt"


def test_what_cannot_be_found_is_asked_for_by_name() -> None:
    for prompt in ("what is the capital of egypt", "What do I see?", "...", "Egypt has its capital in"):
        with pytest.raises(ValueError, match=rf"in the prompt {re.escape(repr(prompt))}: give its `subject`"):
            find(prompt)
    with pytest.raises(ValueError, match=r"subject 'Peru' is not in its prompt 'Where is Egypt\?'"):
        find_subjects([EditRequest("b", "Where is Egypt?", "x", subject="Peru")])


def test_one_without_a_subject_does_not_keep_the_others_from_theirs() -> None:
    """The first two are found by what tells them apart; left with the subject found, each has it alone."""
    requests = [
        EditRequest("a", "what is the capital of egypt", "x"),
        EditRequest("b", "what is the capital of peru", "x"),
        EditRequest("c", "Where is Oslo?", "x", subject="Lima"),
        EditRequest("d", "what is the capital of", "x"),
        EditRequest("e", "Is Rome in Italy?", "x", subject="Rome"),
    ]
    found, without = with_subjects(requests)
    assert [(r.id, r.subject) for r in found] == [("a", "egypt"), ("b", "peru"), ("e", "Rome")]
    assert [request.id for request, _ in without] == ["c", "d"]
    for request, reason in without:
        assert repr(request.prompt) in reason
    assert [find_subjects([request])[0] for request in found] == ["egypt", "peru", "Rome"]
    assert with_subjects([]) == ([], [])


def test_where_a_subject_has_to_be_had_it_is_the_last_word() -> None:
    requests = [
        EditRequest("a", "What do I see?", "x"),
        EditRequest("b", "Where is Oslo?", "x"),
        EditRequest("c", "Where is Oslo?", "x", subject="Lima"),
        EditRequest("d", "...", "x"),
    ]
    assert [r.subject for r in with_any_subjects(requests)] == ["see", "Oslo", "Oslo", None]
    assert with_any_subjects([]) == []


def test_a_given_subject_is_taken_as_it_is() -> None:
    assert find_subjects([EditRequest("a", "Is Rome in Italy?", "x", subject="Rome")]) == ["Rome"]


def test_the_last_whole_word_in_exact_case_is_meant() -> None:
    assert subject_span("Peru, Perugia and peru", "Peru") == (0, 4)
    assert subject_span("peru, then Peru, then Perugia", "Peru") == (11, 15)
    assert subject_span("Perugia", "Peru") == (0, 4)
    assert subject_span("the new\n york", "New York") == (4, 13)
    assert subject_span("Oslo", "  ") is None


@pytest.mark.parametrize("tokenizer", [TOKENIZER, WithoutOffsets()], ids=["offsets", "no offsets"])
@pytest.mark.parametrize("chat", [True, False])
def test_a_chat_template_is_not_searched(tokenizer: Any, chat: bool) -> None:
    """The template's own words may be the subject's."""
    placed = place(tokenizer, "Which user is an assistant here?", "none", "assistant", chat=chat)
    assert placed is not None
    read = TOKENIZER.decode(placed.example.prompt_ids[: placed.position + 1])
    assert read.endswith("is an assistant")
    assert place(tokenizer, "Which one?", "none", "assistant", chat=chat) is None


words = st.text(st.characters(categories=("Lu", "Ll", "Lo", "Nd")), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(words, max_size=4),
    subject=st.lists(words, min_size=1, max_size=3),
    after=st.lists(words, max_size=4),
    chat=st.booleans(),
    mark=st.sampled_from(["?", "", ".", "'s", " "]),
)
def test_a_subject_is_placed_at_its_last_token(
    before: list[str], subject: list[str], after: list[str], chat: bool, mark: str
) -> None:
    name = " ".join(subject)
    prompt = " ".join([*subject, *before, name + mark, *after])
    span = subject_span(prompt, name)
    assert span is not None
    assume(prompt == prompt.strip() or not chat)
    placed = place(TOKENIZER, prompt, "x", name, chat=chat)
    assert placed is not None
    assert placed == place(WithoutOffsets(), prompt, "x", name, chat=chat)  # type: ignore[arg-type]
    rendered = render(TOKENIZER, prompt, chat=chat)
    end = rendered.rindex(prompt) + span[1]
    ids = placed.example.prompt_ids
    # Up to and with that token everything of the subject has been read; before it something was missing.
    assert TOKENIZER.decode(ids[: placed.position + 1]).startswith(rendered[:end])
    assert not TOKENIZER.decode(ids[: placed.position]).startswith(rendered[:end])
