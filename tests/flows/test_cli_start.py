"""What the command line answers at once, before anything heavy is imported."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from flows import cli
from flows.cli.faults import in_words
from tasks.records import UserError

LOADED = """
import sys
from flows.cli import main
sys.argv = ["mendflow", *sys.argv[1:]]
try:
    main()
finally:
    print(*sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
"""
HEAVY = {"torch", "transformers", "prefect", "mlflow", "pandas", "sqlalchemy", "great_expectations"}


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--help"], 0, "train-editor"),
        (["correct", "m", "--editor", "malmem"], 2, "no editor 'malmem' (nearest: `malmen`)"),
        (
            ["edit", "--model", "m", "--data", "d", "--out", "o", "--editor", "Finetune"],
            2,
            "(nearest: `finetune`",
        ),
        (["bench", "--data", "d", "--methods", "rome, mimet"], 2, "'mimet' (nearest: `memit`"),
    ],
)
def test_help_and_a_misspelt_editor_are_answered_at_once(
    arguments: list[str], status: int, says: str, tmp_path: Path
):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == status
    told, _, loaded = done.stderr.rstrip().rpartition("\n")
    assert says in (told if status else done.stdout)
    assert len(told.splitlines()) == (1 if status else 0)
    assert not HEAVY & set(loaded.split())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def write() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/srv/mendflow/delta")

    monkeypatch.setattr(cli, "app", write)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "the disk of /srv/mendflow/delta is full; free some space" in capsys.readouterr().err


def test_a_prefect_server_that_is_away_is_said_in_a_sentence():
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/api"
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(UserError, match=f"the Prefect server at {url} cannot be used .*refused"),
        in_words(),
        get_client(sync_client=True) as client,
    ):
        client.raise_for_api_version_mismatch()


def test_an_error_of_another_server_is_none_of_prefects():
    with pytest.raises(httpx.ConnectError), in_words():
        httpx.get("http://127.0.0.1:1/elsewhere", trust_env=False)
