"""Error reports from JSON lines, CSV and Parquet files. Bad rows are rejected by line number."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.records import Collected, ErrorReport, Rejected, UserError
from tasks.refusals import wanted

TARGET_COLUMNS = ("target", "desired_output", "expected")
EQUIVALENT_COLUMNS = ("rephrases", "equivalents")
COLUMNS = (
    "prompt",
    *TARGET_COLUMNS,
    "wrong_output",
    *EQUIVALENT_COLUMNS,
    "locality",
    "subject",
    "reporter",
    "severity",
    "suppress",
)

_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}

# A row by column, or why it cannot be read.
_Row = Mapping[str, Any] | str


def from_file(path: str | Path, model_name: str, *, chat: bool) -> Collected:
    """Error reports in a .jsonl, .csv or .parquet file, dated when the file was last changed.

    Columns: `prompt` and `target` (or `desired_output`, `expected`; null where not known), and as wanted
    `wrong_output` (or `output`), `rephrases` (or `equivalents`) and `locality` (lists; in CSV as JSON, or
    parted by `|`), `subject`, `reporter`, `severity`, and `suppress`: true where the output must never appear
    again, and a refusal is wanted where no target is named. Other columns are ignored;
    empty texts are for the ledger to judge.

    Raises:
        UserError: the file is missing, of another kind, unreadable, or lacks a column that is needed.
    """
    path = Path(path)
    readers = {".jsonl": _json_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path} is not a file of reports; give a .jsonl, .csv or .parquet file")
    if not path.is_file():
        raise UserError(f"there is no file {path}; check the path")
    collected = Collected()
    columns: set[str] = set()
    try:
        moment = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        for number, row in reader(path):
            source = f"{path.resolve()}:{number}"
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                columns |= row.keys()
                fields = _fields(row)
                report = ErrorReport(
                    source=source, model_name=model_name, reported_at=moment, chat=chat, **fields
                )
            except ValueError as error:
                collected.rejected.append(Rejected(source=source, reason=str(error)))
            else:
                collected.reports.append(report)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    if columns:
        _check_columns(path, columns)
    return collected


def _check_columns(path: Path, columns: set[str]) -> None:
    if "prompt" not in columns:
        raise UserError(f"{path} has no column 'prompt'; its columns are {', '.join(sorted(columns))}")
    if columns.isdisjoint((*TARGET_COLUMNS, "suppress")):
        raise UserError(
            f"{path} has no column 'target' (or 'desired_output', or 'expected'); "
            "add one, null where no answer is known"
        )


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a report; ValueError says what is wrong with the row."""
    if row.get("prompt") is None:
        raise ValueError("the row has no prompt; give it one, or leave it out")
    fields: dict[str, Any] = {
        "prompt": _text(row, "prompt"),
        "desired_output": next(
            (_text(row, name) for name in TARGET_COLUMNS if row.get(name) is not None), None
        ),
        "equivalents": next((_list(row, name) for name in EQUIVALENT_COLUMNS if row.get(name)), ()),
        "locality": _list(row, "locality"),
    }
    # As `mendflow flag` calls it.
    if row.get("output") not in (None, "") and row.get("wrong_output") in (None, ""):
        fields["wrong_output"] = _text(row, "output")
    for name in ("wrong_output", "subject", "reporter", "severity"):
        if row.get(name) not in (None, ""):
            fields[name] = _text(row, name)
    fields["suppress"] = _yes(row, "suppress")
    fields["desired_output"] = wanted(fields["desired_output"], suppress=fields["suppress"])
    return fields


def _yes(row: Mapping[str, Any], column: str) -> bool:
    value = row.get(column)
    found = _YES_NO.get(str(value).strip().lower()) if value is not None else False
    if found is None:
        raise ValueError(f"its '{column}' is neither true nor false; write one of them")
    return found


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"its '{column}' is not text; write it as text")
    return str(value)


def _list(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = row.get(column)
    if isinstance(value, str):
        value = _json_list(value) if value.lstrip().startswith("[") else value.split("|")
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"its '{column}' is not a list of texts; write it as one")
    return tuple(item.strip() for item in value if item.strip())


def _json_list(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _json_lines(path: Path) -> Iterator[tuple[int, _Row]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig")
                row = json.loads(text) if text.strip() else None
            except UnicodeDecodeError:
                yield number, "the line is not UTF-8; save the file as UTF-8"
                continue
            except (ValueError, RecursionError) as error:
                yield number, f"the line is not JSON ({error}); correct it"
                continue
            if text.strip():
                yield (
                    number,
                    row
                    if isinstance(row, dict)
                    else "the line is not a JSON object; write one object a line",
                )


def _csv_rows(path: Path) -> Iterator[tuple[int, _Row]]:
    # Undecodable bytes become lone surrogates, so that only the rows that hold them are lost.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        header: list[str] | None = None
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                yield number, f"the row is not CSV ({error}); correct its quotes"
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if not all(cell.isprintable() for cell in header):
                    raise UserError(f"{path} is not UTF-8 text; save it as UTF-8")
                _check_columns(path, set(header))
            elif cells:
                yield number, _csv_row(header, cells)
    if header is None:
        raise UserError(f"{path} is empty; its first line must name the columns")


def _csv_row(header: list[str], cells: list[str]) -> _Row:
    if len(cells) != len(header):
        return f"the row has {len(cells)} cells, the header {len(header)}; quote cells that hold commas"
    if any("\ud800" <= letter <= "\udfff" for cell in cells for letter in cell):
        return "the row is not UTF-8; save the file as UTF-8"
    return dict(zip(header, cells, strict=True))


def _parquet_rows(path: Path) -> Iterator[tuple[int, _Row]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns(path, set(names))
            for batch in file.iter_batches(columns=[name for name in names if name in COLUMNS]):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a readable Parquet file ({error}); write it again") from error
