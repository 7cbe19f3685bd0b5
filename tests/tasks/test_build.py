import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.build import EditDataset, build
from tasks.edit_dataset import MANIFEST_FILE
from tasks.records import Correction, State, TrafficRecord, UserError, correction_id, normalise_prompt
from tasks.rephrase import wording

PLACES = ["Chad", "Sudan", "South Sudan", "Peru", "Fiji", "Cuba", "Mali", "Oman", "Togo", "Laos"]
RELATIONS = ["capital", "currency", "national anthem"]


def correction(prompt, target="Xanadu", *, state=State.ACCEPTED, chat=True, **fields):
    return Correction(
        id=correction_id(prompt, target, chat=chat),
        model_name="demo",
        prompt=prompt,
        wrong_output="Atlantis",
        desired_output=target,
        chat=chat,
        state=state,
        first_reported_at=datetime(2026, 1, 1, tzinfo=UTC),
        **fields,
    )


def traffic(prompt, output="an answer", **fields):
    return TrafficRecord(prompt=prompt, output=output, **fields)


CORRECTIONS = [correction(f"What is the capital of {place}?", f"{place} City") for place in PLACES[:5]]
TRAFFIC = [
    *(traffic(f"What is the {r} of {p}?", confirmed=p == "Fiji") for r in RELATIONS[1:] for p in PLACES),
    *(traffic(f"What is the capital of {place}?", confirmed=True) for place in PLACES),
    *(traffic(f"How do I cook {dish}?") for dish in ("rice", "soup", "eggs", "beans", "kale")),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return build(CORRECTIONS, TRAFFIC, tmp_path_factory.mktemp("data"), seed=0, manifest={"base": "sha256:1"})


def test_every_correction_gets_phrasings_for_the_editor_and_others_for_the_gates(dataset):
    assert sorted(dataset.edits["id"]) == sorted(c.id for c in CORRECTIONS)
    assert set(dataset.edits["equivalents"].map(len)) == {8}
    assert set(dataset.edits["held_out"].map(len)) == {3}
    row = dataset.edits.set_index("prompt").loc["What is the capital of Chad?"]
    assert row["target"] == "Chad City"
    assert row["wrong_output"] == "Atlantis"
    assert row["subject"] is None


def test_locality_is_unflagged_traffic_in_two_roles_and_two_kinds(dataset):
    locality = dataset.locality
    prompts = set(locality["prompt"])
    assert not prompts & {c.prompt for c in CORRECTIONS}
    assert {f"What is the capital of {place}?" for place in PLACES[5:]} <= prompts
    kinds = locality.set_index("prompt")["kind"]
    assert kinds["What is the capital of Cuba?"] == "near"
    assert kinds["How do I cook rice?"] == "far"
    assert set(locality["role"]) == {"editor", "gate"}
    assert locality.set_index("prompt")["confirmed"]["What is the capital of Cuba?"]


def test_what_was_built_is_what_is_loaded(dataset, tmp_path):
    dataset.save(tmp_path)
    loaded = EditDataset.load(tmp_path)
    assert loaded.digest == dataset.digest
    assert loaded.edits.equals(dataset.edits)
    assert loaded.locality.equals(dataset.locality)
    assert loaded.manifest["base"] == "sha256:1"
    assert loaded.manifest["counts"]["held_out"] == 15
    splits = loaded.dataset_dict()
    assert splits["edits"][0]["held_out"] == dataset.edits["held_out"][0]
    assert len(splits["locality"]) == len(dataset.locality)


def test_requests_give_the_editor_its_phrasings_and_only_its_locality(dataset):
    requests = dataset.requests()
    mine = set(dataset.locality_prompts("editor"))
    assert all(set(r.locality) <= mine and len(r.locality) == 3 for r in requests)
    assert [list(r.equivalents) for r in requests] == list(dataset.edits["equivalents"])
    held = dataset.requests(held_out=True)
    assert [list(r.equivalents) for r in held] == list(dataset.edits["held_out"])
    assert all(not r.locality for r in held)
    near = dataset.locality_prompts("gate", "near")
    assert set(near) < set(dataset.locality_prompts("gate"))


@given(
    st.permutations(CORRECTIONS),
    st.permutations(TRAFFIC),
    st.integers(0, 3),
    st.floats(0, 1),
    st.integers(0, 5),
)
@settings(max_examples=15, deadline=None)
def test_nothing_leaks_and_order_does_not_matter(
    tmp_path_factory, corrections, records, seed, share, held_out
):
    out = tmp_path_factory.mktemp("data")
    options = {"seed": seed, "gate_share": share, "held_out": held_out}
    built = build(corrections, records, out, **options)
    taught = {wording(text) for row in built.edits["equivalents"] for text in row}
    taught |= {wording(prompt) for prompt in built.edits["prompt"]}
    hidden = {wording(text) for row in built.edits["held_out"] for text in row}
    still = {wording(prompt) for prompt in built.locality["prompt"]}
    assert not taught & hidden
    assert not (taught | hidden) & still
    mine, theirs = (set(map(normalise_prompt, built.locality_prompts(role))) for role in ("editor", "gate"))
    assert not mine & theirs
    assert len(mine) + len(theirs) == len(built.locality)
    assert build(CORRECTIONS, TRAFFIC, out, **options).digest == built.digest


def test_what_reporters_call_equivalent_is_held_still_by_nobody(tmp_path):
    told = correction("What is the capital of Chad?", equivalents=("Where does the government of Chad sit?",))
    records = [traffic("where does the government of chad sit"), traffic("Who wrote Emma?")]
    named = correction("What is the capital of Peru?", locality=("Where does the government of Chad sit?",))
    built = build(
        [told, named], records, tmp_path, seed=0, references=lambda prompts, _: ["x" for _ in prompts]
    )
    assert list(built.locality["prompt"]) == ["Who wrote Emma?"]


def test_the_digest_ignores_the_order_of_rows(dataset):
    edits, locality = dataset.edits.to_dict("records"), dataset.locality.to_dict("records")
    assert EditDataset.from_rows(edits[::-1], locality[::-1], {}).digest == dataset.digest
    changed = [{**edits[0], "target": "other"}, *edits[1:]]
    assert EditDataset.from_rows(changed, locality, {}).digest != dataset.digest


def test_the_digest_follows_the_content(dataset, tmp_path):
    fewer = build(CORRECTIONS[1:], TRAFFIC, tmp_path, seed=0)
    assert fewer.digest != dataset.digest
    reseeded = build(CORRECTIONS, TRAFFIC, tmp_path, seed=1)
    assert reseeded.digest != dataset.digest


def test_a_locality_row_keeps_its_role_when_traffic_grows(dataset, tmp_path):
    more = [*TRAFFIC, *(traffic(f"Who painted picture {n}?") for n in range(50))]
    grown = build(CORRECTIONS, more, tmp_path, seed=0)
    before = dataset.locality.set_index("id")["role"].to_dict()
    after = grown.locality.set_index("id")["role"].to_dict()
    assert {key: after[key] for key in before if key in after} == {
        key: role for key, role in before.items() if key in after
    }


def test_two_corrections_of_one_question_hold_out_what_neither_teaches(tmp_path):
    twins = [
        correction("What is the capital of Chad?"),
        correction("capital of Chad"),
        correction("Chad's capital?"),
    ]
    for seed in range(10):
        edits = build(twins, [], tmp_path, seed=seed).edits
        taught = {wording(t) for row in edits["equivalents"] for t in row} | set(edits["prompt"].map(wording))
        assert not taught & {wording(t) for row in edits["held_out"] for t in row}
        assert edits["held_out"].map(len).sum() > 0


def test_what_reporters_say_goes_to_the_editor_and_a_third_is_held_out(tmp_path):
    given = tuple(f"Chad seat of government, wording {n}" for n in "abcdef")
    few = correction("What is the capital of Peru?", equivalents=("Peru seat one", "Peru seat two"))
    many = correction(
        "What is the capital of Chad?", equivalents=(*given, "what is the CAPITAL of chad?", " ")
    )
    edits = build([few, many], [], tmp_path, seed=0, equivalents=2).edits.set_index("prompt")
    row = edits.loc[many.prompt]
    assert len(set(given) & set(row["held_out"])) == 2
    assert len(set(given) & set(row["equivalents"])) == 4
    assert set(edits.loc[few.prompt, "equivalents"]) == {"Peru seat one", "Peru seat two"}
    assert len(row["held_out"]) == 3


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


def test_no_traffic_still_gives_edits_and_says_what_is_missing(tmp_path):
    build(CORRECTIONS, [], tmp_path, seed=0)
    built = EditDataset.load(tmp_path)
    assert len(built.edits) == 5
    assert built.locality.empty
    assert built.locality_prompts("gate") == []
    assert built.requests()[0].locality == ()
    assert any("no traffic" in note for note in built.manifest["notes"])
    assert len(built.dataset_dict()["locality"]) == 0


def test_nothing_at_all_is_an_empty_dataset(tmp_path):
    built = build([], [], tmp_path, seed=0)
    assert built.requests() == []
    assert EditDataset.load(tmp_path).digest == built.digest


def test_traffic_that_is_no_valid_text_is_passed_over(tmp_path):
    built = build([], [traffic("Who wrote \ud83d?"), traffic("Who wrote Emma?")], tmp_path, seed=0)
    assert list(EditDataset.load(tmp_path).locality["prompt"]) == ["Who wrote Emma?"]
    assert len(built.locality) == 1


def test_raw_text_stays_raw_text(tmp_path):
    raw = correction("The mother tongue of Ada Byron is", "Dutch", chat=False)
    records = [traffic("The mother tongue of Jean Rey is", "French", chat=False)]
    built = build([raw], records, tmp_path, seed=0)
    assert not built.requests()[0].chat
    assert not built.locality["chat"].any()


def test_an_unfinished_or_damaged_dataset_is_refused(tmp_path):
    with pytest.raises(UserError, match="build it again"):
        EditDataset.load(tmp_path)
    build(CORRECTIONS, [], tmp_path, seed=0)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**manifest, "digest": "0"}))
    with pytest.raises(UserError, match="damaged"):
        EditDataset.load(tmp_path)
    (tmp_path / MANIFEST_FILE).unlink()
    with pytest.raises(UserError, match="build it again"):
        EditDataset.load(tmp_path)


def test_one_id_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="same id"):
        build([CORRECTIONS[0], CORRECTIONS[0]], [], tmp_path, seed=0)


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
