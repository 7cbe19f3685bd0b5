from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.validation.examples import by_name, gate, outcomes
from validation.gates import GateReport
from validation.metrics import Metric, Status
from validation.own_gates import OwnValues
from validation.report import write_report
from validation.thresholds import GateFile, GateFileError, load_gates, write_gates
from validation.verdict import Verdict, decide, read_decision, write_decision

POLITE = "{function: 'my_gates:polite', better: higher, min: 0.75}"
FILE = (
    "version: 1\ngates: {edit_success_greedy: {min: 0.9, minimum_n: 1, severity: critical}}\n"
    "own:\n  polite: %s\n"
)


def gates(tmp_path: Path, own: str = POLITE) -> GateFile:
    path = tmp_path / "gates.yaml"
    path.write_text(FILE % own)
    return load_gates(path)


def report(file: GateFile, own: dict[str, OwnValues] | None) -> GateReport:
    return gate(outcomes(), gates=file, own=own)


def polite(of: GateReport) -> Metric:
    return by_name(of)["polite"]


@pytest.mark.parametrize(
    ("own", "values", "verdict", "status"),
    [
        (POLITE, OwnValues([1, 1, 1, 0], [1] * 4), Verdict.PROMOTE, Status.PASSED),
        (POLITE, OwnValues([1, 0, 1, 0], [1] * 4), Verdict.REJECT, Status.FAILED),
        (POLITE, OwnValues(error="was not measured: it failed"), Verdict.INSUFFICIENT, Status.INSUFFICIENT),
        (POLITE, OwnValues(), Verdict.INSUFFICIENT, Status.INSUFFICIENT),
        (POLITE, None, Verdict.INSUFFICIENT, Status.INSUFFICIENT),
        (
            "{function: 'm:f', better: lower, max: 3.5}",
            OwnValues([3.0, 4.0], [9.0, 9.0]),
            Verdict.PROMOTE,
            Status.PASSED,
        ),
        (
            "{function: 'm:f', better: lower, max: 3.4}",
            OwnValues([3.0, 4.0], [9.0, 9.0]),
            Verdict.REJECT,
            Status.FAILED,
        ),
        (
            "{function: 'm:f', better: lower, max_worse_than_champion: 0.5}",
            OwnValues([3.0, 4.0], [3.0, 2.0]),
            Verdict.REJECT,
            Status.FAILED,
        ),
        (
            "{function: 'm:f', better: higher, max_worse_than_champion: 0.5}",
            OwnValues([3.0, 4.0], []),
            Verdict.INSUFFICIENT,
            Status.INSUFFICIENT,
        ),
        (
            "{function: 'm:f', better: higher, min: 1, minimum_n: 3}",
            OwnValues([3.0, 4.0], [3.0, 4.0]),
            Verdict.INSUFFICIENT,
            Status.INSUFFICIENT,
        ),
        (
            "{function: 'm:f', better: higher, min: 1, severity: warning}",
            OwnValues([0.0], [0.0]),
            Verdict.PROMOTE,
            Status.FAILED,
        ),
    ],
)
def test_a_gate_of_ones_own_decides_like_any_other(
    tmp_path: Path, own: str, values: OwnValues | None, verdict: Verdict, status: Status
) -> None:
    of = report(gates(tmp_path, own), None if values is None else {"polite": values})
    decision = decide(of)
    assert (decision.verdict, polite(of).status) == (verdict, status), decision.reason
    if status is not Status.PASSED and verdict is not Verdict.PROMOTE:
        assert decision.reason.split(": ", 1)[1].startswith(f"polite {polite(of).reason}")


def test_its_figures_have_an_interval_and_the_champions_beside_them(tmp_path: Path) -> None:
    of = report(gates(tmp_path), {"polite": OwnValues([1, 1, 1, 0], [1, 1, 0, 0])})
    metric = polite(of)
    assert (metric.value, metric.n, metric.champion, metric.threshold) == (0.75, 4, 0.5, 0.75)
    assert 0.2 < metric.low < 0.75 < metric.high < 1
    write_decision(decide(of), tmp_path / "verdict.json")
    assert read_decision(tmp_path / "verdict.json").digest() == decide(of).digest()
    write_report(
        tmp_path / "report.html",
        title="t",
        summary={},
        verdict=decide(of),
        metrics=of.metrics,
        outcomes=outcomes(),
    )
    assert "what a function or task of the user&#39;s gives" in (tmp_path / "report.html").read_text()


def test_a_file_without_any_is_written_and_counted_as_before(tmp_path: Path) -> None:
    of = report(load_gates(), None)
    assert "own" not in json.loads(decide(of).model_dump_json())["gates"]
    ours = gates(tmp_path)
    write_gates(ours, tmp_path / "again.yaml")
    assert load_gates(tmp_path / "again.yaml") == ours
    assert ours.digest() != gates(tmp_path, POLITE.replace("0.75", "0.7")).digest()
    assert ours.digest() != gates(tmp_path, POLITE.replace("polite'", "rude'")).digest()


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ("{function: 'my_gates', better: higher, min: 1}", "own.polite.function"),
        ("{function: 'my gates:polite', better: higher, min: 1}", "own.polite.function"),
        ("{function: '../up:polite', better: higher, min: 1}", "own.polite.function"),
        ("{function: 'm:f', better: more, min: 1}", "own.polite.better"),
        ("{function: 'm:f', min: 1}", "own.polite.better"),
        ("{function: 'm:f', better: higher, max: 1}", "min is the bound that guards"),
        ("{function: 'm:f', better: higher}", "needs min, max"),
        ("{function: 'm:f', better: higher, min: 1, may_be_empty: true}", "own.polite.may_be_empty"),
        ("{function: 'm:f', better: higher, min: 1}\n  drawdown: " + POLITE, "one of mendflow's"),
        ("{function: 'm:f', better: higher, min: 1}\n  'a b': " + POLITE, "no plain word"),
    ],
)
def test_a_gate_that_could_not_refuse_is_refused(tmp_path: Path, own: str, named: str) -> None:
    with pytest.raises(GateFileError, match=named):
        gates(tmp_path, own)
