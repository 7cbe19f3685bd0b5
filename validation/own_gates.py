"""The user's own gates: what their functions and tasks gave, as metrics beside mendflow's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from validation.metrics import Metric, Status
from validation.statistics import bootstrap_mean, wilson
from validation.thresholds import OwnGate


@dataclass(frozen=True)
class OwnValues:
    """What was given, one value an observation, for each model; or in `error` why nothing was."""

    candidate: Sequence[float] = ()
    champion: Sequence[float] = ()
    error: str = ""


def own_metrics(
    gates: Mapping[str, OwnGate], values: Mapping[str, OwnValues], seed: int
) -> tuple[list[Metric], list[Metric]]:
    """The metrics that can be held against their gates, and those that cannot: insufficient, with the reason.

    A metric is the mean of the candidate's values; values that are all 0 or 1 are a proportion.

    Args:
        gates: by metric name.
        values: by metric name, for those that were measured.
        seed: of the bootstrap.
    """
    measured, lacking = [], []
    for name, gate in gates.items():
        found = values.get(name, OwnValues(error="was not measured"))
        candidate = np.array(found.candidate, dtype=np.float64)
        if found.error or not len(candidate):
            nan = math.nan
            metric = Metric(name=name, value=nan, n=0, low=nan, high=nan, direction=gate.better)
            reason = found.error or f"rests on no values: {gate.function or gate.task} gave none"
            update = {"status": Status.INSUFFICIENT, "reason": reason, "severity": gate.severity}
            lacking.append(metric.model_copy(update=update))
            continue
        proportion = bool(np.isin(candidate, (0, 1)).all())
        interval = (
            wilson(int(candidate.sum()), len(candidate)) if proportion else bootstrap_mean(candidate, seed)
        )
        measured.append(
            Metric(
                name=name,
                value=interval.value,
                n=interval.n,
                low=interval.low,
                high=interval.high,
                direction=gate.better,
                champion=float(np.mean(found.champion)) if len(found.champion) else None,
            )
        )
    return measured, lacking


def own_rows(metrics: Sequence[Metric], values: Mapping[str, OwnValues]) -> pd.DataFrame:
    """One row for each of the candidate's values: columns metric, id, value, observations."""
    rows = [
        (metric.name, str(place), float(value), 1)
        for metric in metrics
        for place, value in enumerate(values[metric.name].candidate)
    ]
    return pd.DataFrame(rows, columns=["metric", "id", "value", "observations"])
