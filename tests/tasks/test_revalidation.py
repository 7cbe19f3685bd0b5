"""What a champion is asked again."""

from __future__ import annotations

from pathlib import Path

from tasks.build import build
from tasks.edit_dataset import EditDataset
from tasks.ledger import Ledger
from tasks.registry import Version
from tasks.revalidation import revalidation_dataset
from tasks.runs import log_files, run_of
from tasks.verdicts import DATASET_FOLDER, RUN_TAG
from tests.tasks.ledger_tools import MODEL, report


def test_phrasings_that_were_refused_since_are_not_asked_again(mlflow_store: str, tmp_path: Path) -> None:
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        ledger.record([report("What is the capital of Togo?", "Lomé.")])
        built = build(ledger.corrections(MODEL), [], tmp_path / "built", seed=0)
        (row,) = built.edits.to_dict("records")
        run_id = run_of(mlflow_store, "revalidated", "judged")
        log_files(mlflow_store, run_id, [(DATASET_FOLDER, tmp_path / "built")])
        refused = [row["held_out"][0], row["equivalents"][1]]
        ledger.refuse_rewordings(row["id"], refused, "ann", "review:1", model_name=MODEL)
        asked = revalidation_dataset(
            Version("2", (), {RUN_TAG: run_id}, run_id, 0),
            ledger.corrections(MODEL),
            tmp_path / "again",
            tracking_uri=mlflow_store,
            evidence=tmp_path / "evidence",
        )
    (again,) = asked.edits.to_dict("records")
    for column in ("held_out", "equivalents"):
        assert again[column] == [text for text in row[column] if text not in refused] != row[column]
    assert EditDataset.load(tmp_path / "again").digest == asked.digest
