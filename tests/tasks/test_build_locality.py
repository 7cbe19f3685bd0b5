"""What is held still: which traffic, in which role, with whose answer."""

import numpy as np
import pytest

from tasks.build import EditDataset, build
from tasks.records import State
from tests.tasks.build_cases import CORRECTIONS, PLACES, TRAFFIC, correction, traffic


def test_locality_is_unflagged_traffic_in_two_roles_and_two_kinds(tmp_path):
    locality = build(CORRECTIONS, TRAFFIC, tmp_path, seed=0).locality
    prompts = set(locality["prompt"])
    assert not prompts & {c.prompt for c in CORRECTIONS}
    assert {f"What is the capital of {place}?" for place in PLACES[5:]} <= prompts
    kinds = locality.set_index("prompt")["kind"]
    assert kinds["What is the capital of Cuba?"] == "near"
    assert kinds["How do I cook rice?"] == "far"
    assert set(locality["role"]) == {"editor", "gate"}
    assert locality.set_index("prompt")["confirmed"]["What is the capital of Cuba?"]


def test_what_reporters_call_equivalent_is_held_still_by_nobody(tmp_path):
    told = correction("What is the capital of Chad?", equivalents=("Where does the government of Chad sit?",))
    records = [traffic("where does the government of chad sit"), traffic("Who wrote Emma?")]
    named = correction("What is the capital of Peru?", locality=("Where does the government of Chad sit?",))
    built = build(
        [told, named], records, tmp_path, seed=0, references=lambda prompts, _: ["x" for _ in prompts]
    )
    assert list(built.locality["prompt"]) == ["Who wrote Emma?"]


def test_a_locality_row_keeps_its_role_when_traffic_grows(tmp_path):
    before = build(CORRECTIONS, TRAFFIC, tmp_path, seed=0).locality.set_index("id")["role"].to_dict()
    more = [*TRAFFIC, *(traffic(f"Who painted picture {n}?") for n in range(50))]
    grown = build(CORRECTIONS, more, tmp_path, seed=0)
    after = grown.locality.set_index("id")["role"].to_dict()
    assert {key: after[key] for key in before if key in after} == {
        key: role for key, role in before.items() if key in after
    }


@pytest.mark.parametrize(
    ("state", "held", "kept"),
    [
        (State.NEEDS_ANSWER, False, False),
        (State.CONFLICTING, False, False),
        (State.FAILED, False, False),
        (State.QUARANTINED, False, False),
        (State.RETIRED, False, True),
        # The champion answers as corrected, and that is what was withdrawn.
        (State.RETIRED, True, False),
        (State.ALREADY_CORRECT, False, True),
    ],
)
def test_the_prompt_of_an_open_complaint_is_held_still_by_nobody(tmp_path, state, held, kept):
    other = correction("What is the capital of Cuba?", None, state=state)
    records = [
        traffic("what is the capital of cuba"),
        traffic("Cuba's capital?"),
        traffic("Who wrote Hamlet?"),
    ]
    ids = [other.id] if held else []
    built = build([CORRECTIONS[0], other], records, tmp_path, seed=0, held=ids)
    assert len(built.edits) == 1
    assert ("Cuba's capital?" in set(built.locality["prompt"])) is kept
    assert "Who wrote Hamlet?" in set(built.locality["prompt"])


def test_of_several_answers_the_confirmed_one_is_the_reference(tmp_path):
    records = [traffic("Who wrote Emma?", text) for text in ("Bronte", "Bronte", "Jane")]
    (row,) = build([], records, tmp_path, seed=0).locality.to_dict("records")
    assert (row["reference"], row["confirmed"]) == ("Bronte", False)
    records.append(traffic("who wrote emma?", "Austen", confirmed=True))
    (row,) = build([], records, tmp_path, seed=0).locality.to_dict("records")
    assert (row["reference"], row["confirmed"]) == ("Austen", True)


def test_an_answer_that_says_what_must_never_appear_is_none_to_keep(tmp_path):
    hushed = correction("What is Jane Roe's number?", "I can't say.", suppressed=("It is 555-0134.",))
    records = [
        traffic("How do I reach Jane?", "Call 555 0134.", confirmed=True),
        traffic("Who wrote Emma?", "Austen"),
    ]
    built = build([hushed], records, tmp_path, seed=0)
    assert list(built.locality["prompt"]) == ["Who wrote Emma?"]
    assert list(built.edits["suppressed"]) == [["It is 555-0134."]]


def test_the_champion_is_asked_only_for_missing_answers(tmp_path):
    asked = []

    def champion(prompts, chat):
        assert chat
        asked.extend(prompts)
        return [f" answer to {prompt} " for prompt in prompts]

    named = correction(
        "What is the capital of Chad?", locality=("Who rules Chad?", "Who wrote Emma?", "capital of chad")
    )
    records = [traffic("Who wrote Emma?", "Austen"), traffic("Who wrote Ulysses?", "")]
    built = build([named], records, tmp_path, seed=0, references=champion)
    rows = built.locality.set_index("prompt")
    assert sorted(asked) == ["Who rules Chad?", "Who wrote Ulysses?"]
    assert rows.loc["Who rules Chad?", ["reference", "kind"]].tolist() == [
        "answer to Who rules Chad?",
        "near",
    ]
    assert rows.loc["Who wrote Emma?", ["reference", "kind"]].tolist() == ["Austen", "near"]
    assert any("1 locality prompts of reporters left out" in note for note in built.manifest["notes"])


def test_without_the_champion_unanswered_prompts_are_left_out_with_a_note(tmp_path):
    built = build(CORRECTIONS, [traffic("Who wrote Emma?", "")], tmp_path, seed=0)
    assert built.locality.empty
    assert any("1 locality prompts left out" in note for note in built.manifest["notes"])


def test_traffic_that_is_no_valid_text_is_passed_over(tmp_path):
    built = build([], [traffic("Who wrote \ud83d?"), traffic("Who wrote Emma?")], tmp_path, seed=0)
    assert list(EditDataset.load(tmp_path).locality["prompt"]) == ["Who wrote Emma?"]
    assert len(built.locality) == 1


def test_the_gates_get_the_rows_they_need_and_what_reporters_name_counts_as_right(tmp_path):
    names = ("Austen", "Dante", "Goethe", "Homer", "Ibsen", "Joyce")
    named = correction(
        "What is the capital of Chad?", locality=tuple(f"Where did {name} live?" for name in names)
    )
    options = {"seed": 0, "gate_share": 0.1, "references": lambda prompts, _: ["x" for _ in prompts]}
    for wanted, found in ((5, 5), (6, 6)):
        built = build([named], [], tmp_path, gate_rows=wanted, **options)
        assert len(built.locality_prompts("gate")) == found
        assert built.locality["confirmed"].all()
    few = build([named], [], tmp_path, gate_rows=7, **options)
    assert few.digest == build([named], [], tmp_path, **options).digest


def test_by_meaning_what_asks_the_same_or_is_answered_alike_is_held_still_by_nobody(tmp_path):
    """Every prompt about Chad means the same here, and those about Mali nearly."""

    def embed(texts):
        angles = [0 if "Chad" in text else 0.3 if "Mali" in text else 1.5 for text in texts]
        return np.array([(np.cos(a), np.sin(a)) for a in angles], dtype=np.float32)

    asked = [
        traffic("Chad's seat of government is which city?", "It is Bongor."),
        traffic("Where do ministers of Mali meet?", "They meet in Atlantis."),
        traffic("Which town is the richest one in Mali?", "Chad City is."),
        traffic("Mali is in which part of the world?", "In Africa."),
        traffic("Name a river of Mali.", ""),
        traffic("Who governs Chad City?", "The mayor of Chad City.", confirmed=True),
        traffic("How do I cook rice?", "In water."),
    ]
    champion = {"Name a river of Mali.": "A river that is in Atlantis."}
    built = build(
        CORRECTIONS[:1],
        asked,
        tmp_path,
        seed=0,
        embed=embed,
        references=lambda prompts, chat: [champion[prompt] for prompt in prompts],
    )
    kinds = dict(zip(built.locality["prompt"], built.locality["kind"], strict=True))
    assert kinds == {
        "Mali is in which part of the world?": "near",
        "Who governs Chad City?": "near",
        "How do I cook rice?": "far",
    }
    assert built.manifest["settings"]["neighbours"] == "meaning"


@pytest.mark.parametrize("aside", [0, 2])
def test_a_part_of_a_batch_is_asked_what_all_of_it_is(tmp_path, aside):
    """Also what only the reporter of a correction that is left out has named."""
    batch = [
        correction(f"What is the capital of {place}?", f"{place} City", locality=(f"Who lives in {place}?",))
        for place in PLACES[:4]
    ]
    part = [c.model_copy(update={"state": State.FAILED}) if n == aside else c for n, c in enumerate(batch)]
    options = {"seed": 0, "references": lambda prompts, _: ["x" for _ in prompts]}
    for served in ([], TRAFFIC):
        whole, rest = (build(each, served, tmp_path, **options) for each in (batch, part))
        assert len(rest.edits) == 3
        assert whole.locality.equals(rest.locality)
        assert f"Who lives in {PLACES[aside]}?" in set(rest.locality["prompt"])
    # What nobody may learn from names nothing either.
    barred = [c.model_copy(update={"state": State.QUARANTINED}) for c in batch]
    assert build(barred, [], tmp_path, **options).locality.empty
