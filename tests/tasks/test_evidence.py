"""What a verdict was taken from: redacted in MLflow, and whole for whoever has the home folder."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tasks.evidence import REDACTED_FILE, evidence_of, fetch_evidence, log_evidence
from tasks.records import UserError
from tasks.runs import fetch_files, run_of


def redact(text: str) -> str:
    return text.replace("secret", "[redacted]")


@pytest.fixture
def run_id(mlflow_store: str, request: pytest.FixtureRequest) -> str:
    return run_of(mlflow_store, "judged", request.node.name)


def files(folder: Path, said: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    rows = pd.DataFrame({"id": ["a", "b"], "texts": [[said, "x"], []], "value": [0.1, float("nan")]})
    rows.to_parquet(folder / "rows.parquet")
    (folder / "about.json").write_text(json.dumps({"secret": [said, 1.5, None, {"deep": said}]}, indent=3))
    (folder / "gates.yaml").write_text(f"version: 1 # {said.removeprefix('a ')}\n")
    return sorted(folder.iterdir())


def test_others_read_it_redacted_and_the_home_has_it_to_the_byte(
    run_id: str, mlflow_store: str, tmp_path: Path
):
    given, evidence = files(tmp_path / "given", "a secret"), evidence_of(tmp_path)
    log_evidence(mlflow_store, run_id, {"verdict": given}, redact=redact, evidence=evidence)
    seen = fetch_files(mlflow_store, run_id, "verdict", tmp_path)
    assert pd.read_parquet(seen / "rows.parquet")["texts"].map(list).tolist() == [["a [redacted]", "x"], []]
    assert json.loads((seen / "about.json").read_text()) == {
        "secret": ["a [redacted]", 1.5, None, {"deep": "a [redacted]"}]
    }
    assert (seen / "gates.yaml").read_text() == "version: 1 # [redacted]\n"
    assert json.loads((seen / REDACTED_FILE).read_text()) == ["about.json", "gates.yaml", "rows.parquet"]
    whole = fetch_evidence(mlflow_store, run_id, "verdict", tmp_path / "again", evidence=evidence)
    assert all((whole / one.name).read_bytes() == one.read_bytes() for one in given)
    assert evidence.stat().st_mode & 0o077 == 0
    for missing in (None, evidence_of(tmp_path / "other")):
        with pytest.raises(UserError, match=r"are redacted, and what they were is not .*; name the home"):
            fetch_evidence(mlflow_store, run_id, "verdict", tmp_path / "third", evidence=missing)
    # Another rule, under which there is nothing to redact: it is whole in both.
    log_evidence(mlflow_store, run_id, {"verdict": given}, redact=str, evidence=evidence)
    whole = fetch_evidence(mlflow_store, run_id, "verdict", tmp_path / "last", evidence=evidence)
    assert all((whole / one.name).read_bytes() == one.read_bytes() for one in given)


def test_what_holds_nothing_to_redact_is_the_same_everywhere_and_not_kept_twice(
    run_id: str, mlflow_store: str, tmp_path: Path
):
    given, evidence = files(tmp_path / "given", "nothing"), evidence_of(tmp_path)
    log_evidence(mlflow_store, run_id, {"verdict": given}, redact=redact, evidence=evidence)
    seen = fetch_evidence(mlflow_store, run_id, "verdict", tmp_path, evidence=None)
    assert {one.name: one.read_bytes() for one in seen.iterdir()} == {
        one.name: one.read_bytes() for one in given
    }
    assert not evidence.exists()


LINES = '{"asked": "a secret", "n": 1.50}\n\n{"asked": "\\u0073ecret"}\n{"asked":  "a\u2028b"}\n'
CLEAN = '{"asked": "a [redacted]", "n": 1.5}\n\n{"asked": "[redacted]"}\n{"asked":  "a\u2028b"}\n'


@pytest.mark.parametrize(
    ("name", "given", "seen"),
    [
        *[(f"rows.{ending}", LINES, CLEAN) for ending in ("json", "jsonl", "ndjson", "txt")],
        ("rows.txt", '[{"asked": "\\u0073ecret"}]', '[{"asked": "[redacted]"}]'),
        ("rows.json", '\ufeff[{"asked": "secret"}]', '[{"asked": "[redacted]"}]'),
        ("rows.jsonl", '{"secret": 1}', '{"[redacted]": 1}'),
        ("task.yaml", "doc_to_text: |\n  the secret\r\n", "doc_to_text: |\n  the [redacted]\r\n"),
        ("broken.json", '{"asked": "secret', '{"asked": "[redacted]'),
    ],
)
def test_all_that_is_text_is_redacted_whatever_its_name_ends_in(
    run_id: str, mlflow_store: str, tmp_path: Path, name: str, given: str, seen: str
):
    file = tmp_path / "given" / name
    file.parent.mkdir()
    file.write_bytes(given.encode())
    other = file.with_name("no_text.bin")
    other.write_bytes(b"\xff secret")
    evidence = evidence_of(tmp_path)
    log_evidence(mlflow_store, run_id, {"verdict": [file, other]}, redact=redact, evidence=evidence)
    folder = fetch_files(mlflow_store, run_id, "verdict", tmp_path)
    assert (folder / name).read_bytes().decode() == seen
    assert (folder / other.name).read_bytes() == other.read_bytes()
    whole = fetch_evidence(mlflow_store, run_id, "verdict", tmp_path / "again", evidence=evidence)
    assert (whole / name).read_bytes() == file.read_bytes()
