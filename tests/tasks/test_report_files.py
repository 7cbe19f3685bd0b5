"""Reports from files good and bad, and from one person's word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.collect import from_file, report_error
from tasks.ledger import Ledger
from tasks.records import State, UserError
from tasks.refusals import REFUSAL

MODEL = "capitals"
ROW = {
    "prompt": "Capital of Cameroon?",
    "target": "Yaoundé",
    "wrong_output": "Kougou",
    "rephrases": ["Name Cameroon's capital.", "Cameroon: capital?"],
    "locality": ["Capital of Egypt?"],
    "subject": "Cameroon",
    "reporter": "ann",
    "severity": "high",
}


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        flat = [{k: "|".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        pd.DataFrame(flat).to_csv(path, index=False)
    return path


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_a_file_of_any_kind_gives_the_same_reports_every_time(tmp_path: Path, kind: str) -> None:
    renamed = {"desired_output": "x", "equivalents": ["y"]}
    path = _write(tmp_path / f"errors{kind}", [ROW, {**ROW, "prompt": "", "target": "", "note": "ignored"}])
    collected = from_file(path, MODEL, chat=False)
    first, second = collected.reports
    assert (first.prompt, first.desired_output, first.wrong_output) == (ROW["prompt"], "Yaoundé", "Kougou")
    assert (first.equivalents, first.locality) == (tuple(ROW["rephrases"]), tuple(ROW["locality"]))
    assert (first.subject, first.reporter, first.severity) == ("Cameroon", "ann", "high")
    assert (first.model_name, first.chat) == (MODEL, False)
    assert (second.prompt, second.desired_output) == ("", "")
    assert first.source != second.source
    assert collected.traffic == collected.rejected == []
    assert from_file(path, MODEL, chat=False) == collected
    other = _write(tmp_path / f"other{kind}", [{"prompt": "p", **renamed}])
    (report,) = from_file(str(other), MODEL, chat=True).reports
    assert (report.desired_output, report.equivalents, report.chat) == ("x", ("y",), True)


def test_bad_json_lines_are_rejected_by_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    lines = [
        b'\xef\xbb\xbf{"prompt": "p1", "target": "x"}',
        b'{"prompt": "p2", "target": ',
        b"",
        b'["p3", "x"]',
        b'{"prompt": "caf\xe9", "target": "x"}',
        b'{"target": "x"}',
        b'{"prompt": "p7", "target": ["x"]}',
        b'{"prompt": "p8", "target": "x", "rephrases": "a|b", "locality": [1]}',
        b'{"prompt": "p9", "target": null}',
        b'{"prompt": "p10", "target": 1969}',
    ]
    path.write_bytes(b"\r\n".join(lines))
    collected = from_file(path, MODEL, chat=True)
    assert {r.prompt: r.desired_output for r in collected.reports} == {"p1": "x", "p9": None, "p10": "1969"}
    assert [one.source for one in collected.rejected] == [f"{path}:{number}" for number in (2, 4, 5, 6, 7, 8)]
    said = [one.reason for one in collected.rejected]
    expected = ["not JSON", "not a JSON object", "not UTF-8", "no prompt", "'target'", "'locality'"]
    for reason, says in zip(said, expected, strict=True):
        assert says in reason


def test_bad_csv_rows_are_rejected_by_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "errors.csv"
    lines = [
        b"prompt,target,rephrases",
        b'"two\nlines",x,"[""a, b"", ""c""]"',
        b"too,many,cells,here",
        b"few",
        b"caf\xe9,x,",
        b'bad,"quo"te,',
        b"last,y,",
    ]
    path.write_bytes(b"\n".join(lines))
    collected = from_file(path, MODEL, chat=True)
    assert {r.prompt: r.equivalents for r in collected.reports} == {"two\nlines": ("a, b", "c"), "last": ()}
    assert [one.source for one in collected.rejected] == [f"{path}:{number}" for number in (4, 5, 6, 7)]
    said = [one.reason for one in collected.rejected]
    for reason, says in zip(said, ["4 cells", "1 cells", "not UTF-8", "quotes"], strict=True):
        assert says in reason


def test_an_empty_prompt_or_target_reaches_the_ledger_and_is_quarantined(tmp_path: Path) -> None:
    path = _write(tmp_path / "errors.csv", [ROW, {**ROW, "prompt": ""}, {**ROW, "target": ""}])
    with Ledger("sqlite://") as ledger:
        states = [c.state for c in ledger.record(from_file(path, MODEL, chat=True).reports)]
    assert states == [State.ACCEPTED, State.QUARANTINED, State.QUARANTINED]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("errors.txt", b"prompt", "give a .jsonl, .csv or .parquet file"),
        (
            "errors.jsonl",
            b'{"question": "q", "target": "x"}',
            "no column 'prompt'; its columns are question, target",
        ),
        ("errors.jsonl", b'{"prompt": "q"}', "has no column 'target'"),
        ("errors.csv", b"prompt,answer\np,x\n", "has no column 'target'"),
        ("errors.csv", b"", "is empty"),
        ("errors.csv", "prompt,target\np,x\n".encode("utf-16"), "not UTF-8 text; save it as UTF-8"),
        ("errors.parquet", b"PAR1 not really", "not a readable Parquet file"),
        ("errors.csv", None, "there is no file"),
    ],
)
def test_a_file_that_is_no_file_of_reports_is_named_with_the_remedy(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        from_file(path, MODEL, chat=True)
    assert str(path) in str(caught.value)


def test_a_persons_report_goes_straight_into_the_ledger(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    first = report_error(
        "p", "wrong", "right", MODEL, ledger_url=url, reporter="ann", equivalents=["P, please"]
    )
    assert (first.state, first.reporters, first.equivalents) == (State.ACCEPTED, ("ann",), ("P, please",))
    assert (
        report_error("p", "wrong", "right", MODEL, ledger_url=url, reporter="bob", source="form 1").reports
        == 2
    )
    assert (
        report_error("p", "wrong", "right", MODEL, ledger_url=url, reporter="bob", source="form 1").reports
        == 2
    )
    bare = report_error("q", "wrong", None, MODEL, ledger_url=url, reporter="ann")
    assert bare.state is State.NEEDS_ANSWER


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_a_report_of_what_must_never_appear_wants_a_refusal(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"prompt": "p1", "wrong_output": "555-0134", "suppress": True},
        {"prompt": "p2", "wrong_output": "555-0134", "suppress": False},
    ]
    path = _write(tmp_path / f"errors{kind}", rows)
    first, second = from_file(path, MODEL, chat=True).reports
    assert (first.suppress, first.desired_output) == (True, REFUSAL)
    assert (second.suppress, second.desired_output) == (False, None)
    monkeypatch.setenv("MENDFLOW_REFUSAL", "Nobody may know.")
    assert from_file(path, MODEL, chat=True).reports[0].desired_output == "Nobody may know."
    named = _write(tmp_path / f"named{kind}", [{**rows[0], "target": "Ask the office."}])
    assert from_file(named, MODEL, chat=True).reports[0].desired_output == "Ask the office."


def test_what_is_neither_yes_nor_no_is_rejected(tmp_path: Path) -> None:
    path = _write(tmp_path / "errors.jsonl", [{"prompt": "p", "target": None, "suppress": "perhaps"}])
    (rejected,) = from_file(path, MODEL, chat=True).rejected
    assert rejected.reason == "its 'suppress' is neither true nor false; write one of them"
