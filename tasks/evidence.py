"""What a verdict was taken from: logged with its MLflow run, redacted, and kept whole in the home folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.records import UserError
from tasks.runs import fetch_files, log_files

EVIDENCE_FOLDER = "evidence"
# In a folder of artifacts of which some are redacted: their names.
REDACTED_FILE = "REDACTED.json"

Redact = Callable[[str], str]


def evidence_of(home: Path) -> Path:
    """Where a home keeps what is redacted in MLflow."""
    return home / EVIDENCE_FOLDER


def log_evidence(
    tracking_uri: str,
    run_id: str,
    files: Mapping[str, Sequence[Path]],
    *,
    redact: Redact,
    evidence: Path,
) -> None:
    """Log files, their texts redacted; where this changes any of a folder, all are kept in `evidence`.

    Args:
        tracking_uri: the MLflow store.
        run_id: the run that has them.
        files: by artifact path of a folder.
        redact: what is done to every text.
        evidence: of the home (`evidence_of`), for its owner alone.
    """
    with tempfile.TemporaryDirectory() as scratch:
        logged: list[tuple[str, Path]] = []
        for path, originals in files.items():
            folder = Path(scratch) / path
            folder.mkdir(parents=True, exist_ok=True)
            redacted = [one.name for one in originals if _copy(one, folder / one.name, redact)]
            whole = evidence / run_id / path
            if redacted:
                (folder / REDACTED_FILE).write_text(json.dumps(redacted))
                evidence.mkdir(parents=True, exist_ok=True)
                os.chmod(evidence, 0o700)
                whole.mkdir(parents=True, exist_ok=True)
                for one in originals:
                    shutil.copy(one, whole)
            # A folder is logged with those in it.
            if not any(path.startswith(f"{other}/") for other in files):
                logged.append((path, folder))
        log_files(tracking_uri, run_id, logged)


def fetch_evidence(tracking_uri: str, run_id: str, path: str, out: Path, *, evidence: Path | None) -> Path:
    """Copy the folder that was logged under an artifact path into `out`, whole; where it is then.

    Raises:
        UserError: the run keeps no such folder, or it is redacted and what it was is not in `evidence`.
    """
    fetched = fetch_files(tracking_uri, run_id, path, out)
    for mark in sorted(fetched.rglob(REDACTED_FILE)):
        inside = mark.parent.relative_to(fetched)
        whole = None if evidence is None else evidence / run_id / path / inside
        if whole is None or not whole.is_dir():
            raise UserError(
                f"texts among the artifacts {path!r} of run {run_id} are redacted, and what they were is "
                f"{'not known' if whole is None else f'not in {whole}'}; name the home of the run that made "
                "them with --home"
            )
        shutil.copytree(whole, mark.parent, dirs_exist_ok=True)
    return fetched


def redacted_files(folder: Path) -> list[str]:
    """Names of the files that are redacted in MLflow, of a folder that was fetched."""
    file = folder / REDACTED_FILE
    return list(json.loads(file.read_text())) if file.is_file() else []


def _copy(source: Path, copy: Path, redact: Redact) -> bool:
    """Copy a file, its texts redacted; whether that changed any. One without any is the same to the byte."""
    if source.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as parquet

        table = parquet.read_table(source)
        before = table.to_pylist()
        after = redacted(before, redact)
        if after != before:
            parquet.write_table(pa.Table.from_pylist(after, schema=table.schema), copy)
            return True
    else:
        with contextlib.suppress(UnicodeDecodeError):
            text = source.read_bytes().decode("utf-8-sig")
            clean = _text_redacted(text, redact, values_only=source.suffix == ".json")
            if clean != text:
                copy.write_bytes(clean.encode("utf-8"))
                return True
    shutil.copy(source, copy)
    return False


def _text_redacted(text: str, redact: Redact, *, values_only: bool) -> str:
    """The text redacted, and where it is JSON, whole or by lines, the values that it writes with escapes too.

    Args:
        text: of a file.
        redact: what is done to every text.
        values_only: of JSON that is whole, leave figures and names as they are.
    """
    try:
        whole = _json_redacted(text, redact)
        return whole if values_only else redact(whole)
    except ValueError:
        pass
    try:
        # Nothing else than a line feed ends a line of JSON; other separators may stand in its texts.
        return "\n".join(redact(_json_redacted(line, redact)) for line in text.split("\n"))
    except ValueError:
        return redact(text)


def _json_redacted(text: str, redact: Redact) -> str:
    """JSON with its values redacted, as it is written where that changes none.

    Raises:
        ValueError: it is no JSON, and not blank either.
    """
    if not text.strip():
        return text
    before = json.loads(text)
    after = redacted(before, redact)
    return text if after == before else json.dumps(after)


def redacted(value: Any, redact: Redact) -> Any:
    """The value with every text in it redacted; names of fields stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: redacted(one, redact) for name, one in value.items()}
    if isinstance(value, list):
        return [redacted(one, redact) for one in value]
    return value
