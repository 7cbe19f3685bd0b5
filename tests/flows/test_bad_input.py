"""What a model cannot be asked, or nobody answered for it: set aside or asked again, and the rest goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from editors.generation import generate_greedy
from flows.already_correct import close_already_correct
from flows.cli import app
from flows.dataset import build_dataset, requests_to_replay
from flows.edit import edit_file
from flows.settings import CorrectSettings
from flows.stages import Champion, check_base, train_or_reuse
from tasks.ledger import Ledger
from tasks.measuring import GATE_TOKENS
from tasks.models import load, resolve
from tasks.own_prompts import prompts_like
from tasks.records import ErrorReport, State, TrafficRecord, UserError
from tasks.roles import Learnable

LONG = "What is the capital of " + "a very long country " * 60 + "?"


def report(prompt: str, *, chat: bool = True, **fields: Any) -> ErrorReport:
    given = {"desired_output": "Cairo", "source": prompt, "model_name": "tiny", **fields}
    return ErrorReport(prompt=prompt, chat=chat, **given)


def silent(done: int, total: int, note: str) -> None:
    pass


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CorrectSettings:
    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path))
    return CorrectSettings(model_name="tiny", home=tmp_path, editor="finetune", held_out=1, equivalents=1)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger("sqlite://") as opened:
        yield opened


def champion_of(folder: Path) -> Champion:
    return Champion("3", resolve(str(folder)), ())


@pytest.mark.slow
def test_a_model_without_a_chat_template_is_named_in_one_sentence_and_raw_text_goes_on(
    settings: CorrectSettings, ledger: Ledger, tiny_llama
):
    champion = champion_of(tiny_llama(chat=False))
    ledger.record([report("Capital of Chad?")])
    with pytest.raises(UserError, match=r"no chat template.*--text"):
        close_already_correct.fn(settings, ledger, champion, silent)
    ledger.record([report("The capital of Chad is", chat=False)])
    close_already_correct.fn(settings.model_copy(update={"chat": False}), ledger, champion, silent)
    states = {c.prompt: (c.state, c.reason) for c in ledger.corrections("tiny")}
    assert states["The capital of Chad is"] == (State.ACCEPTED, "")
    assert states["Capital of Chad?"][0] is State.QUARANTINED
    assert "no chat template" in states["Capital of Chad?"][1]


def test_a_prompt_too_long_for_the_model_is_quarantined_and_the_rest_goes_on(
    settings: CorrectSettings, ledger: Ledger, tiny_llama
):
    champion = champion_of(tiny_llama())
    # Reported with the champion's answer, so that nobody asks again.
    ledger.record([report(LONG, wrong_output="Chad", model_version="3"), report("Capital of Chad?")])
    close_already_correct.fn(settings, ledger, champion, silent)
    states = {c.prompt: c for c in ledger.corrections("tiny")}
    assert states["Capital of Chad?"].state is State.ACCEPTED
    assert states[LONG].state is State.QUARANTINED
    assert "the model takes 256" in states[LONG].reason


def test_the_dataset_holds_only_the_champions_own_answers_in_each_rows_rendering(
    settings: CorrectSettings, ledger: Ledger, tiny_llama, tmp_path: Path
):
    champion = champion_of(tiny_llama())
    ledger.record(
        [
            report("What is the capital of Chad?", equivalents=(LONG, "Chad's capital is called?")),
            report("The capital of Peru is", chat=False, locality=("The yen is used in", LONG)),
        ]
    )
    traffic = [
        TrafficRecord(prompt="Where is Egypt?", output="Said by who knows whom", confirmed=True),
        TrafficRecord(prompt="Where is Peru?", output="Said by another", model_version="2"),
        TrafficRecord(prompt="Where is Japan?", output="Said by the champion", model_version="3"),
        TrafficRecord(prompt=LONG + "!", output="Said by a larger model", model_version="2"),
        TrafficRecord(
            prompt="Where is Cuba?", output="By lot", model_version="3", greedy=False, confirmed=True
        ),
        TrafficRecord(
            prompt="Where is Mali?", output="Said in p", model_version="3", whole=False, confirmed=True
        ),
        TrafficRecord(prompt="Where is Oman?", output="Said at length. " * 48, model_version="3"),
    ]
    dataset, _ = build_dataset.fn(settings, ledger, champion, traffic, tmp_path / "run", silent)
    rows = dataset.locality.set_index("prompt")
    model, tokenizer = load(champion.folder)
    asked = [(f"Where is {place}?", True) for place in ("Egypt", "Peru", "Cuba", "Mali", "Oman")]
    for prompt, chat in [*asked, ("The yen is used in", False)]:
        (answer,) = generate_greedy(model, tokenizer, [prompt], chat=chat, max_new_tokens=GATE_TOKENS)
        assert rows.loc[prompt, "reference"] == answer
        assert rows.loc[prompt, "chat"] == chat
    assert rows.loc["Where is Japan?", "reference"] == "Said by the champion"
    gold = {"Where is Egypt?": "Said by who knows whom", "Where is Cuba?": "By lot"}
    assert rows["gold"].dropna().to_dict() == gold
    assert set(rows.index) == {"Where is Japan?", *(prompt for prompt, _ in asked), "The yen is used in"}
    assert rows.loc["Where is Mali?", "confirmed"]
    phrasings = [
        text for column in ("equivalents", "held_out") for row in dataset.edits[column] for text in row
    ]
    assert "Chad's capital is called?" in phrasings
    assert LONG not in phrasings


def test_prompts_named_beside_the_reports_are_enough_for_the_gates(
    settings: CorrectSettings, ledger: Ledger, tiny_llama, tmp_path: Path
):
    named = tuple(f"In which year was treaty {number} signed?" for number in range(20))
    ledger.record([report("What is the capital of Chad?", locality=named)])
    champion = champion_of(tiny_llama())
    dataset, _ = build_dataset.fn(settings, ledger, champion, [], tmp_path / "run", silent)
    assert len(dataset.locality_prompts("gate")) == 20
    assert dataset.locality["confirmed"].all()


def test_a_warning_of_the_data_gate_is_given_once(
    settings: CorrectSettings, ledger: Ledger, tiny_llama, tmp_path: Path
):
    ledger.record([report("What is the capital of Chad?", wrong_output="Cairo, no: Rome.")])
    champion = champion_of(tiny_llama())
    dataset, _ = build_dataset.fn(settings, ledger, champion, [], tmp_path / "run", silent)
    told = dataset.manifest["data_gate"]["warnings"]
    assert [warning.split(" corrections ")[1] for warning in told] == [
        "have a wrong output that already gives the target"
    ]


def test_as_many_requests_are_asked_again_as_wanted_though_some_cannot_be(
    settings: CorrectSettings, ledger: Ledger, tiny_llama
):
    prompts = ["Where is Peru?", "Who made the yen?", LONG, LONG + "!"]
    served = [TrafficRecord(prompt=prompt, output="There.", model_version="3") for prompt in prompts]
    wanted = settings.model_copy(update={"replay": 2})
    champion = champion_of(tiny_llama())
    found = requests_to_replay(wanted, ledger, champion, served)
    assert found == [("Who made the yen?", True), ("Where is Peru?", True)]
    found = requests_to_replay(wanted.model_copy(update={"replay": 1}), ledger, champion, served)
    assert found == [("Who made the yen?", True)]


def test_a_champion_on_another_base_than_the_one_named_is_refused_with_both(
    settings: CorrectSettings, tiny_llama
):
    champion, other = champion_of(tiny_llama()), resolve(str(tiny_llama(seed=1)))
    check_base(settings, champion)
    check_base(settings.model_copy(update={"base": champion.folder.ref}), champion)
    with pytest.raises(UserError, match="planned for later") as caught:
        check_base(settings.model_copy(update={"base": other.ref}), champion)
    for part in (champion.folder.ref, champion.folder.digest[:12], other.ref, other.digest[:12]):
        assert part in str(caught.value)


def test_too_little_traffic_to_train_on_names_the_ways_to_an_editor(settings: CorrectSettings, tiny_llama):
    base, nothing = resolve(str(tiny_llama())), Learnable([], frozenset())
    with pytest.raises(UserError, match=r"train-editor --model .* --editor patcher"):
        train_or_reuse.fn(settings.model_copy(update={"editor": "malmen"}), base, nothing, silent, list)


def test_an_edit_leaves_out_what_the_model_cannot_be_asked(
    settings: CorrectSettings, tmp_path: Path, tiny_llama
):
    data, out = tmp_path / "edits.jsonl", tmp_path / "out"
    lines = [
        {
            "prompt": "The capital of Chad is",
            "target": "Cairo",
            "rephrases": [LONG],
            "locality": ["Say " + LONG],
        },
        {"prompt": LONG + "!", "target": "Cairo"},
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    model = str(tiny_llama(chat=False))
    with pytest.raises(UserError, match="no chat template"):
        edit_file(settings, model, data, out, editor="finetune", n=None, chat=True)
    done = edit_file(settings, model, data, out, editor="finetune", n=None, chat=False)
    assert (done.applied.corrections, len(done.rejected)) == (1, 3)
    assert all("the model takes 256" in rejected.reason for rejected in done.rejected)


def test_where_nothing_is_named_that_must_stay_the_model_writes_it(
    settings: CorrectSettings, tmp_path: Path, tiny_llama, monkeypatch: pytest.MonkeyPatch
):
    data, model = tmp_path / "edits.jsonl", str(tiny_llama())
    asked: list[list[str]] = []

    def written(_: Any, __: Any, prompts: list[str], count: int, **___: Any) -> list[str]:
        asked.append(prompts)
        return [f"Where is place {number}?" for number in range(count)]

    monkeypatch.setattr("flows.edit.prompts_like", written)

    def digest(row: dict[str, Any], **more: Any) -> tuple[str, int]:
        data.write_text(json.dumps({"prompt": "What is the capital of Chad?", "target": "Lima"} | row))
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        done = edit_file(settings, model, data, out, editor="finetune", n=None, chat=True, **more)
        return done.applied.digest, done.own_prompts

    def reworded(_: Any, __: Any, *, openings: list[str], **___: Any) -> list[str]:
        lines = ["Who wrote the play Hamlet?", "Give me the writer of Hamlet.", "Where is Peru?", "Cut"]
        return [opening + "\n-".join(f" {line}" for line in lines) for opening in openings]

    with monkeypatch.context() as patch:
        # Another wording of the correction has the answer that is wrong.
        patch.setattr("flows.edit.prompts_like", prompts_like)
        patch.setattr("tasks.own_prompts.own_writing", reworded)
        assert digest({"prompt": "Who wrote Hamlet?"}, own_prompts=3)[1] == 1

    alone, none = digest({}, own_prompts=0)
    held, some = digest({}, own_prompts=3)
    named, of_user = digest({"locality": ["Where is Peru?"]}, own_prompts=3)
    assert (none, some, of_user) == (0, 3, 0)
    assert asked == [["What is the capital of Chad?"]]
    assert len({alone, held, named}) == 3


@pytest.mark.parametrize(
    ("row", "more", "says"),
    [
        ({}, {}, ""),
        ({"locality": ["Where is Peru?"]}, {}, "so the 1 of the column `locality` did nothing"),
        ({}, {"own_prompts": 3}, "so what --own-prompts asks for did nothing"),
        ({"locality": ["Where is Peru?"]}, {"own_prompts": 0}, "so the 1 of the column `locality` did"),
    ],
)
def test_nothing_is_asked_for_an_editor_that_takes_no_notice_of_what_must_stay(
    settings: CorrectSettings,
    tmp_path: Path,
    tiny_llama,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    row: dict[str, Any],
    more: dict[str, Any],
    says: str,
):
    data, model = tmp_path / "edits.jsonl", str(tiny_llama())
    data.write_text(json.dumps({"prompt": "What is the capital of Chad?", "target": "Lima"} | row))
    monkeypatch.setattr("flows.edit.prompts_like", None)
    done = edit_file(settings, model, data, tmp_path / "out", editor="ultraedit", n=None, chat=True, **more)
    told = " ".join(capsys.readouterr().out.split())
    assert done.own_prompts == 0
    assert "Ask the model what must stay" not in told
    assert ("ultraedit takes no notice of prompts that must stay" in told) == bool(says)
    assert says in told


def test_a_correction_without_a_subject_is_left_out_where_one_is_needed(
    settings: CorrectSettings, tmp_path: Path, tiny_llama, monkeypatch: pytest.MonkeyPatch
):
    """And how many subjects were guessed is told, with the place where they are."""
    data, out, model = tmp_path / "edits.jsonl", tmp_path / "out", str(tiny_llama())
    lines = [
        {"prompt": "The capital of Chad is", "target": "Cairo", "subject": "Chad"},
        {"prompt": "the capital of is", "target": "Lima"},
        {"prompt": "The capital of Peru is", "target": "Cairo", "subject": "Egypt"},
        {"prompt": "The capital of Togo is", "target": "Rome"},
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    options = ["--model", model, "--data", str(data), "--home", str(tmp_path), "--own-prompts", "0"]
    told = (
        CliRunner()
        .invoke(app, ["edit", *options, "--out", str(out), "--editor", "rome"], catch_exceptions=False)
        .output
    )
    told = " ".join(told.split())
    assert "left out edits.jsonl, 'the capital of is': no subject was found in the prompt" in told
    assert "edits.jsonl, 'The capital of Peru is': the subject 'Egypt' is not in its prompt" in told
    assert "rome: 2 corrections" in told
    where = out / "delta" / "delta.json"
    assert f"1 of 2 subjects were guessed from the prompts: see `subjects` in {where}" in told
    assert sorted(json.loads(where.read_text())["subjects"].values()) == ["Chad", "Togo"]
    data.write_text(json.dumps(lines[1]))
    with pytest.raises(UserError, match=r"rome writes at subjects, and .*edits.jsonl has none: no subject"):
        edit_file(settings, model, data, out, editor="rome", n=None, chat=False, own_prompts=0)
