"""What is measured of a candidate before it is asked anything, and whether that is reason to stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.measuring import Measured, Say, Served
from tasks.questions import Question
from tasks.readings import Base, Kept, read_base, read_beside

if TYPE_CHECKING:
    from tasks.models import ModelFolder
    from validation.early import Stop

# Whether the gates refuse what was measured so far, where that is to be seen.
Refused = Callable[[Measured, "Stop"], bool]


def measure_unasked(
    judged: Served,
    folder: ModelFolder,
    asked: Sequence[Question],
    expected: dict[str, int],
    refused: Refused,
    *,
    kept: Path | None,
    say: Say,
) -> tuple[Measured, Base | None]:
    """What needs no answers, the cheapest first, and how the base reads; no base where it stopped before.

    Args:
        judged: the candidate, as it will be served.
        folder: of the candidate.
        asked: what it is to be asked if it is not refused.
        expected: rows that each metric is to have then.
        refused: from `refusal`.
        kept: folder where the base's readings of texts are kept, if they are.
        say: told (done, total, note).
    """
    from editors.delta import Delta
    from tasks.models import load, load_delta
    from validation.early import Stop
    from validation.outcomes import REPLAY, outcomes_frame
    from validation.parameters import parameter_changes
    from validation.probes import PROSE, probes
    from validation.renderings import rendering_changes

    # Compared with the pristine base: against each champion in turn, small losses could add up.
    pristine, tokenizer = load(dataclasses.replace(folder, delta=None))
    delta = Delta({}) if folder.delta is None else load_delta(folder.delta, folder)
    texts = probes()
    # What is replayed is known by its answers alone, where a verdict is verified.
    prompts = [q.asked for q in asked if q.metric != REPLAY]
    measured = Measured(
        outcomes=outcomes_frame([]),
        expected_rows=expected,
        perplexities={},
        parameters=parameter_changes(pristine, judged.model, delta),
        renderings=rendering_changes(tokenizer, judged.tokenizer, prompts, texts[PROSE]),
        teacher_forced=[],
    )
    if refused(measured, Stop.WEIGHTS):
        return dataclasses.replace(measured, stopped=Stop.WEIGHTS), None
    say(0, 1, "texts to read")
    base = read_base(pristine, tokenizer, texts, Kept(kept, folder.digest) if kept else None)
    measured = dataclasses.replace(measured, perplexities=read_beside(judged.model, base))
    stopped = Stop.TEXTS if refused(measured, Stop.TEXTS) else None
    return dataclasses.replace(measured, stopped=stopped), base


def refusal(request: Mapping[str, Any]) -> Refused:
    """Whether the gates refuse what was measured so far, and the measuring is to stop there."""
    from validation.early import refused_early
    from validation.metrics import compute_metrics
    from validation.thresholds import GateFile

    gates = GateFile.model_validate(request["stop_at"]) if "stop_at" in request else None

    def refused(measured: Measured, stop: Stop) -> bool:
        if gates is None or stop not in request["stops"]:
            return False
        metrics = compute_metrics(
            measured.outcomes,
            perplexities=measured.perplexities,
            parameters=measured.parameters,
            renderings=measured.renderings,
        )
        return bool(refused_early(metrics, gates))

    return refused
