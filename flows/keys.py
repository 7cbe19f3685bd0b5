"""What makes two correction runs the same run, and two judgements the same judgement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from flows.settings import CorrectSettings


def run_key(settings: CorrectSettings, ledger_digest: str, base_digest: str, editor_digest: str) -> str:
    """What a run's folder is named by: its inputs, whatever was interrupted or served meanwhile."""
    parts = [settings.model_name, base_digest, editor_digest, ledger_digest]
    chosen = settings.model_dump(
        mode="json",
        include={
            "held_out",
            "equivalents",
            "rewordings",
            "rewriter",
            "neighbours",
            "encoder",
            "far",
            "keep_confirmed",
            "gate_share",
            "reporter_limit",
            "seed",
        },
    )
    return _digest([parts, chosen])


def judgement_key(
    settings: CorrectSettings,
    run: str,
    *,
    dataset: str,
    delta: str,
    champion: str,
    gates: str,
    replay: Sequence[tuple[str, bool]] = (),
) -> str:
    """What an MLflow run is found by: all that the verdict, its figures and its report follow from.

    So one verdict never takes the place of another's files.

    Args:
        settings: of the run.
        run: its `run_key`.
        dataset: digest of the dataset that is asked.
        delta: digest of what is judged.
        champion: version that it is compared with.
        gates: digest of the gates.
        replay: requests that are asked besides.
    """
    return _digest([run, dataset, delta, champion, gates, settings.promotion, *map(list, replay)])


def _digest(parts: list[object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
