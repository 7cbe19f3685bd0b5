"""What a person sees of a run: bars on a terminal, plain lines in a file or a pipe."""

from __future__ import annotations

import io
import types

import pytest
from rich.console import Console

from flows import console
from flows.console import Narrator, gate_table
from tasks.records import Rejected
from validation.metrics import DEFINITIONS, Status


class Clock:
    """Stands for the module `time`: seconds pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", types.SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def told(*, terminal: bool, clock: Clock, steps: int) -> str:
    """What is written of a stage whose steps take a second each."""
    file = io.StringIO()
    went_on: list[str] = []
    narrator = Narrator(
        Console(file=file, force_terminal=terminal, width=110, highlight=False),
        going_on=went_on.append,
    )
    with narrator.stage("train", "Train the model [x]") as progress:
        for step in range(steps):
            clock.now += 1
            progress(step + 1, steps, "loss 0.25  score [0.5]")
    narrator.say("a line that is " + "very " * 40 + "long")
    assert narrator.seconds == {"train": steps}
    assert went_on == ["Train the model [x]"] * (1 + steps)
    return file.getvalue()


def test_a_log_gets_a_line_when_a_stage_begins_and_one_in_twenty_seconds(clock: Clock):
    assert told(terminal=False, clock=clock, steps=65).splitlines() == [
        "Train the model [x] ...",
        "  Train the model [x]: 20 of 65, loss 0.25 score [0.5], 20 s",
        "  Train the model [x]: 40 of 65, loss 0.25 score [0.5], 40 s",
        "  Train the model [x]: 60 of 65, loss 0.25 score [0.5], 60 s",
        "✓ Train the model [x] 65.0 s",
        "  a line that is " + "very " * 40 + "long",
    ]


def test_a_log_says_that_a_stage_began_before_it_ends(clock: Clock):
    file = io.StringIO()
    narrator = Narrator(Console(file=file, force_terminal=False))
    with narrator.stage("apply", "Apply"):
        assert file.getvalue() == "Apply ...\n"
    assert file.getvalue() == "Apply ...\n✓ Apply 0.0 s\n"


def test_a_stage_that_fails_is_not_said_to_be_done(clock: Clock):
    file = io.StringIO()
    narrator = Narrator(Console(file=file, force_terminal=False))
    with pytest.raises(ZeroDivisionError), narrator.stage("apply", "Apply"):
        _ = 1 / 0
    assert file.getvalue() == "Apply ...\n"
    assert narrator.seconds == {}


def test_a_terminal_gets_a_bar_and_no_such_lines(clock: Clock):
    shown = told(terminal=True, clock=clock, steps=65)
    assert "\x1b[" in shown
    assert "65/65" in shown
    assert "Train the model [x]" in shown
    assert "..." not in shown
    assert ": 20 of 65" not in shown


def test_brackets_in_what_a_model_said_are_shown_as_they_are():
    file = io.StringIO()
    narrator = Narrator(Console(file=file, width=200))
    narrator.say("insufficient: my_gates:f gave '[/INST] I am' as value 1")
    narrator.warn("it said [red]no[/]")
    narrator.left_out([Rejected(source="line 2", reason="no [/] here")])
    assert file.getvalue().splitlines() == [
        "  insufficient: my_gates:f gave '[/INST] I am' as value 1",
        "  warning: it said [red]no[/]",
        "  left out line 2: no [/] here",
    ]


@pytest.mark.parametrize("width", [80, 40])
def test_the_table_of_gates_loses_nothing_where_a_line_is_short(width: int):
    statuses = [Status.PASSED, Status.FAILED, Status.INSUFFICIENT, Status.NOT_APPLICABLE]
    figures = {"severity": "critical", "value": -10.125, "low": -0.931, "high": 1.234, "threshold": 0.275}
    metrics = {
        name: {**figures, "status": statuses[place % len(statuses)].value}
        for place, name in enumerate(DEFINITIONS)
    }
    file = io.StringIO()
    Console(file=file, width=width).print(gate_table("refused: [x] is -10.125", metrics))
    lines = file.getvalue().splitlines()
    assert "refused: [x] is -10.125" in file.getvalue()
    assert "…" not in file.getvalue()
    assert max(map(len, lines)) <= width
    if width == 80:
        rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[3:]}
        marks = ["pass", "FAIL", "too few", "no rows"]
        for place, name in enumerate(DEFINITIONS):
            mark = marks[place % len(marks)]
            figures_shown = "0.275 no rows" if mark == "no rows" else f"-10.125 -0.931 to 1.234 0.275 {mark}"
            assert rows[name] == figures_shown
    else:
        # Names are folded, a part below the other.
        folded = "".join(line.split(" ")[0] for line in lines[3:])
        assert all(name in folded for name in DEFINITIONS)
