"""An honest verdict verifies; one whose tags say something else does not."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest

from tasks import validate
from tasks.build import build
from tasks.models import ModelFolder, resolve
from tasks.own_gates import own_digests, own_sources
from tasks.register import register
from tasks.registry import describe, tag_version
from tasks.runs import fetch_files, run_of
from tasks.validate import MEASURED_FILE, measure, measured_digest, read_measured
from tasks.verdicts import REASON_TAG, RUN_TAG, VERDICT_TAG, delta_digest, keep, take
from tasks.verify import VerdictDiffersError, verify
from tests.deltas import save_delta
from tests.tasks.build_cases import correction
from tests.tasks.test_own_tasks import CHOOSES, written
from validation.early import BEFORE_ASKING, Stop
from validation.metrics import Severity
from validation.outcomes import EDIT, NEW, REPLAY
from validation.probes import PROSE, probes
from validation.thresholds import Gate, GateFile
from validation.verdict import Decision, Verdict

HELD, FRESH = (correction(f"What is the capital of {place}?", f"{place} City") for place in ("Chad", "Peru"))
CRITICAL = {"minimum_n": 1, "severity": "critical", "may_be_empty": True}
GATES = GateFile.model_validate(
    {"version": 1, "gates": {metric: {"min": 0.9, **CRITICAL} for metric in (EDIT, NEW, REPLAY)}}
)
# Refuses whatever has a delta, before anything is asked.
_AT_ONCE = Gate(max=1e-12, minimum_n=1, severity=Severity.CRITICAL)
UNCHANGED = GATES.model_copy(update={"gates": GATES.gates | {"relative_delta_norm": _AT_ONCE}})
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
    stops: tuple[Stop, ...] = (),
    gates: GateFile = GATES,
    secret: str = "a word that is nowhere",
    older: bool = False,
    beside: Path | None = None,
) -> Decision:
    """The kept verdict on version 2, which answers nothing rightly; its champion counts as holding `HELD`."""
    register(name, tracking_uri=tracking_uri, base=base)
    made_of = {"ledger": "1ed" * 20, "editor": "ed1" * 20}
    register(
        name,
        tracking_uri=tracking_uri,
        base=base,
        delta_dir=save_delta(base, folder / "delta"),
        manifest={f"{item}_digest": digest for item, digest in made_of.items()},
    )
    dataset = build([HELD, FRESH], [], folder / "dataset", seed=0)
    measured = measure(
        folder / "measured",
        tracking_uri=tracking_uri,
        candidate=f"models:/{name}/2",
        champion=f"models:/{name}/1",
        dataset=folder / "dataset",
        earlier=[HELD.id],
        replay=[("Name a river.", True)],
        stop_at=gates if stops else None,
        stops=stops,
        own=own_sources(gates.own),
        beside=beside,
    )
    assert measured.stopped is (stops[-1] if stops else None)
    if older:
        file = folder / "measured" / MEASURED_FILE
        values = json.loads(file.read_text())
        values["perplexities"] = values["perplexities"][PROSE]
        values |= {"stopped": True} if stops else {}
        file.write_text(json.dumps(values))
        measured = read_measured(folder / "measured")
    versions = [resolve(f"models:/{name}/{number}", tracking_uri=tracking_uri) for number in "12"]
    digests = {
        "base": base.digest,
        "champion": delta_digest(versions[0]),
        "delta": delta_digest(versions[1]),
        "dataset": dataset.digest,
        "measured": measured_digest(folder / "measured"),
        **({} if older else made_of),
        **own_digests(own_sources(gates.own), beside),
    }
    decision = take(measured, gates, digests=digests, needs_approval=False, seed=0)
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
        beside=beside,
    )
    return decision


@pytest.mark.parametrize(
    ("stops", "gates", "asked"),
    [
        ((Stop.WEIGHTS,), UNCHANGED, 0),
        (BEFORE_ASKING, GATES.model_copy(update={"gates": GATES.gates | {PROSE: _AT_ONCE}}), 0),
        (tuple(Stop), GATES, 1),
    ],
)
def test_a_verdict_that_stopped_early_says_so_and_is_found_again_when_measured_again(
    name: str,
    base: ModelFolder,
    tmp_path: Path,
    mlflow_store: str,
    stops: tuple[Stop, ...],
    gates: GateFile,
    asked: int,
) -> None:
    kept = rejected(name, base, tmp_path, mlflow_store, stops=stops, gates=gates)
    metrics = {metric.name: metric for metric in kept.metrics}
    assert metrics[NEW].n == asked
    left_out = {REPLAY} if asked else {EDIT, NEW, REPLAY}
    why = f"was not measured: {', '.join(kept.failing)} refused it before"
    assert {one for one, metric in metrics.items() if metric.reason == why} == left_out
    count = "1 gate was" if asked else "3 gates were"
    assert kept.reason.endswith(f" {stops[-1].told}, and {count} left out.")
    found = verify(name, "2", tracking_uri=mlflow_store, remeasure=True)
    assert found.digest() == kept.digest()


@pytest.mark.parametrize("stops", [(), (Stop.CORRECTIONS,)])
def test_a_verdict_from_before_code_was_read_and_stops_were_told_apart_holds_still(
    name: str, base: ModelFolder, tmp_path: Path, mlflow_store: str, stops: tuple[Stop, ...]
) -> None:
    kept = rejected(name, base, tmp_path, mlflow_store, stops=stops, older=True)
    assert {metric.name for metric in kept.metrics} & set(probes()) == {PROSE}
    assert verify(name, "2", tracking_uri=mlflow_store, remeasure=True).digest() == kept.digest()


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


@pytest.mark.parametrize("item", ["ledger", "editor"])
def test_the_version_has_to_be_made_of_the_ledger_and_editor_that_the_verdict_names(
    name: str, base: ModelFolder, tmp_path: Path, mlflow_store: str, item: str
) -> None:
    rejected(name, base, tmp_path, mlflow_store, stops=(Stop.WEIGHTS,), gates=UNCHANGED)
    verify(name, "2", tracking_uri=mlflow_store)
    tag_version(name, "2", {f"mendflow.{item}_digest": "f" * 60}, tracking_uri=mlflow_store)
    with pytest.raises(VerdictDiffersError, match=f"the {item} that version 2 was made of has digest ffff"):
        verify(name, "2", tracking_uri=mlflow_store)


def test_a_task_of_the_users_is_kept_with_the_verdict_and_asked_again_and_other_data_is_noticed(
    name: str, base: ModelFolder, tmp_path: Path, mlflow_store: str
) -> None:
    own = {"trivia": {"task": "tasks/trivia.yaml", "better": "higher", "min": 0.1}}
    gates = GateFile.model_validate({**GATES.model_dump(), "own": own})
    written(tmp_path / "mine" / "tasks", {**CHOOSES, "doc_to_target": "answer"})
    kept = rejected(
        name, base, tmp_path, mlflow_store, gates=gates, beside=tmp_path / "mine", secret="N'Djamena"
    )
    assert next(metric.n for metric in kept.metrics if metric.name == "trivia") == 2
    assert {"own/trivia", "own/trivia/data"} <= set(kept.digests)
    shutil.rmtree(tmp_path / "mine")

    def verified(remeasure: bool) -> str:
        evidence = tmp_path / "evidence"
        found = verify(name, "2", tracking_uri=mlflow_store, evidence=evidence, remeasure=remeasure)
        return found.digest()

    assert verified(True) == kept.digest()
    # In MLflow its data is redacted, and whole in the home alone.
    (whole,) = tmp_path.glob("evidence/*/verdict/tasks/data/trivia.jsonl")
    versions = describe(name, tracking_uri=mlflow_store).versions
    (run_id,) = (version.tags[RUN_TAG] for version in versions if RUN_TAG in version.tags)
    logged = fetch_files(mlflow_store, run_id, "verdict/tasks/data", tmp_path / "logged") / "trivia.jsonl"
    assert ("N'Djamena" in whole.read_text(), "N'Djamena" in logged.read_text()) == (True, False)
    whole.write_text(whole.read_text().replace("Lima", "Cusco"))
    with pytest.raises(VerdictDiffersError, match="the data of the gate trivia has digest"):
        verified(False)


def test_what_was_measured_whole_serves_wherever_it_was_to_stop(tmp_path: Path) -> None:
    request = {"candidate": "models:/m/2"}
    gated = {**request, "stop_at": {"version": 1}, "stops": [Stop.TEXTS]}
    file = tmp_path / "request.json"
    assert not validate._serves(file, request)
    file.write_text(json.dumps(gated)[:-1])
    assert not validate._serves(file, gated)
    file.write_text(json.dumps(gated))
    assert validate._serves(file, gated)
    assert not validate._serves(file, request)
    (tmp_path / MEASURED_FILE).write_text("{}")
    assert validate._serves(file, request)
    assert not validate._serves(file, {**request, "candidate": "models:/m/3"})
    (tmp_path / MEASURED_FILE).write_text(json.dumps({"stopped": Stop.TEXTS}))
    assert validate._serves(file, gated)
    assert not validate._serves(file, request)
