"""`mendflow report` where there is no report: the command that makes one, or goes on."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from flows.cli import app
from flows.settings import MARKER_FILE
from tasks.records import UserError


def refusal(name: str, home: Path) -> str:
    result = CliRunner().invoke(app, ["report", name, "--home", str(home)])
    assert isinstance(result.exception, UserError)
    return str(result.exception)


def test_without_a_report_the_command_that_makes_one_is_named(tmp_path: Path):
    home = tmp_path / "my home"
    assert f"run `mendflow correct m --home '{home}'` first" in refusal("m", home)
    (home / "runs" / "m" / "0123").mkdir(parents=True)
    assert f"if it was interrupted, `mendflow correct m --home '{home}'` goes on" in refusal("m", home)
    # The demo's home is beneath the default one, and it was interrupted before its report.
    demo = home / "demo"
    demo.mkdir()
    (demo / MARKER_FILE).touch()
    resumed = f"if it was interrupted, `mendflow demo --resume --home '{demo}'` goes on with it"
    assert resumed in refusal("demo-model", home)
    assert resumed in refusal("demo-model", demo)
    # And afterwards.
    report = demo / "runs" / "demo-model" / "4567" / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    assert f"but in the demo's home: add --home '{demo}'" in refusal("demo-model", home)
    assert refusal("m", demo).endswith("there are reports of demo-model")
    found = CliRunner().invoke(app, ["report", "demo-model", "--home", str(demo)])
    assert found.output.strip() == str(report)
