"""What a champion is asked again: every correction that is active, and what its own gates asked of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.build import edit_row
from tasks.edit_dataset import EditDataset
from tasks.equivalents import Division
from tasks.evidence import fetch_evidence
from tasks.records import Correction, normalise_prompt
from tasks.registry import Version
from tasks.verdicts import DATASET_FOLDER, RUN_TAG


def revalidation_dataset(
    version: Version, active: Iterable[Correction], folder: Path, *, tracking_uri: str, evidence: Path
) -> EditDataset:
    """The active corrections with the phrasings and locality rows that the version was judged by; saved.

    Phrasings that reviewers have refused since are left out.

    A version that was promoted without a verdict was judged by none: its corrections are asked as reported.

    Raises:
        UserError: the dataset that the version was judged by cannot be read.
    """
    wanted = {correction.id: correction for correction in active}
    edits, locality = [], []
    if RUN_TAG in version.tags:
        with tempfile.TemporaryDirectory() as scratch:
            run_id, out = version.tags[RUN_TAG], Path(scratch)
            fetched = fetch_evidence(tracking_uri, run_id, DATASET_FOLDER, out, evidence=evidence)
            judged_by = EditDataset.load(fetched)
        rows = (row for row in judged_by.edits.to_dict("records") if row["id"] in wanted)
        edits = [_without_refused(row, wanted[row["id"]]) for row in rows]
        locality = judged_by.locality.to_dict("records")
    known = {row["id"] for row in edits}
    edits += [edit_row(one, Division([], [])) for id_, one in wanted.items() if id_ not in known]
    dataset = EditDataset.from_rows(edits, locality, {"version": version.number})
    dataset.save(folder)
    return dataset


def _without_refused(row: dict[str, Any], correction: Correction) -> dict[str, Any]:
    refused = set(map(normalise_prompt, correction.refused))
    kept = {
        column: [text for text in row[column] if normalise_prompt(text) not in refused]
        for column in ("equivalents", "held_out")
    }
    return row | kept
