"""The demo's `summary.json`: everything a program may want to know of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from flows.correct import CorrectionRun
from flows.settings import CorrectSettings
from tasks.edit_dataset import EditDataset
from tasks.registry import describe


def write_summary(
    file: Path,
    settings: CorrectSettings,
    run: CorrectionRun,
    folders: dict[str, Path],
    seconds: dict[str, float],
    rolled: dict[str, Any],
) -> None:
    """Write the summary: of the run, the folders of checkpoints, seconds by stage, and the rollback."""
    summary = _summary(settings, run, folders, seconds, rolled)
    file.write_text(json.dumps(_without_nan(summary), indent=2, allow_nan=False))


def _summary(
    settings: CorrectSettings,
    run: CorrectionRun,
    folders: dict[str, Path],
    seconds: dict[str, float],
    rolled: dict[str, Any],
) -> dict[str, Any]:
    import pandas as pd

    data = EditDataset.load(Path(run.folder) / "dataset")
    outcomes = pd.read_parquet(Path(run.folder) / "measured" / "outcomes.parquet")
    by_id = {str(key): rows for key, rows in outcomes.groupby("id")}
    corrections = []
    for row in data.edits.to_dict("records"):
        asked = by_id[row["id"]]
        edit = asked[asked["metric"] == "edit_success_greedy"].iloc[0]
        held = asked[asked["metric"] == "equivalence_success_greedy"]
        corrections.append(
            {
                "id": row["id"],
                "prompt": row["prompt"],
                "wrong": row["wrong_output"],
                "target": row["target"],
                "held_out": list(row["held_out"]),
                "result": edit["candidate_output"],
                "success": bool(edit["candidate_ok"]),
                "held_out_results": [
                    {
                        "prompt": h["prompt"],
                        "result": h["candidate_output"],
                        "success": bool(h["candidate_ok"]),
                    }
                    for h in held.to_dict("records")
                ],
            }
        )
    state = describe(settings.model_name, tracking_uri=settings.tracking)
    return {
        "tracking_uri": settings.tracking,
        "ledger_url": settings.ledger,
        "registered_model": settings.model_name,
        "versions": {"base": "1", "champion": state.champion, "previous": state.previous},
        "folders": {name: str(folder) for name, folder in folders.items()},
        "chat": settings.chat,
        "corrections": corrections,
        "set_aside": run.set_aside,
        "metrics": run.metrics,
        "verdict": run.outcome,
        "editor": run.editor,
        "cost": run.cost,
        "rollback": {k: v for k, v in rolled.items() if k != "story"},
        "report": run.report,
        "mlflow_run_id": run.run_id,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def _without_nan(value: Any) -> Any:
    """The value with null for what could not be measured: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_without_nan(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
