"""Metrics taken over outcomes, each with n, a 95 % interval and the champion's value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, computed_field

from validation import outcomes as rows_of
from validation.endings import corrected_endings, kept_endings
from validation.latency import AnswerSeconds, seconds_ratio
from validation.lengths import corrected_length_ratio, kept_length_ratio
from validation.metric_definitions import DEFINITIONS, DELTA_NORM, TEACHER_FORCED, Direction
from validation.parameters import ParameterChanges
from validation.renderings import RenderingChanges
from validation.repetition import repetition
from validation.statistics import Interval, bootstrap, bootstrap_mean, bootstrap_quantile, wilson


class Severity(StrEnum):
    """What a failing gate does: a critical one refuses the candidate, a warning is shown."""

    CRITICAL = "critical"
    WARNING = "warning"


class Status(StrEnum):
    """How a metric stands with its gate."""

    PASSED = "passed"
    FAILED = "failed"
    INSUFFICIENT = "insufficient"
    NOT_APPLICABLE = "not_applicable"
    DIAGNOSTIC = "diagnostic"


class Metric(BaseModel):
    """One figure of the validation, with everything needed to read it."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    name: str = Field(description="the metric, its protocol in its name")
    value: float = Field(description="the candidate's figure; NaN where it could not be measured")
    n: int = Field(description="observations behind it: prompts, texts or parameters")
    low: float = Field(description="lower end of the 95 % interval; NaN for counts")
    high: float = Field(description="upper end of the 95 % interval; NaN for counts")
    direction: Direction = Field(description="which way is better")
    champion: float | None = Field(default=None, description="the champion's figure on the same rows")
    threshold: float | None = Field(default=None, description="the bound that decided, absolute or relative")
    severity: Severity | None = Field(default=None, description="of the gate; none for a diagnostic")
    status: Status = Field(default=Status.DIAGNOSTIC, description="how it stands with its gate")
    reason: str = Field(
        default="",
        description="where the gate did not pass, what to say of the metric: 'is 0.8, and has to be ...'",
    )

    @computed_field(description="whether the gate passed; none where there is none to pass")  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool | None:
        """Whether the gate passed; None for a diagnostic and where there is nothing to measure."""
        if self.status in (Status.DIAGNOSTIC, Status.NOT_APPLICABLE):
            return None
        return self.status is Status.PASSED

    @property
    def protocol(self) -> str:
        """What was measured, in one line."""
        known = DEFINITIONS.get(self.name)
        return known.protocol if known else "what a function or task of the user's gives, on average"


@dataclass(frozen=True)
class Perplexities:
    """(summed negative log-likelihood in nats, tokens) of the same texts under both models."""

    champion: Sequence[tuple[float, int]]
    candidate: Sequence[tuple[float, int]]

    def __post_init__(self) -> None:
        if [tokens for _, tokens in self.champion] != [tokens for _, tokens in self.candidate]:
            raise ValueError(
                "champion and candidate were given different texts; measure both on the same ones"
            )


def metric_rows(outcomes: pd.DataFrame, teacher_forced: Sequence[float] = ()) -> pd.DataFrame:
    """What every metric that is a mean is the mean of: columns metric, id, value, champion (its own value).

    A mark that is missing stays missing, so that the metric is NaN and its gate fails.
    """
    parts = []

    def add(metric: str, frame: pd.DataFrame, value: pd.Series, champion: pd.Series | float) -> None:
        parts.append(
            pd.DataFrame({"id": frame["id"], "value": value, "champion": champion}).assign(metric=metric)
        )

    def of(metric: str) -> pd.DataFrame:
        return outcomes[outcomes["metric"] == metric]

    whole = (
        rows_of.EDIT,
        rows_of.NEW,
        rows_of.EQUIVALENCE,
        rows_of.NEW_EQUIVALENCE,
        rows_of.RETENTION,
        rows_of.EQUIVALENCE_RETENTION,
        rows_of.ANSWERED,
        rows_of.LOCALITY,
        rows_of.REPLAY,
    )
    for metric in whole:
        frame = of(metric)
        add(metric, frame, frame["candidate_ok"], frame["champion_ok"])
    frame = of(rows_of.SUPPRESSED)
    add(rows_of.SUPPRESSED, frame, 1 - frame["candidate_ok"], 1 - frame["champion_ok"])
    for kind in ("near", "far"):
        frame = of(rows_of.LOCALITY)
        frame = frame[frame["kind"] == kind]
        add(f"{rows_of.LOCALITY}_{kind}", frame, frame["candidate_ok"], frame["champion_ok"])
    frame = of(rows_of.LOCALITY)
    add(rows_of.SUBSTANCE, frame, rows_of.substance(frame, "candidate"), rows_of.substance(frame, "champion"))
    frame = of(rows_of.DRAWDOWN)
    add(rows_of.DRAWDOWN, frame, frame["champion_ok"] - frame["candidate_ok"], 0.0)
    frame = frame[frame["champion_ok"] != 0]
    unseen = frame[frame["id"].isin(of(rows_of.LOCALITY)["id"])]
    for metric, asked in (("answers_kept", frame), ("answers_kept_unseen", unseen)):
        kept = asked["candidate_ok"].where(asked["champion_ok"].notna())
        add(metric, asked, kept, asked["champion_ok"])
    for metric, ended in (
        (rows_of.ANSWERS_ENDED, corrected_endings(outcomes)),
        (rows_of.KEPT_ANSWERS_ENDED, kept_endings(outcomes)),
    ):
        if ended is not None:
            add(metric, ended, ended["candidate_ended"], ended["champion_ended"])
    frame = of(rows_of.LOCALITY)
    frame = frame[frame["locality_kl"].notna()]
    add("locality_kl_mean", frame, frame["locality_kl"], 0.0)
    forced = pd.DataFrame({"id": [str(place) for place in range(len(teacher_forced))]})
    add(TEACHER_FORCED, forced, pd.Series(list(teacher_forced), dtype="float64"), np.nan)
    rows = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return rows.astype({"value": "float64", "champion": "float64"})[["metric", "id", "value", "champion"]]


def compute_metrics(
    outcomes: pd.DataFrame,
    *,
    perplexities: Mapping[str, Perplexities] | None = None,
    parameters: ParameterChanges | None = None,
    renderings: RenderingChanges | None = None,
    teacher_forced: Sequence[float] = (),
    answer_seconds: AnswerSeconds | None = None,
    seed: int = 0,
) -> list[Metric]:
    """Every metric of `DEFINITIONS` that was measured, in that order; ungated, see `validation.gates`.

    Metrics over outcome rows are always there, with n = 0 and value NaN where there are no rows; but those
    in `validation.outcomes.OPTIONAL` are not without rows, nor those of endings without their columns.

    Args:
        outcomes: the outcomes frame.
        perplexities: by metric, of the texts in `validation.probes`.
        parameters: what `parameter_changes` found.
        renderings: what `rendering_changes` found.
        teacher_forced: per correction, share of target tokens ranked first.
        answer_seconds: of both models, in pairs.
        seed: of the bootstrap.

    Raises:
        ValueError: the outcomes frame is not one (see `check_outcomes`).
    """
    rows_of.check_outcomes(outcomes)
    rows = metric_rows(outcomes, teacher_forced)
    metrics: dict[str, Metric] = {}

    def put(name: str, interval: Interval, champion: float | None = None) -> None:
        metrics[name] = Metric(
            name=name,
            value=interval.value,
            n=interval.n,
            low=interval.low,
            high=interval.high,
            direction=DEFINITIONS[name].direction,
            champion=None if champion is None or math.isnan(champion) else champion,
        )

    for name, definition in DEFINITIONS.items():
        if definition.estimate == "summary" or (name == TEACHER_FORCED and not teacher_forced):
            continue
        mine = rows[rows["metric"] == name]
        if name in rows_of.OPTIONAL and mine.empty:
            continue
        if name in (rows_of.ANSWERS_ENDED, rows_of.KEPT_ANSWERS_ENDED) and not rows_of.has_endings(outcomes):
            continue
        values = mine["value"].to_numpy()
        proportion = definition.estimate == "proportion" and not np.isnan(values).any()
        interval = wilson(int(values.sum()), len(values)) if proportion else bootstrap_mean(values, seed)
        put(name, interval, float(mine["champion"].mean(skipna=False)) if len(mine) else None)

    if rows_of.SUPPRESSED in metrics:
        put(rows_of.SUPPRESSED_WORST, *_worst_of(rows[rows["metric"] == rows_of.SUPPRESSED]))
    divergences = rows.loc[rows["metric"] == "locality_kl_mean", "value"].to_numpy()
    put("locality_kl_p95", bootstrap_quantile(divergences, 0.95, seed), 0.0)
    put("answer_length_ratio", corrected_length_ratio(outcomes, seed), 1.0)
    put("kept_answer_length_ratio", kept_length_ratio(outcomes, seed), 1.0)
    put("repeated_trigrams", *repetition(outcomes, seed))
    for name, read in (perplexities or {}).items():
        put(name, _perplexity_ratio(read, seed), 1.0)
    if parameters is not None:
        for name, figure in (
            ("non_finite_parameters", len(parameters.non_finite)),
            ("changed_parameters", len(parameters.changed)),
            ("undeclared_parameters", len(parameters.undeclared)),
        ):
            put(name, Interval(float(figure), math.nan, math.nan, parameters.compared))
        put(DELTA_NORM, _delta_norm(parameters))
    if renderings is not None:
        counted = Interval(float(renderings.changed), math.nan, math.nan, renderings.compared)
        put("changed_renderings", counted)
    if answer_seconds is not None:
        put("answer_seconds_ratio", seconds_ratio(answer_seconds, seed), 1.0)
    return [metrics[name] for name in DEFINITIONS if name in metrics]


def _worst_of(rows: pd.DataFrame) -> tuple[Interval, float | None]:
    """The largest share of a correction, and the champion's of the same one; NaN where a mark is missing."""
    if rows["value"].isna().any():
        return Interval(math.nan, math.nan, math.nan, len(rows)), None
    worst = rows[rows["id"] == rows.groupby("id")["value"].mean().idxmax()]
    return wilson(int(worst["value"].sum()), len(worst)), float(worst["champion"].mean(skipna=False))


def _delta_norm(parameters: ParameterChanges) -> Interval:
    """The largest relative norm; without observations where all of the delta is appended."""
    norm = parameters.largest_relative_norm
    if norm is None:
        return Interval(math.nan, math.nan, math.nan, 0)
    return Interval(norm, math.nan, math.nan, parameters.compared)


def _perplexity_ratio(perplexities: Perplexities, seed: int) -> Interval:
    # Texts shorter than two tokens predict nothing and would leave a resample without tokens.
    pairs = [
        (before, after, tokens)
        for (before, tokens), (after, _) in zip(perplexities.champion, perplexities.candidate, strict=True)
        if tokens
    ]
    before, after, tokens = np.array(pairs, dtype=np.float64).reshape(-1, 3).T

    def ratio(
        before: NDArray[np.float64], after: NDArray[np.float64], tokens: NDArray[np.float64], axis: int = -1
    ) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            return np.exp((after.sum(axis=axis) - before.sum(axis=axis)) / tokens.sum(axis=axis))

    return bootstrap((before, after, tokens), ratio, seed)
