"""An honest verdict verifies; one whose tags say something else does not."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tasks import validate
from tasks.build import build
from tasks.models import ModelFolder, resolve
from tasks.register import register
from tasks.registry import tag_version
from tasks.runs import run_of
from tasks.validate import measure, measured_digest
from tasks.verdicts import REASON_TAG, VERDICT_TAG, delta_digest, keep, take
from tasks.verify import VerdictDiffersError, verify
from tests.deltas import save_delta
from tests.tasks.build_cases import correction
from validation.outcomes import EDIT, NEW, REPLAY
from validation.thresholds import GateFile
from validation.verdict import Decision, Verdict

HELD, FRESH = (correction(f"What is the capital of {place}?", f"{place} City") for place in ("Chad", "Peru"))
CRITICAL = {"minimum_n": 1, "severity": "critical", "may_be_empty": True}
GATES = GateFile.model_validate(
    {"version": 1, "gates": {metric: {"min": 0.9, **CRITICAL} for metric in (EDIT, NEW, REPLAY)}}
)
_names = itertools.count()


@pytest.fixture(autouse=True)
def measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """To start Python anew takes seconds."""
    monkeypatch.setattr(validate, "_in_fresh_process", lambda request, _: validate._measure(request))


@pytest.fixture
def name() -> str:
    """A registered model name of the test's own."""
    return f"verify-{next(_names)}"


def rejected(
    name: str,
    base: ModelFolder,
    folder: Path,
    tracking_uri: str,
    *,
    stop: bool = False,
    secret: str = "a word that is nowhere",
) -> Decision:
    """The kept verdict on version 2, which answers nothing rightly; its champion counts as holding `HELD`."""
    register(name, tracking_uri=tracking_uri, base=base)
    register(name, tracking_uri=tracking_uri, base=base, delta_dir=save_delta(base, folder / "delta"))
    dataset = build([HELD, FRESH], [], folder / "dataset", seed=0)
    measured = measure(
        folder / "measured",
        tracking_uri=tracking_uri,
        candidate=f"models:/{name}/2",
        champion=f"models:/{name}/1",
        dataset=folder / "dataset",
        earlier=[HELD.id],
        replay=[("Name a river.", True)],
        stop_at=GATES if stop else None,
    )
    assert measured.stopped is stop
    versions = [resolve(f"models:/{name}/{number}", tracking_uri=tracking_uri) for number in "12"]
    digests = {
        "base": base.digest,
        "champion": delta_digest(versions[0]),
        "delta": delta_digest(versions[1]),
        "dataset": dataset.digest,
        "measured": measured_digest(folder / "measured"),
    }
    decision = take(measured, GATES, digests=digests, needs_approval=False, seed=0)
    assert decision.verdict is Verdict.REJECT
    keep(
        decision,
        folder,
        name=name,
        version="2",
        champion="1",
        run_id=run_of(tracking_uri, "verified", name),
        tracking_uri=tracking_uri,
        evidence=folder / "evidence",
        redact=lambda text: text.replace(secret, "[redacted]"),
    )
    return decision


def test_a_verdict_that_stopped_early_is_found_again_when_measured_again(
    name: str, base: ModelFolder, tmp_path: Path, mlflow_store: str
) -> None:
    kept = rejected(name, base, tmp_path, mlflow_store, stop=True)
    assert next(metric.n for metric in kept.metrics if metric.name == NEW) == 1
    found = verify(name, "2", tracking_uri=mlflow_store, remeasure=True)
    assert found.digest() == kept.digest()


@pytest.mark.parametrize("secret", ["a word that is nowhere", "has to be"])
def test_what_promotion_goes_by_has_to_be_what_the_verdict_says(
    name: str, base: ModelFolder, tmp_path: Path, mlflow_store: str, secret: str
) -> None:
    kept = rejected(name, base, tmp_path, mlflow_store, secret=secret)

    def held() -> bool:
        found = verify(name, "2", tracking_uri=mlflow_store, evidence=tmp_path / "evidence")
        return found.digest() == kept.digest()

    assert held()
    tag_version(name, "2", {VERDICT_TAG: "PROMOTE"}, tracking_uri=mlflow_store)
    with pytest.raises(VerdictDiffersError, match=r"\.verdict of version 2 says 'PROMOTE'.* 'REJECT'"):
        held()
    forged = {VERDICT_TAG: "REJECT", REASON_TAG: "All critical gates pass."}
    tag_version(name, "2", forged, tracking_uri=mlflow_store)
    if secret in kept.reason:
        # Its words in MLflow are not the verdict's own, and what they were redacted by is not known.
        assert held()
    else:
        with pytest.raises(VerdictDiffersError, match=r"\.verdict_reason of version 2 says 'All"):
            held()
