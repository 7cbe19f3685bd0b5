"""Verdicts that stay as they were taken, whatever is judged after them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.correct import correct
from flows.keys import judgement_key
from flows.settings import CorrectSettings
from tasks.records import StoreFailedError
from tasks.registry import describe
from tasks.tracking import tracking
from tasks.verdicts import RUN_TAG, VERDICT_TAG
from tasks.verify import verify
from tests.flows.conftest import COUNTRIES, World, serve


def verified(settings: CorrectSettings, version: str) -> str:
    asked = ["verify", settings.model_name, "--version", version, "--home", str(settings.home)]
    return CliRunner().invoke(app, asked).output


@pytest.mark.slow
def test_a_version_judged_after_more_traffic_leaves_the_verdict_on_the_one_before(world: World):
    settings = world.settings.model_copy(update={"promotion": "review"})
    assert correct(settings).candidate == "2"
    assert "version 2 of tiny holds: HOLD" in verified(settings, "2")

    serve(settings.tracking, [(f"Where is {place}?", f"In the {place}an sea.") for place in COUNTRIES])
    assert correct(settings).candidate == "3"
    for version in ("2", "3"):
        assert f"version {version} of tiny holds: HOLD" in verified(settings, version)

    # Each has a run of its own, which tells of no other version.
    versions = describe("tiny", tracking_uri=settings.tracking).versions[1:]
    runs = [version.tags[RUN_TAG] for version in versions]
    with tracking(settings.tracking) as client:
        said = [client.get_run(run).data.params["candidate"] for run in runs]
    assert said == [version.number for version in versions] == ["2", "3"]


def test_a_store_that_fails_is_no_verdict_that_differs(
    mlflow_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> None:
        raise StoreFailedError("the connection was lost")

    with tracking(mlflow_store) as client:
        client.create_registered_model("unread")
        client.create_model_version("unread", source=str(tmp_path), tags={VERDICT_TAG: "HOLD", RUN_TAG: "r"})
    monkeypatch.setattr("tasks.verify.fetch_evidence", fail)
    with pytest.raises(StoreFailedError):
        verify("unread", "1", tracking_uri=mlflow_store)


@pytest.mark.parametrize("change", ["run", "dataset", "delta", "champion", "gates", "promotion"])
def test_a_judgement_is_another_where_anything_it_follows_from_is(change: str):
    inputs = {"run": "r", "dataset": "d", "delta": "e", "champion": "1", "gates": "g"}

    def key(promotion: str = "auto", **changes: str) -> str:
        settings = CorrectSettings.model_validate({"model_name": "m", "promotion": promotion})
        return judgement_key(settings, **{**inputs, **changes})

    assert key() == key()
    assert key(**{change: "review" if change == "promotion" else "other"}) != key()
