"""The edit dataset: corrections with their phrasings, locality rows, and a manifest with their digest."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from editors.protocol import Kept
from editors.requests import EditRequest
from tasks.neighbours import tfidf_search
from tasks.records import UserError
from validation.matching import answers

if TYPE_CHECKING:
    from datasets import DatasetDict

Role = Literal["editor", "gate"]
Kind = Literal["near", "far"]

EDITS_FILE, LOCALITY_FILE, MANIFEST_FILE = "edits.parquet", "locality.parquet", "manifest.json"
_EDITS: Mapping[str, str] = {
    "id": "text",
    "prompt": "text",
    "target": "text",
    "wrong_output": "text",
    "subject": "text",
    "chat": "bool",
    "equivalents": "texts",
    "held_out": "texts",
    "reports": "int",
    "reporters": "texts",
    "sources": "texts",
    "answerer": "text",
    "suppressed": "texts",
}
# Columns that datasets written before they were there do not have: what the rows of these say. A row that
# says this has the digest that it had then.
_LATER: Mapping[str, Any] = {"answerer": "", "suppressed": []}
_LOCALITY: Mapping[str, str] = {
    "id": "text",
    "prompt": "text",
    "reference": "text",
    "confirmed": "bool",
    "gold": "text",
    "kind": "text",
    "role": "text",
    "chat": "bool",
}


@dataclass(frozen=True)
class EditDataset:
    """Corrections to make, and prompts whose answers must stay.

    `edits`: one row a correction; `equivalents` are for the editor, `held_out` is for the gates only;
    `answerer` is the program that alone gave the target, empty where a person did; `suppressed` are outputs
    that must never appear.
    `locality`: one row a prompt, the champion's answer as its reference, its role editor or gate.
    """

    edits: pd.DataFrame
    locality: pd.DataFrame
    manifest: Mapping[str, Any]

    @classmethod
    def from_rows(
        cls,
        edits: Sequence[Mapping[str, Any]],
        locality: Sequence[Mapping[str, Any]],
        manifest: Mapping[str, Any],
    ) -> EditDataset:
        """A dataset of plain rows, in the order of their ids; its digest goes into the manifest."""
        frames = _frame(edits, _EDITS), _frame(locality, _LOCALITY)
        return cls(*frames, {**manifest, "digest": _digest(*frames)})

    @classmethod
    def load(cls, folder: Path) -> EditDataset:
        """Read a dataset written by `save`.

        Raises:
            UserError: there is no finished dataset in the folder, or its rows are not those of its manifest.
        """
        import pyarrow.parquet as parquet

        try:
            manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            edits = _frame(parquet.read_table(folder / EDITS_FILE).to_pylist(), _EDITS)
            locality = _frame(parquet.read_table(folder / LOCALITY_FILE).to_pylist(), _LOCALITY)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"there is no readable edit dataset in {folder} ({error}); build it again"
            ) from error
        if _digest(edits, locality) != manifest.get("digest"):
            raise UserError(
                f"the edit dataset in {folder} is damaged: its digest is not its manifest's; build it again"
            )
        return cls(edits, locality, manifest)

    def save(self, folder: Path) -> None:
        """Write Parquet and JSON; the manifest last, so that an interrupted write is no dataset."""
        import pyarrow.parquet as parquet

        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        for name, frame, columns in (
            (EDITS_FILE, self.edits, _EDITS),
            (LOCALITY_FILE, self.locality, _LOCALITY),
        ):
            parquet.write_table(_table(frame, columns), folder / f".{name}")
            os.replace(folder / f".{name}", folder / name)
        text = json.dumps(self.manifest, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        (folder / f".{MANIFEST_FILE}").write_text(text, encoding="utf-8")
        os.replace(folder / f".{MANIFEST_FILE}", folder / MANIFEST_FILE)

    @property
    def digest(self) -> str:
        """SHA-256 over the rows; the manifest does not count, nor the order of the rows."""
        return str(self.manifest["digest"])

    def requests(self, *, held_out: bool = False, locality: int = 3) -> list[EditRequest]:
        """One request a correction, with the editor's phrasings or, for a gate, the held-out ones.

        Args:
            held_out: Give the held-out phrasings as `equivalents`, and no locality prompts.
            locality: How many of the editor's locality prompts, the nearest ones, each request carries.
        """
        offered = [] if held_out or not locality else self.locality_prompts("editor")
        nearest = tfidf_search(list(self.edits["prompt"]), offered, locality).nearest.tolist()
        return [
            EditRequest(
                id=row["id"],
                prompt=row["prompt"],
                target=row["target"],
                equivalents=tuple(row["held_out" if held_out else "equivalents"]),
                locality=tuple(offered[i] for i in indices),
                subject=row["subject"],
                chat=row["chat"],
            )
            for row, indices in zip(self.edits.to_dict("records"), nearest, strict=True)
        ]

    def locality_prompts(self, role: Role, kind: Kind | None = None) -> list[str]:
        """Prompts whose answers must stay, for one role, of one kind or of both."""
        chosen = self.locality["role"] == role
        if kind is not None:
            chosen &= self.locality["kind"] == kind
        return list(self.locality.loc[chosen, "prompt"])

    def kept(self) -> list[Kept]:
        """What an editor is told to keep: the champion's answers, and how much of each makes it right."""
        rows = self.locality[self.locality["role"] == "editor"].to_dict("records")
        return [
            Kept(
                row["prompt"],
                row["reference"],
                bool(row["chat"]),
                _opening(row["reference"], row["gold"]) if row["confirmed"] else None,
            )
            for row in rows
        ]

    def dataset_dict(self) -> DatasetDict:
        """The same rows as a Hugging Face `DatasetDict` with the splits `edits` and `locality`."""
        from datasets import Dataset, DatasetDict, Features

        splits = {"edits": _table(self.edits, _EDITS), "locality": _table(self.locality, _LOCALITY)}
        return DatasetDict(
            {
                name: Dataset.from_dict(table.to_pydict(), features=Features.from_arrow_schema(table.schema))
                for name, table in splits.items()
            }
        )


def _opening(answer: str, gold: str | None) -> str:
    """The shortest beginning of an answer, in whole words, that says the gold part; else all of it."""
    ends = (word.end() for word in re.finditer(r"\S+", answer))
    return next((answer[:end] for end in ends if gold and answers(answer[:end], gold)), answer)


def _frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Rows as a frame sorted by id; texts and lists stay Python objects, so that None stays None."""
    ordered = sorted(rows, key=lambda row: row["id"])
    frame = pd.DataFrame(
        {name: pd.Series([_cell(row, name) for row in ordered], dtype=object) for name in columns}
    )
    for name, kind in columns.items():
        if kind in {"bool", "int"}:
            frame[name] = frame[name].astype(kind)
    return frame


def _cell(row: Mapping[str, Any], name: str) -> Any:
    return row.get(name, _LATER[name]) if name in _LATER else row[name]


def _table(frame: pd.DataFrame, columns: Mapping[str, str]) -> Any:
    import pyarrow as pa

    kinds = {"text": pa.string(), "texts": pa.list_(pa.string()), "bool": pa.bool_(), "int": pa.int64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    return pa.Table.from_pylist(frame.to_dict("records"), schema=schema)


def _digest(edits: pd.DataFrame, locality: pd.DataFrame) -> str:
    told = [
        {name: cell for name, cell in row.items() if name not in _LATER or cell != _LATER[name]}
        for row in edits.to_dict("records")
    ]
    rows = {"edits": told, "locality": locality.to_dict("records")}
    canonical = json.dumps(rows, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
