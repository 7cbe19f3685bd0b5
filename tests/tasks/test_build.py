import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.build import EditDataset, build
from tasks.edit_dataset import MANIFEST_FILE
from tasks.records import UserError
from tasks.rephrase import rephrase, wording
from tasks.roles import for_training
from tasks.training_data import corrections_from_traffic
from tests.tasks.build_cases import CORRECTIONS, TRAFFIC, correction, traffic, worlds


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
    worlds(),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.35, 1.0]),
    st.integers(0, 6),
    st.integers(0, 5),
    st.data(),
)
@settings(max_examples=12, deadline=None)
def test_no_wording_is_on_two_sides(tmp_path_factory, world, seed, share, gate_rows, held_out, data):
    """Taught, held out, to be kept by the editor or asked by the gates, or practised on before."""
    out = tmp_path_factory.mktemp("data")
    sides = {"seed": seed, "gate_share": share, "gate_rows": gate_rows}
    options = {**sides, "held_out": held_out, "references": lambda prompts, _: ["as before"] * len(prompts)}
    built = build(world.corrections, world.traffic, out, **options)
    rows = built.edits.to_dict("records")
    taught = words(text for row in rows for text in (row["prompt"], *row["equivalents"]))
    hidden = words(text for row in rows for text in row["held_out"])
    kept, asked = (words(built.locality_prompts(role)) for role in ("editor", "gate"))
    assert not taught & hidden
    assert not (taught | hidden) & (kept | asked)
    assert not kept & asked
    assert len(kept | asked) == len(built.locality)

    learnable = for_training(world.traffic, world.corrections, **sides)
    assert taught | hidden | asked <= learnable.withheld
    requests, stay = corrections_from_traffic(learnable.traffic, seed=seed, withheld=learnable.asked)
    practised = words(text for r in requests for text in (r.prompt, *r.equivalents))
    assert not (practised | words(stay)) & learnable.withheld

    mixed = (data.draw(st.permutations(part)) for part in (world.corrections, world.traffic))
    assert build(*mixed, out, **options).digest == built.digest


def words(texts):
    return {wording(text) for text in texts}


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


def test_no_form_that_one_correction_holds_out_is_taught_by_another(dataset):
    """Of one relation, the very sentence would be taught with another subject."""
    forms = {
        kind: {
            p.family
            for row in dataset.edits.to_dict("records")
            for p in rephrase(row["prompt"], chat=True)
            if p.text in row[kind]
        }
        for kind in ("equivalents", "held_out")
    }
    assert forms["held_out"]
    assert not forms["held_out"] & forms["equivalents"]


def test_a_phrasing_that_names_something_else_is_not_taught_and_what_it_asks_stays(tmp_path):
    other = "What is the capital of Peru?"
    given = (other, "Peru, who wins?", "Where is the seat of Chad?")
    edits = [correction("What is the capital of Chad?", "N'Djamena", equivalents=given)]
    asked = [traffic(other, "Lima", confirmed=True), *TRAFFIC]
    built = build(edits, asked, tmp_path, seed=0)
    (row,) = built.edits.to_dict("records")
    assert "Where is the seat of Chad?" in row["equivalents"]
    assert not {other, "Peru, who wins?"} & {*row["equivalents"], *row["held_out"]}
    assert other in set(built.locality["prompt"])
    assert sum("names other things" in note for note in built.manifest["notes"]) == 2


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
