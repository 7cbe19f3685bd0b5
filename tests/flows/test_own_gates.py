"""Gates that users write themselves, from the gate file to the verdict and its verification."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.correct import correct
from flows.judge import gates_left_out
from flows.revalidate import HOLDS, revalidate
from flows.settings import CorrectSettings
from tasks.records import UserError
from tests.flows.conftest import World
from validation.thresholds import load_gates, write_gates

FUNCTIONS = """
def never_rome(generate, rows):
    assert {"metric", "id", "prompt", "expected", "kind", "chat", "output"} == set(rows[0])
    return ["Rome" not in answer for answer in generate([row["prompt"] for row in rows])]

def says_cairo(generate, rows):
    return ["Cairo" in row["output"] for row in rows if row["metric"] == "edit_success_greedy"]

def broken(generate, rows):
    return generate(["Who are you?"])
"""


def with_own(world: World, tmp_path: Path, own: str) -> CorrectSettings:
    gates = tmp_path / "own" / "gates.yaml"
    gates.parent.mkdir()
    gates.write_text(world.settings.gates.read_text() + f"own:\n{own}")
    (gates.parent / "my_gates.py").write_text(FUNCTIONS)
    return world.settings.model_copy(update={"gates": gates})


@pytest.mark.slow
def test_functions_of_ones_own_let_a_candidate_pass_and_can_be_asked_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (
        "  never_rome: {function: 'my_gates:never_rome', better: higher, min: 1}\n"
        "  says_cairo: {function: 'my_gates:says_cairo', better: higher, min: 0.9}\n"
    )
    settings = with_own(world, tmp_path, own)
    run = correct(settings)
    assert run.outcome == "promoted", run.reason
    cairo = run.metrics["says_cairo"]
    assert (cairo["value"], cairo["champion"], cairo["n"], cairo["status"]) == (1.0, 0.0, 4, "passed")
    assert revalidate(settings).outcome == HOLDS
    # What decided is kept with the verdict, whatever becomes of the user's files.
    settings.gates.unlink()
    (settings.gates.parent / "my_gates.py").unlink()
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--remeasure"]):
        done = CliRunner().invoke(app, ["verify", "tiny", "--home", str(settings.home), *more])
        assert (done.exit_code, "holds: PROMOTE" in done.output) == (0, True), done.output
    # Other code in its place is noticed, and not run.
    (kept,) = settings.home.glob("artifacts/**/verdict/my_gates.py")
    with kept.open("a") as file:
        file.write(f"\nopen({str(tmp_path / 'was_run')!r}, 'w')\n")
    done = CliRunner().invoke(app, ["verify", "tiny", "--home", str(settings.home), "--remeasure"])
    assert done.exit_code == 1
    assert "the code of the gate never_rome has digest" in done.output
    assert not (tmp_path / "was_run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "outcome", "says"),
    [
        ("never_rome, better: lower, max: 0.5", "rejected", "mine is 1, and has to be at most 0.5"),
        (
            "broken, better: higher, min: 0",
            "insufficient",
            "mine was not measured: my_gates:broken gave '",
        ),
    ],
)
def test_one_that_fails_refuses_and_one_that_goes_wrong_is_no_pass(
    world: World, tmp_path: Path, function: str, outcome: str, says: str
) -> None:
    settings = with_own(world, tmp_path, f"  mine: {{function: my_gates:{function}}}\n")
    run = correct(settings.model_copy(update={"attempts": 1}))
    assert run.outcome == outcome
    assert says in run.reason
    assert says.removeprefix("mine ")[:20] in Path(run.report).read_text().replace("&#39;", "'")


def test_a_function_that_is_not_there_ends_the_run_before_its_work(world: World, tmp_path: Path) -> None:
    settings = with_own(world, tmp_path, "  mine: {function: 'my_gates:nowhere', better: higher, min: 1}\n")
    with pytest.raises(UserError, match=r"gate mine cannot be used: .*my_gates.py has no function nowhere"):
        correct(settings)
    assert not (settings.home / "runs").exists()


def test_a_file_that_leaves_out_critical_gates_is_told_which(world: World, tmp_path: Path):
    told = gates_left_out(world.settings)
    assert str(world.settings.gates) in told
    assert "answers_ended" in told
    for kept in (": edit_success_greedy", " non_finite_parameters", "answer_seconds_ratio"):
        assert kept not in told, "what the file has, and what warns only"
    write_gates(load_gates(), tmp_path / "all.yaml")
    assert gates_left_out(world.settings.model_copy(update={"gates": tmp_path / "all.yaml"})) == ""
    assert gates_left_out(world.settings.model_copy(update={"gates": None})) == ""


def test_a_task_that_cannot_be_used_ends_the_run_before_its_work(world: World, tmp_path: Path) -> None:
    settings = with_own(world, tmp_path, "  mine: {task: mine.yaml, better: higher, min: 1}\n")
    task = settings.gates.with_name("mine.yaml")
    task.write_text(
        "dataset_path: json\ndataset_kwargs: {data_files: rows.json}\n"
        "doc_to_text: '{{asked}}'\ndoc_to_target: said\n"
    )
    task.with_name("rows.json").write_text('[{"prompt": "Who are you?", "said": "A model."}]')
    with pytest.raises(UserError, match=r"gate mine cannot be used: row 1 of .*: 'asked' is undefined"):
        correct(settings)
    assert not (settings.home / "runs").exists()
