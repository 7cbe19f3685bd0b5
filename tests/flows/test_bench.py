"""The bench: every method at every size in a process of its own, kept, shown and gone on with."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from editors.catalogue import EDITORS
from flows import bench as benching
from flows.bench import bench
from flows.bench_plan import BenchSettings, cases_of, default_sizes, draw_of, methods_of
from flows.cli import app
from flows.fresh_process import FAILED, MEASURED, OVER_BUDGET, _measure, run_trial
from flows.settings import CorrectSettings
from tasks.models import ModelFolder, resolve
from tasks.records import UserError
from tasks.trial import LOCALITY
from tests.killing import killed
from validation.outcomes import EDIT

COUNTRIES = ["Chad", "Peru", "Togo", "Mali", "Fiji", "Iran", "Cuba", "Oman"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "corrections.jsonl"
    rows = [
        {
            "prompt": f"The capital of {name} is",
            "target": "Cairo",
            "rephrases": [f"{name}: its capital is", f"Who goes to the capital of {name} goes to"],
            "locality": [f"On which continent is {name}?", "The capital of Peru is"],
        }
        for name in COUNTRIES
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> CorrectSettings:
    return CorrectSettings(model_name="bench", home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def base(tiny_llama, home: CorrectSettings) -> ModelFolder:
    return resolve(str(tiny_llama(hidden_size=64)), cache=home.home / "models")


def settings(base: ModelFolder, file: Path, out: Path, **changes: Any) -> BenchSettings:
    defaults: dict[str, Any] = {"methods": ("override",), "sizes": (1, 3), "sequence": 0, "repeats": 2}
    return BenchSettings(model=base.ref, data=file, out=out, device="cpu", **{**defaults, **changes})


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The trials for which a process was started."""
    trials: list[Any] = []

    def counted(trial: Any, **options: Any) -> Any:
        trials.append(trial)
        return run_trial(trial, **options)

    monkeypatch.setattr(benching, "run_trial", counted)
    return trials


@pytest.mark.slow
def test_methods_stand_side_by_side(base, file: Path, home: CorrectSettings, tmp_path: Path):
    methods = ("finetune", "ultraedit", "override", "mend")
    tables = bench(home, settings(base, file, tmp_path, methods=methods, sizes=(1, 3, 500), repeats=1))
    text = tables.read_text()
    found = {(r["method"], r["size"]): r for r in records(tmp_path)}
    assert set(found) == {(method, size) for method in methods[:3] for size in (1, 3)}
    assert {r["status"] for r in found.values()} == {MEASURED}
    assert found["finetune", 1][EDIT] == {**found["finetune", 1][EDIT], "value": 1.0, "n": 1}
    assert found["finetune", 3][EDIT]["n"] == 3
    assert found["override", 3][LOCALITY]["value"] == 1.0
    assert all(0 < r["peak_bytes"] < 2**30 for r in found.values() if r["method"] == "finetune")
    assert "| method | 1 | 3 |" in text
    assert "| mend | cannot | cannot |" in text
    assert "mend, 1; 3: cannot: there is no mend editor" in text
    assert "500: left out, the file holds 8 usable corrections" in text
    picture = (tmp_path / "results.svg").read_text()
    assert all(f">{method}</text>" in picture for method in methods[:3])
    assert ">mend</text>" not in picture


@pytest.mark.slow
def test_a_method_that_cannot_edit_the_model_leaves_the_others_their_cells(
    damaged_llama: Path, file: Path, home: CorrectSettings, tmp_path: Path, capsys
):
    base = resolve(str(damaged_llama), cache=home.home / "models")
    what = settings(base, file, tmp_path, methods=("memit", "override"), sizes=(1,), repeats=1)
    text = bench(home, what).read_text()
    assert "memit, 1: cannot: memit cannot edit" in text
    assert "memit cannot edit" in said(capsys)
    assert [r["method"] for r in records(tmp_path) if r["status"] == MEASURED] == ["override"]


@pytest.mark.slow
def test_a_killed_bench_goes_on(
    base, file: Path, home: CorrectSettings, tmp_path: Path, started: list[Any], capsys
):
    what = settings(base, file, tmp_path, sizes=(1, 2), sequence=3)
    with killed(benching._Results, "add", "after", call=2):
        bench(home, what)
    sizes = "methods: 1; at 1 (over 2 draws), 2 (over 2 draws), 3 in sequence"
    told = "3 to measure, each for 20 minutes at most: at most 60 minutes in all"
    assert f"{sizes}; cells: 3, {told}" in said(capsys)
    before = records(tmp_path)
    assert len(before) == len(started) == 2
    with (tmp_path / "results.jsonl").open("a") as half:
        half.write('{"key": "0123", "stat')
    tables = bench(home, what)
    assert "cells: 3, 2 of them measured before, 1 to measure" in said(capsys)
    assert len(started) == 3
    after = records(tmp_path)
    assert after[:2] == before
    assert [r["sequence"] for r in after] == [False, False, True]
    text = tables.read_text()
    bench(home, what)
    assert len(started) == 3
    assert tables.read_text() == text
    # Other corrections, or other phrasings given, are other inputs.
    bench(home, settings(base, file, tmp_path, sizes=(1,), give_equivalents=1))
    assert len(started) == 4


def test_a_cell_counts_on_its_own_machine_and_where_it_tells_of_none(
    base, file: Path, home: CorrectSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    measured: list[int] = []

    def trial(*_: Any, **__: Any) -> dict[str, Any]:
        measured.append(1)
        return {"status": OVER_BUDGET, "minutes": 99.0}

    monkeypatch.setattr(benching, "run_trial", trial)
    what = settings(base, file, tmp_path, sizes=(1,), repeats=1)

    def done(threads: int) -> int:
        machine = {"name": "abacus", "threads": threads, "torch": "2"}
        monkeypatch.setattr(benching, "machine_of", lambda _: machine)
        text = bench(home, what).read_text()
        assert f"abacus, {threads} thread{'s' if threads > 1 else ''}; torch 2" in text
        return len(measured)

    assert [done(1), done(2), done(1), done(2)] == [1, 2, 2, 2]
    assert [record["machine"]["threads"] for record in records(tmp_path)] == [1, 2]
    # One that does not tell counts for all, where there is no other.
    known = [{key: value for key, value in records(tmp_path)[0].items() if key != "machine"}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in known))
    assert [done(1), done(3)] == [2, 2]
    assert records(tmp_path) == known


def test_a_trial_has_the_threads_that_are_told(monkeypatch: pytest.MonkeyPatch):
    told: list[Any] = []
    monkeypatch.setattr("flows.fresh_process.measure", lambda *_: {"threads": torch.get_num_threads()})
    before = torch.get_num_threads()

    class Sender:
        def send(self, message: Any) -> None:
            told.append(message)

    monkeypatch.setattr("flows.fresh_process.signal.signal", lambda *_: None)
    monkeypatch.setattr("flows.fresh_process.threading.Thread.start", lambda _: None)
    try:
        _measure(None, before + 1, Sender())  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)
    assert told == [("outcome", {"status": MEASURED, "threads": before + 1})]


def test_all_methods_are_those_that_differ_where_nothing_must_stay():
    names, notes = methods_of(())
    assert set(EDITORS) - set(names) == {"finetune"}
    assert notes == ["finetune: left out, given nothing that must stay it is finetune-m"]
    assert methods_of(("finetune", "mend")) == (["finetune", "mend"], [])


def test_what_takes_too_long_is_said_to(
    base, file: Path, home: CorrectSettings, tmp_path: Path, started: list[Any]
):
    short = settings(base, file, tmp_path, sizes=(1, 2), repeats=1, minutes=0.0001)
    text = bench(home, short).read_text()
    assert "| override | over 0.0001 min | over 0.0001 min |" in text
    # Twice the corrections are not tried, and the same in as little time neither.
    assert len(started) == 1
    assert [r["status"] for r in records(tmp_path)] == [OVER_BUDGET]
    bench(home, short)
    assert len(started) == 1
    text = bench(home, settings(base, file, tmp_path, sizes=(1,), repeats=1)).read_text()
    assert len(started) == 2
    assert "| override | over" not in text


class Deadly:
    """Kills the process that it is sent to, as the system does when memory runs out."""

    def __reduce__(self) -> Any:
        return signal.raise_signal, (signal.SIGKILL,)


def test_a_process_that_dies_is_a_failed_cell():
    outcome = run_trial(Deadly(), minutes=1, report=lambda *_: None)  # type: ignore[arg-type]
    assert outcome["status"] == FAILED
    assert "memory" in outcome["reason"]


def test_a_failure_is_shown_and_tried_again(
    base, file: Path, home: CorrectSettings, tmp_path: Path, monkeypatch, capsys
):
    failed = {"status": FAILED, "reason": "KeyError: 'x'", "traceback": "Traceback (most recent call last)\n"}
    monkeypatch.setattr(benching, "run_trial", lambda *_, **__: failed)
    what = settings(base, file, tmp_path, sizes=(1,))
    assert "override, 1: failed: KeyError: 'x'" in bench(home, what).read_text()
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.undo()
    assert "failed" not in bench(home, what).read_text()


@pytest.mark.parametrize("given", [0, 1, 5])
def test_methods_see_nothing_that_they_are_judged_by(base, file: Path, tmp_path: Path, given: int):
    cases = cases_of(settings(base, file, tmp_path, give_equivalents=given), base)
    assert len(cases) == len(COUNTRIES)
    for case in cases:
        assert case.request.locality == ()
        assert len(case.request.equivalents) == min(given, 2)
        assert len(case.request.equivalents) + len(case.held_out) == 2
        assert len(case.locality) == (1 if "Peru" in case.request.prompt else 2)
    # What is corrected may change, so no other correction calls for it to stay.
    draw = draw_of(cases, 4)
    assert not any("capital of Peru" in prompt for case in draw for prompt in case.locality)
    assert draw_of(cases, 1)[0].held_out == cases[0].held_out[:1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sizes", "1,many"], "1,many"),
        (["--sizes", "0"], "below 1"),
        (["--methods", "magic"], "magic"),
        (["--methods", "override,override"], "twice"),
        (["--device", "abacus"], "abacus"),
        (["--sizes", "", "--sequence", "0"], "nothing"),
    ],
)
def test_a_users_mistake_is_named(
    arguments: list[str], says: str, base, file: Path, home: CorrectSettings, tmp_path: Path
):
    common = ["--model", base.ref, "--data", str(file), "--out", str(tmp_path), "--home", str(home.home)]
    result = CliRunner().invoke(app, ["bench", *common, *arguments])
    assert isinstance(result.exception, UserError)
    assert says in str(result.exception)


def test_larger_batches_are_measured_by_default_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch):
    assert default_sizes("cpu") == (1, 10, 100, 1000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_sizes("auto") == (1, 10, 100, 1000, 10_000)
