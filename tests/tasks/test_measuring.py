"""Measuring a candidate beside the champion: every row is asked, and scored, in its own rendering."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from editors.delta import Delta
from editors.generation import generate_greedy
from editors.override import OverrideEditor
from editors.overrides import Override, Overrides
from editors.requests import EditRequest
from tasks.edit_dataset import EditDataset
from tasks.measuring import GATE_TOKENS, Served, ask_champion, room_for
from tasks.models import load, resolve
from tasks.questions import questions
from tasks.timing import PAIRS
from tasks.validate import MEASURED_FILE, OUTCOMES_FILE, _measure, measure, read_measured
from tasks.verdicts import take
from validation.divergence import answer_log_probs, locality_kl, teacher_forced_success
from validation.early import BEFORE_ASKING, Stop
from validation.outcomes import EDIT, LOCALITY, NEW, SUPPRESSED
from validation.probes import ARITHMETIC
from validation.thresholds import GateFile, load_gates


def edit(id_: str, prompt: str, *, chat: bool) -> dict[str, object]:
    lists: dict[str, object] = {"equivalents": [], "held_out": [], "reporters": [], "sources": []}
    about = {"target": "Cairo.", "wrong_output": "", "subject": None, "reports": 1}
    return {"id": id_, "prompt": prompt, "chat": chat, **about, **lists}


def stay(id_: str, prompt: str, reference: str, *, chat: bool) -> dict[str, object]:
    about = {"confirmed": False, "gold": None, "kind": "near", "role": "gate"}
    return {"id": id_, "prompt": prompt, "reference": reference, "chat": chat, **about}


def test_chat_and_raw_text_in_one_dataset_are_each_measured_as_they_are(
    tmp_path: Path, tiny_llama, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path))
    folders = {"champion": tiny_llama(), "candidate": tiny_llama(seed=1)}
    edits = [
        edit("a", "The capital of Egypt is", chat=False),
        edit("b", "The capital of Egypt is", chat=True),
    ]
    local = [
        stay("c", "The yen is used in", "Japan.", chat=True),
        stay("d", "Peru is in", "Asia", chat=False),
    ]
    dataset = EditDataset.from_rows(edits, local, {})
    dataset.save(tmp_path / "dataset")
    request = {
        **{role: str(folder) for role, folder in folders.items()},
        "tracking_uri": None,
        "dataset": str(tmp_path / "dataset"),
        "earlier": [],
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    _measure(tmp_path / "request.json")

    outcomes = pd.read_parquet(tmp_path / OUTCOMES_FILE).query("metric != @NEW").set_index("id")
    forced = json.loads((tmp_path / MEASURED_FILE).read_text())["teacher_forced"]
    champion, tokenizer = load(resolve(str(folders["champion"])))
    candidate, _ = load(resolve(str(folders["candidate"])))
    for row, measured in zip(edits, forced, strict=True):
        prompt, target, chat = str(row["prompt"]), str(row["target"]), bool(row["chat"])
        (answer,) = generate_greedy(candidate, tokenizer, [prompt], chat=chat, max_new_tokens=GATE_TOKENS)
        assert outcomes.loc[row["id"], "candidate_output"] == answer
        assert teacher_forced_success(candidate, tokenizer, [prompt], [target], chat=chat) == [measured]
    assert (
        forced[0] != forced[1]
        or outcomes.loc["a", "candidate_output"] != outcomes.loc["b", "candidate_output"]
    )
    for row in local:
        asked = [str(row["prompt"])], [str(row["reference"])]
        before = answer_log_probs(champion, tokenizer, *asked, chat=bool(row["chat"]))
        (divergence,) = locality_kl(candidate, tokenizer, *asked, before, chat=bool(row["chat"]))
        found = outcomes.loc[row["id"]]
        assert found["metric"] == LOCALITY
        assert found["locality_kl"] == pytest.approx(divergence, rel=1e-4)


def test_an_answer_is_given_room_for_the_whole_of_a_long_target(tiny_llama):
    """Cut off before its end, no target could ever be given."""
    model, tokenizer = load(resolve(str(tiny_llama())))
    target, short = "Cairo and Paris, " * 20, "The yen is used in"
    edits = [{**edit("a", "Peru is in", chat=True), "target": target}, edit("b", short, chat=True)]
    asked = questions(EditDataset.from_rows(edits, [], {}), [])
    served = Served(model, tokenizer, Overrides())
    answers = ask_champion(served, EditDataset.from_rows(edits, [], {}), asked, say=lambda *_: None).answers
    room = room_for(tokenizer, target)
    assert room > len(tokenizer(target)["input_ids"]) > GATE_TOKENS
    for prompt, longest in (("Peru is in", room), (short, GATE_TOKENS)):
        (said,) = generate_greedy(model, tokenizer, [prompt], chat=True, max_new_tokens=longest)
        assert answers[prompt, True] == said


def test_an_answer_is_to_be_had_with_its_white_space_and_an_override_as_it_is(tiny_llama):
    model, tokenizer = load(resolve(str(tiny_llama())))
    (space,) = tokenizer(" ", add_special_tokens=False)["input_ids"]
    model.lm_head.bias = torch.nn.Parameter(1e4 * torch.eye(model.config.vocab_size)[space])
    served = Served(model, tokenizer, Overrides([Override("Chad", " N'Djamena ", "a")]))
    for strip, answer in ((True, ""), (False, " " * 3)):
        answers = served.answer(["Peru", "Chad"], max_new_tokens=3, strip=strip)
        assert answers == [answer, " N'Djamena "]


def test_what_is_overridden_is_measured_as_it_is_served(
    tmp_path: Path, tiny_llama, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path))
    base = resolve(str(tiny_llama()))
    delta = OverrideEditor().edit(*load(base), [EditRequest("a", "The capital of Egypt is", "Cairo.")])
    Delta({}, {**delta.manifest, "base_digest": base.digest}).save(tmp_path / "delta")
    served = dataclasses.replace(base, delta=tmp_path / "delta")
    monkeypatch.setattr("tasks.models.resolve", lambda ref, **_: served if ref == "candidate" else base)
    edits = [edit("a", "the capital of EGYPT is", chat=True), edit("b", "The yen is used in", chat=True)]
    local = [stay("c", "Peru is in", "Asia", chat=True)]
    EditDataset.from_rows(edits, local, {}).save(tmp_path / "dataset")
    request = {"champion": "champion", "candidate": "candidate", "tracking_uri": None, "earlier": []}
    (tmp_path / "request.json").write_text(json.dumps({**request, "dataset": str(tmp_path / "dataset")}))
    _measure(tmp_path / "request.json")
    outcomes = pd.read_parquet(tmp_path / OUTCOMES_FILE).query("metric != @NEW").set_index("id")
    assert outcomes.loc["a", "candidate_output"] == "Cairo."
    (own,) = generate_greedy(*load(base), ["The yen is used in"], chat=True, max_new_tokens=GATE_TOKENS)
    assert outcomes.loc["b", "candidate_output"] == own


def test_what_a_cheap_gate_refuses_is_asked_no_further(
    tmp_path: Path, tiny_llama, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path))
    folders = {"champion": str(tiny_llama()), "candidate": str(tiny_llama(seed=1))}
    local = [stay("c", "The yen is used in", "Japan.", chat=True)]
    EditDataset.from_rows([edit("a", "Peru is in", chat=True)], local, {}).save(tmp_path / "dataset")
    request = {**folders, "tracking_uri": None, "dataset": str(tmp_path / "dataset"), "earlier": []}
    all_rows = ["a", "a", "c"]
    for name, bounds, stops, rows in (
        (EDIT, {"min": 0.9}, tuple(Stop), ["a", "a"]),
        (EDIT, {"min": 0.0}, tuple(Stop), all_rows),
        (EDIT, {"min": 0.9}, BEFORE_ASKING, all_rows),
        ("changed_parameters", {"min": 1}, BEFORE_ASKING, []),
        (ARITHMETIC, {"max": 0.0}, BEFORE_ASKING, []),
    ):
        gates = GateFile.model_validate(
            {"version": 1, "gates": {name: {**bounds, "minimum_n": 1, "severity": "critical"}}}
        )
        asked = {**request, "stop_at": gates.model_dump(mode="json"), "stops": stops}
        (tmp_path / "request.json").write_text(json.dumps(asked))
        _measure(tmp_path / "request.json")
        measured = read_measured(tmp_path)
        assert (list(measured.outcomes["id"]), measured.stopped is None) == (rows, rows == all_rows)
        assert (measured.answer_seconds is None) is (measured.stopped is not None)
        assert bool(measured.perplexities) is (name != "changed_parameters")
        asked_for = [measured.expected_rows[metric] for metric in (EDIT, NEW, LOCALITY, SUPPRESSED)]
        assert asked_for == [1, 1, 1, 0]


def test_one_candidate_measured_twice_has_the_same_figures_but_for_the_clock(
    tmp_path: Path, tiny_llama, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MENDFLOW_HOME", str(tmp_path))
    folders = {"champion": str(tiny_llama()), "candidate": str(tiny_llama(seed=1))}
    edits = [edit(name, f"{name} is in", chat=True) for name in ("Peru", "Chad")]
    EditDataset.from_rows(edits, [stay("c", "The yen is used in", "Japan.", chat=True)], {}).save(
        tmp_path / "dataset"
    )
    request = {**folders, "tracking_uri": None, "dataset": str(tmp_path / "dataset"), "earlier": ["Chad"]}
    decisions = []
    for turn in ("first", "second"):
        (tmp_path / turn).mkdir()
        (tmp_path / turn / "request.json").write_text(json.dumps(request))
        _measure(tmp_path / turn / "request.json")
        measured = read_measured(tmp_path / turn)
        assert measured.answer_seconds is not None
        assert len(measured.answer_seconds.candidate) == PAIRS
        # The seconds that a machine takes differ from turn to turn; nothing else may.
        measured = dataclasses.replace(measured, answer_seconds=None)
        decisions.append(take(measured, load_gates(), digests={}, needs_approval=False, seed=0))
    assert decisions[0].digest() == decisions[1].digest()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_ends_the_measuring_and_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
):
    EditDataset.from_rows([], [], {}).save(tmp_path / "dataset")
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\necho '@progress 1 2 asked'\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))

    def interrupt(*_: object) -> None:
        raise interruption

    started = time.monotonic()
    with pytest.raises(interruption):
        measure(tmp_path, tracking_uri="", candidate="models:/m/2", champion="models:/m/1",
                dataset=tmp_path / "dataset", earlier=[], progress=interrupt)  # fmt: skip
    assert time.monotonic() - started < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
