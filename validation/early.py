"""Gates that are cheap to measure, and may refuse a candidate before anything else is asked of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum

from validation.metrics import Metric, Severity
from validation.outcomes import EDIT, NEW
from validation.probes import ARITHMETIC, CODE, PROSE
from validation.thresholds import ChampionUnknownError, GateFile, not_applicable


class Stop(StrEnum):
    """How far a candidate was measured that a cheap gate refuses."""

    WEIGHTS = "weights"
    TEXTS = "texts"
    CORRECTIONS = "corrections"

    @property
    def told(self) -> str:
        """As a verdict's reason says it."""
        return {
            Stop.WEIGHTS: "its weights and its tokenizer were compared",
            Stop.TEXTS: "it was given texts to read, and asked nothing",
            Stop.CORRECTIONS: "it was asked the corrections' own prompts",
        }[self]


# Of a whole batch: that its corrections took is asked with all the rest, whose results bisect goes by.
BEFORE_ASKING = (Stop.WEIGHTS, Stop.TEXTS)

# What needs no answers, or those to the corrections' own prompts alone.
CHEAP = frozenset(
    {
        "non_finite_parameters",
        "changed_parameters",
        "undeclared_parameters",
        "relative_delta_norm",
        "changed_renderings",
        PROSE,
        CODE,
        ARITHMETIC,
        EDIT,
        NEW,
    }
)


def refused_early(metrics: Iterable[Metric], gates: GateFile) -> list[str]:
    """The critical gates among the cheap ones that refuse a candidate, whatever else would be measured."""
    refused = []
    for metric in metrics:
        gate = gates.gates.get(metric.name)
        if metric.name not in CHEAP or gate is None or gate.severity is not Severity.CRITICAL:
            continue
        if not_applicable(metric, gate):
            continue
        try:
            least, greatest = gate.bounds(metric)
        except ChampionUnknownError:
            continue
        low = least is not None and metric.value < least
        high = greatest is not None and metric.value > greatest
        if metric.n >= gate.minimum_n and (low or high or math.isnan(metric.value)):
            refused.append(metric.name)
    return refused
