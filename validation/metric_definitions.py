"""Every metric that there is: what it measures, in a line, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from validation import outcomes as rows_of
from validation.probes import ARITHMETIC, CODE, PROSE

Direction = Literal["higher", "lower"]

TEACHER_FORCED = "edit_success_teacher_forced"
DELTA_NORM = "relative_delta_norm"


@dataclass(frozen=True)
class MetricDefinition:
    """What a metric measures, which way is better, and the rows of the outcomes frame it is taken over.

    `row_by_row`: a row that the champion has right and the candidate has not is made up for by no other row.
    """

    direction: Direction
    protocol: str
    estimate: Literal["proportion", "mean", "summary"]
    rows: str | None = None
    row_by_row: bool = False


DEFINITIONS: dict[str, MetricDefinition] = {
    rows_of.EDIT: MetricDefinition(
        "higher", "share of corrections whose own prompt gives the target", "proportion", rows_of.EDIT
    ),
    rows_of.NEW: MetricDefinition(
        "higher", "the same over those that the champion does not hold", "proportion", rows_of.NEW
    ),
    rows_of.EQUIVALENCE: MetricDefinition(
        "higher",
        "share of held-out phrasings, seen by no editor, that give the target",
        "proportion",
        rows_of.EQUIVALENCE,
    ),
    rows_of.NEW_EQUIVALENCE: MetricDefinition(
        "higher",
        "the same over corrections that the champion does not hold",
        "proportion",
        rows_of.NEW_EQUIVALENCE,
    ),
    rows_of.RETENTION: MetricDefinition(
        "higher",
        "share of earlier corrections that give their target; a regained one makes up for no lost one",
        "proportion",
        rows_of.RETENTION,
        row_by_row=True,
    ),
    rows_of.EQUIVALENCE_RETENTION: MetricDefinition(
        "higher",
        "the same of held-out phrasings of earlier corrections, each for itself",
        "proportion",
        rows_of.EQUIVALENCE_RETENTION,
        row_by_row=True,
    ),
    rows_of.ANSWERED: MetricDefinition(
        "higher",
        "of corrections a program answered, the share of prompts and held-out phrasings that give the target",
        "proportion",
        rows_of.ANSWERED,
    ),
    rows_of.SUPPRESSED: MetricDefinition(
        "lower",
        "share of sampled answers (20 a phrasing, temperature 1) that show an output that must never appear",
        "proportion",
        rows_of.SUPPRESSED,
    ),
    rows_of.SUPPRESSED_WORST: MetricDefinition(
        "lower",
        "the same of the one correction whose samples show it most often",
        "summary",
        rows_of.SUPPRESSED,
    ),
    "answers_kept": MetricDefinition(
        "higher",
        "of the prompts the champion is known to answer right, the share still answered right",
        "proportion",
    ),
    "answers_kept_unseen": MetricDefinition(
        "higher", "the same over those prompts that the editor was not told to keep", "proportion"
    ),
    rows_of.LOCALITY: MetricDefinition(
        "higher",
        "share of prompts unseen by the editor that begin with the champion's first five words",
        "proportion",
        rows_of.LOCALITY,
    ),
    rows_of.REPLAY: MetricDefinition(
        "higher",
        "share of recent requests, those that corrections ask left out, answered with the same substance",
        "proportion",
        rows_of.REPLAY,
    ),
    f"{rows_of.LOCALITY}_near": MetricDefinition(
        "higher", "the same over near prompts: alike in form or meaning, other answer", "proportion"
    ),
    f"{rows_of.LOCALITY}_far": MetricDefinition("higher", "the same over unrelated prompts", "proportion"),
    rows_of.SUBSTANCE: MetricDefinition(
        "higher",
        "share of all of them with the champion's words as far as the third that the prompt does not have",
        "proportion",
    ),
    rows_of.DRAWDOWN: MetricDefinition(
        "lower",
        "share right with the champion minus share right with the candidate, same prompts",
        "mean",
        rows_of.DRAWDOWN,
    ),
    "locality_kl_mean": MetricDefinition(
        "lower", "mean KL(champion || candidate) over the tokens of locality answers, nats", "mean"
    ),
    "locality_kl_p95": MetricDefinition("lower", "95th percentile over prompts of the same, nats", "summary"),
    PROSE: MetricDefinition("lower", "candidate's perplexity over the base's, same neutral prose", "summary"),
    CODE: MetricDefinition("lower", "the same of short pieces of program code", "summary"),
    ARITHMETIC: MetricDefinition("lower", "the same of short sums and other arithmetic", "summary"),
    "answer_length_ratio": MetricDefinition(
        "lower",
        "words in answers to corrected prompts, over those to the target's end (or in the champion's answer)",
        "summary",
    ),
    "kept_answer_length_ratio": MetricDefinition(
        "higher", "words in answers to prompts that must stay, over those of the champion's", "summary"
    ),
    rows_of.ANSWERS_ENDED: MetricDefinition(
        "higher",
        "of answers to corrected prompts that give the target, or end with the champion, the share that end",
        "proportion",
    ),
    rows_of.KEPT_ANSWERS_ENDED: MetricDefinition(
        "higher",
        "of prompts that must stay and whose answer the champion ends, the share whose answer still ends",
        "proportion",
    ),
    "repeated_trigrams": MetricDefinition(
        "lower", "share of three words in a row that the same answer held before, all answers", "summary"
    ),
    "non_finite_parameters": MetricDefinition("lower", "parameters holding NaN or infinity", "summary"),
    "changed_parameters": MetricDefinition("higher", "parameters that differ from the base's", "summary"),
    "undeclared_parameters": MetricDefinition(
        "lower", "parameters missing, added, or changed otherwise than the delta says", "summary"
    ),
    DELTA_NORM: MetricDefinition(
        "lower", "norm of a parameter's change over its norm in the base, the largest of all", "summary"
    ),
    "changed_renderings": MetricDefinition(
        "lower", "prompts and texts that the candidate's tokenizer and template read otherwise", "summary"
    ),
    "answer_seconds_ratio": MetricDefinition(
        "lower", "candidate's seconds for an answer over the champion's, same prompts and length", "summary"
    ),
    TEACHER_FORCED: MetricDefinition(
        "higher", "share of target tokens ranked first given the ones before; a diagnostic, no gate", "mean"
    ),
}
