"""The model gates: metrics against thresholds, as Great Expectations over the rows they were taken from.

Every gated metric gets an expectation on its rows' mean, one that there are as many rows as were to be
asked, one that they are enough, and one that no value is missing; one that is compared with the champion row
by row, also one on the share of rows that are lost. Its status follows from those results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from validation import outcomes as rows_of
from validation.expectations import ExpectationResult, docs_index, run_suite
from validation.latency import AnswerSeconds
from validation.metric_definitions import DEFINITIONS
from validation.metrics import Metric, Perplexities, Status, compute_metrics, metric_rows
from validation.own_gates import OwnValues, own_metrics, own_rows
from validation.parameters import ParameterChanges
from validation.renderings import RenderingChanges
from validation.thresholds import NOTHING, ChampionUnknownError, Gate, GateFile, describe, not_applicable

SUITE = "model_gates"


@dataclass(frozen=True)
class GateReport:
    """Every metric with its gate's finding, the user's own last, and where the Data Docs are.

    Gated metrics that were not measured are there too, as insufficient. `seed` is the bootstrap's.
    """

    metrics: tuple[Metric, ...]
    results: tuple[ExpectationResult, ...]
    gate_file: GateFile
    outcomes_digest: str
    docs_dir: Path | None
    seed: int = 0

    @property
    def docs_index(self) -> Path | None:
        """The Data Docs page to open."""
        return None if self.docs_dir is None else docs_index(self.docs_dir)


def run_gates(
    outcomes: pd.DataFrame,
    gate_file: GateFile,
    *,
    expected_rows: Mapping[str, int],
    perplexities: Mapping[str, Perplexities] | None = None,
    parameters: ParameterChanges | None = None,
    renderings: RenderingChanges | None = None,
    teacher_forced: Sequence[float] = (),
    answer_seconds: AnswerSeconds | None = None,
    own: Mapping[str, OwnValues] | None = None,
    docs_dir: Path | None = None,
    seed: int = 0,
) -> GateReport:
    """Compute the metrics and hold them against the gates; the same inputs give the same report.

    Args:
        outcomes: the outcomes frame (see `validation.outcomes`).
        gate_file: from `load_gates`.
        expected_rows: how many rows were to be asked for each metric of the outcomes frame. Rows that went
            missing on the way are INSUFFICIENT, and only a stated 0 makes a gate not applicable.
        perplexities: by metric, of the texts in `validation.probes`.
        parameters: from `parameter_changes`.
        renderings: from `rendering_changes`.
        teacher_forced: per correction, for the diagnostic.
        answer_seconds: of both models, in pairs.
        own: what the functions of the user's own gates gave, by metric.
        docs_dir: folder for the Data Docs; none are written without one.
        seed: of the bootstrap.

    Raises:
        ValueError: the outcomes frame is not one, or `expected_rows` names an unknown metric or lacks a
            gated one.
    """
    _check_expected_rows(expected_rows, gate_file)
    measured = {
        metric.name: metric
        for metric in compute_metrics(
            outcomes,
            perplexities=perplexities,
            parameters=parameters,
            renderings=renderings,
            teacher_forced=teacher_forced,
            answer_seconds=answer_seconds,
            seed=seed,
        )
    }
    owned, lacking = own_metrics(gate_file.own, own or {}, seed)
    expectations: list[Any] = []
    thresholds: dict[str, float] = {}
    why: dict[str, str] = {}
    for name, gate in gate_file.gates.items():
        if name not in measured:
            continue
        why[name] = not_applicable(measured[name], gate, expected_rows.get(DEFINITIONS[name].rows or ""))
        if not why[name]:
            expectations += _expectations(measured[name], gate, expected_rows, thresholds)
    for metric in owned:
        expectations += _expectations(metric, gate_file.own[metric.name], expected_rows, thresholds)
    rows = _rows(outcomes, list(measured.values()))
    if owned:
        rows = pd.concat([rows, own_rows(owned, own or {})], ignore_index=True)
    results = (
        run_suite(rows, SUITE, expectations, parameters=thresholds, docs_dir=docs_dir) if expectations else []
    )
    by_metric: dict[str, dict[str, ExpectationResult]] = {}
    for result in results:
        by_metric.setdefault(result.subject, {})[result.check] = result
    gated = []
    for name in DEFINITIONS:
        gate_ = gate_file.gates.get(name)
        if gate_ is None:
            gated += [measured[name]] if name in measured else []
        elif name not in measured:
            nothing = gate_.may_be_empty and expected_rows.get(DEFINITIONS[name].rows or "") == 0
            gated.append(_unmeasured(name, gate_, nothing_to_ask=nothing))
        elif why[name]:
            gated.append(_with(measured[name], gate_, Status.NOT_APPLICABLE, why[name]))
        else:
            expected = expected_rows.get(DEFINITIONS[name].rows or "")
            gated.append(_judged(measured[name], gate_, by_metric[name], expected))
    gated += [_judged(m, gate_file.own[m.name], by_metric[m.name], None) for m in owned]
    gated += lacking
    digest = rows_of.outcomes_digest(outcomes)
    return GateReport(tuple(gated), tuple(results), gate_file, digest, docs_dir, seed)


def _check_expected_rows(expected_rows: Mapping[str, int], gate_file: GateFile) -> None:
    unknown = sorted(set(expected_rows) - set(rows_of.PROTOCOLS))
    if unknown:
        raise ValueError(f"expected_rows names {unknown[0]!r}; use one of {', '.join(rows_of.PROTOCOLS)}")
    for name in gate_file.gates:
        source = DEFINITIONS[name].rows
        if source is not None and source not in expected_rows:
            raise ValueError(
                f"expected_rows says nothing of {source}; give the number of prompts asked, or 0"
            )


def _rows(outcomes: pd.DataFrame, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Rows that the gates read: the metrics' own, and one each for those that are no mean of rows.

    `observations` is what a row stands for: 1, or the n of a figure taken over many; `lost` is 1 where the
    champion is right and the candidate is not.
    """
    rows = metric_rows(outcomes).assign(observations=1)
    rows["lost"] = (rows.pop("champion") - rows["value"]).clip(lower=0)
    summaries = pd.DataFrame(
        [
            (metric.name, "all", metric.value, metric.n, math.nan)
            for metric in metrics
            if DEFINITIONS[metric.name].estimate == "summary"
        ],
        columns=rows.columns,
    )
    return pd.concat([rows, summaries], ignore_index=True) if len(rows) else summaries


def _expectations(
    metric: Metric, gate: Gate, expected_rows: Mapping[str, int], thresholds: dict[str, float]
) -> list[Any]:
    """The expectations of one gate; its thresholds are added to `thresholds` under their parameter names."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    name, definition = metric.name, DEFINITIONS.get(metric.name)

    def shared(check: str, description: str) -> dict[str, Any]:
        return {
            "meta": {"check": check, "subject": name},
            "description": f"{name}: {description}",
            "severity": gate.severity.value,
            "row_condition": Column("metric") == name,
        }

    def parameter(kind: str, value: float | None) -> dict[str, str] | None:
        if value is None:
            return None
        thresholds[f"{name}_{kind}"] = value
        return {"$PARAMETER": f"{name}_{kind}"}

    expectations = [
        gxe.ExpectColumnValuesToNotBeNull(column="value", **shared("measured", "no value is missing")),
        gxe.ExpectColumnSumToBeBetween(
            column="observations",
            min_value=parameter("minimum_n", gate.minimum_n),
            **shared("enough", f"at least {gate.minimum_n} observations"),
        ),
    ]
    count = None
    if definition is not None:
        count = 1 if definition.estimate == "summary" else expected_rows.get(definition.rows or "")
    if count is not None:
        expectations.append(
            gxe.ExpectTableRowCountToBeBetween(
                min_value=count, max_value=count, **shared("complete", f"exactly {count} rows")
            )
        )
    try:
        least, greatest = gate.bounds(metric)
    except ChampionUnknownError:
        return expectations
    expectations.append(
        gxe.ExpectColumnMeanToBeBetween(
            column="value",
            min_value=parameter("min", least),
            max_value=parameter("max", greatest),
            **shared("threshold", _bounds_in_words(least, greatest)),
        )
    )
    if definition is not None and definition.row_by_row and gate.max_worse_than_champion is not None:
        expectations.append(
            gxe.ExpectColumnMeanToBeBetween(
                column="lost",
                max_value=parameter("lost", gate.max_worse_than_champion),
                **shared(
                    "kept", f"at most {describe(gate.max_worse_than_champion)} lost, whatever is regained"
                ),
            )
        )
    return expectations


def _judged(
    metric: Metric, gate: Gate, found: Mapping[str, ExpectationResult], expected: int | None
) -> Metric:
    """The metric with the status that the results of its expectations give it."""
    threshold = found.get("threshold")
    if not found["enough"].success:
        reason = f"rests on {metric.n} observations, and needs {gate.minimum_n} to decide"
        # A figure that is broken is refused however few rows there are.
        status = Status.FAILED if metric.n and math.isnan(metric.value) else Status.INSUFFICIENT
        return _with(metric, gate, status, reason)
    if not found["measured"].success or math.isnan(metric.value):
        return _with(metric, gate, Status.FAILED, "is not a number: part of it could not be measured")
    if "complete" in found and not found["complete"].success:
        return _with(metric, gate, Status.INSUFFICIENT, f"has {metric.n} rows where {expected} were asked")
    if threshold is None:
        return _with(
            metric, gate, Status.INSUFFICIENT, "cannot be compared: the champion's value is not known"
        )
    if not isinstance(threshold.observed, (int, float)) or not math.isclose(
        threshold.observed, metric.value, rel_tol=1e-9, abs_tol=1e-12
    ):
        raise RuntimeError(
            f"{metric.name} is {metric.value} as computed, {threshold.observed} for Great Expectations"
        )
    if not threshold.success:
        reason = f"and has to be {_bounds_in_words(*gate.bounds(metric))}"
    elif "kept" in found and not found["kept"].success:
        lost = round(float(found["kept"].observed or 0) * metric.n)
        reason = f"and has to keep what the champion has right: {lost} of {metric.n} lost"
    else:
        return _with(metric, gate, Status.PASSED, "")
    return _with(metric, gate, Status.FAILED, f"is {describe(metric.value)}, {reason}")


def _with(metric: Metric, gate: Gate, status: Status, reason: str) -> Metric:
    try:
        least, greatest = gate.bounds(metric)
    except ChampionUnknownError:
        least, greatest = gate.min, gate.max
    first, second = (least, greatest) if metric.direction == "higher" else (greatest, least)
    if second is not None and (second < metric.value) == (metric.direction == "higher"):
        # The bound on the other side is the one that was broken.
        first = second if metric.value != second else first
    return metric.model_copy(
        update={
            "status": status,
            "reason": reason,
            "severity": gate.severity,
            "threshold": second if first is None else first,
        }
    )


def _unmeasured(name: str, gate: Gate, *, nothing_to_ask: bool) -> Metric:
    nan = math.nan
    metric = Metric(name=name, value=nan, n=0, low=nan, high=nan, direction=DEFINITIONS[name].direction)
    if nothing_to_ask:
        return _with(metric, gate, Status.NOT_APPLICABLE, NOTHING)
    return _with(metric, gate, Status.INSUFFICIENT, "was not measured")


def _bounds_in_words(least: float | None, greatest: float | None) -> str:
    words = [] if least is None else [f"at least {describe(least)}"]
    words += [] if greatest is None else [f"at most {describe(greatest)}"]
    return " and ".join(words)
