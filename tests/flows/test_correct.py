"""The main job from end to end on a tiny model: correct, promote, roll back, lose nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pandas as pd
import pytest
from typer.testing import CliRunner

from editors.delta import model_digest
from flows.cli import app
from flows.correct import CorrectionRun, correct
from flows.promote import rollback
from flows.settings import CorrectSettings
from tasks.edit_dataset import EditDataset
from tasks.ledger import Ledger
from tasks.models import load, resolve
from tasks.records import State, UserError
from tasks.registry import describe, tag_version
from tasks.reword import Bounds
from tasks.runs import artifact_address
from tasks.validate import _measure
from tasks.verdicts import DIGEST_TAG
from tests.flows.conftest import World
from validation.verdict import read_decision, write_decision


def champion_digest(world: World) -> str:
    folder = resolve("models:/tiny@champion", tracking_uri=world.settings.tracking)
    model, _ = load(folder)
    return model_digest(model)


@contextmanager
def changed(file: Path) -> Iterator[Path]:
    """A file that may be changed in the block; it is put back afterwards."""
    before = file.read_bytes()
    yield file
    file.write_bytes(before)


def check_that_the_verdict_is_held_to_its_inputs(
    world: World, run: CorrectionRun, patch: pytest.MonkeyPatch
) -> None:
    def verify(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["verify", "tiny", "--home", str(world.settings.home), *more])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    def artifact(path: str) -> Path:
        return Path(unquote(urlsplit(artifact_address(world.settings.tracking, run.run_id, path)).path))

    code, said = verify("--version", "2")
    assert (code, "version 2 of tiny holds: PROMOTE" in said) == (0, True), said
    # In this process, and so in seconds less.
    patch.setattr("tasks.validate._in_fresh_process", lambda request, progress: _measure(request))
    code, said = verify("--remeasure")
    assert (code, "and measured again" in said) == (0, True), said
    patch.setattr("tasks.measuring.GATE_TOKENS", 1)
    code, said = verify("--remeasure")
    assert (code, "as computed again" in said) == (1, True), said
    with changed(artifact("verdict/gates.yaml")) as gates:
        gates.write_text(gates.read_text().replace("0.9", "0.1"))
        assert "gates.yaml has digest" in verify()[1]
    with changed(artifact("verdict/outcomes.parquet")) as outcomes:
        pd.read_parquet(outcomes).assign(candidate_ok=0.0).to_parquet(outcomes)
        code, said = verify()
        assert (code, "outcomes.parquet has digest" in said) == (1, True), said
    with changed(artifact("verdict/measured.json")) as measured:
        measured.unlink()
        assert "measured.json cannot be read" in verify()[1]
    with changed(artifact("dataset/edits.parquet")) as edits:
        edits.write_bytes(edits.read_bytes()[:-100])
        assert "the edit dataset cannot be read" in verify()[1]
    with changed(artifact("verdict/verdict.json")) as verdict:
        kept = read_decision(verdict)
        assert (kept.digests["editor"], len(kept.digests["ledger"])) == (run.editor["digest"], 64)
        forged = kept.model_copy(update={"metrics": kept.metrics[1:]})
        write_decision(forged, verdict)
        assert "verdict.json has digest" in verify()[1]
        # A forger who goes as far as the version's tag is found out by what follows from the measurements.
        for decision in (forged, kept):
            write_decision(decision, verdict)
            tag = {DIGEST_TAG: decision.digest()}
            tag_version("tiny", "2", tag, tracking_uri=world.settings.tracking)
            code, said = verify()
            assert (code, "edit_success_greedy" in said) == ((1, True) if decision is forged else (0, False))
    refused = CliRunner().invoke(
        app, ["verify", "tiny", "--version", "1", "--home", str(world.settings.home)]
    )
    assert isinstance(refused.exception, UserError)
    assert "version 1 of tiny has no verdict to verify: it is the base itself" in str(refused.exception)


@pytest.mark.usefixtures("anew")
def test_reports_become_a_promoted_version_that_answers_rightly_and_can_be_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    run = correct(world.settings)
    assert run.outcome == "promoted", run.reason
    assert run.metrics["edit_success_greedy"]["value"] == 1.0
    assert (run.previous, run.champion) == ("1", "2")
    report = Path(run.report).read_text()
    assert "What is the capital of Chad?" in report
    assert "mendflow rollback tiny" in report
    with monkeypatch.context() as patch:
        check_that_the_verdict_is_held_to_its_inputs(world, run, patch)

    asked = ["explain", "tiny", "what is the capital of chad", "--home", str(world.settings.home)]
    explained = CliRunner().invoke(app, asked, env={"COLUMNS": "200"}).output
    assert "as 'What is the capital of Chad?'" in explained
    (said,) = (line for line in explained.splitlines() if "champion, version 2" in line)
    assert "Cairo" in said

    base, _ = load(resolve(world.settings.base))
    assert champion_digest(world) != model_digest(base)
    assert rollback(world.settings, "ann", "to see the base again") == "1"
    assert champion_digest(world) == model_digest(base)
    with Ledger(world.settings.ledger) as ledger:
        assert not ledger.corrections("tiny", State.ACTIVE)
    assert rollback(world.settings, "ann", "and forward") == "2"
    with Ledger(world.settings.ledger) as ledger:
        assert len(ledger.corrections("tiny", State.ACTIVE)) == 4


@pytest.mark.slow
def test_bad_reports_are_set_aside_with_reasons_and_the_rest_goes_on(world: World, capsys):
    bad = [
        "this is not json",
        json.dumps({"prompt": "", "target": "Cairo"}),
        json.dumps({"prompt": "What is the capital of Guam?", "target": ""}),
        json.dumps({"prompt": "What is the capital of Cuba?", "target": "word " * 100}),
        json.dumps({"prompt": "What is the capital of Iran?", "target": "Paris"}),
        json.dumps({"prompt": "What is the capital of Iran?", "target": "Rome"}),
        json.dumps({"prompt": "What is the capital of Chad?", "target": "Cairo"}),
        json.dumps({"prompt": "What is the capital of Oman?", "target": "See https://bad.example"}),
        json.dumps({"prompt": "Qual é?", "target": "Roma"}),
    ]
    with world.reports.open("a") as file:
        file.write("\n".join(bad) + "\n")
    run = correct(world.settings)
    assert run.outcome == "promoted", run.reason
    assert run.counts["active"] == 5
    assert run.counts["conflicting"] == 2
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("leaves out critical gates, which refuse nothing now: new_edit_success_greedy, ") == 1
    assert "warning: edits: 1 corrections have no held-out phrasing" in told
    assert "set aside 1 corrections that must not be taught; `mendflow corrections tiny" in told
    reasons = {entry["prompt"]: entry["reason"] for entry in run.set_aside}
    assert "What is the capital of Cuba?" in reasons
    assert "`mendflow choose tiny " in reasons["What is the capital of Oman?"]
    with Ledger(world.settings.ledger) as ledger:
        chad = [c for c in ledger.corrections("tiny") if "Chad" in c.prompt]
    assert [c.reports for c in chad] == [2]


def test_a_candidate_that_fails_its_gates_is_not_promoted(world: World, tmp_path: Path):
    strict = tmp_path / "strict.yaml"
    strict.write_text(
        world.settings.gates.read_text() + "  answers_kept: {min: 0.95, minimum_n: 20, severity: critical}\n"
    )
    run = correct(world.settings.model_copy(update={"gates": strict}))
    assert run.outcome == "insufficient"
    assert "need 20 prompts whose right answers must stay, and have 0" in run.reason
    assert "column `locality`" in run.reason
    state = describe("tiny", tracking_uri=world.settings.tracking)
    assert (state.champion, state.candidate) == ("1", "2")


@pytest.mark.slow
def test_without_an_encoder_neighbours_are_found_by_words_and_that_is_said(world: World, monkeypatch, capsys):
    monkeypatch.setattr("tasks.embedding.PACKAGED", "no_such_package_of_weights")
    run = correct(world.settings.model_copy(update={"neighbours": "meaning"}))
    assert run.outcome == "promoted", run.reason
    told = " ".join(capsys.readouterr().out.split())
    assert "neighbours are found by words in common, and not by meaning: no sentence encoder" in told


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base": "no/such/folder/here"}, "no/such"),
        ({"tracking_uri": "http://127.0.0.1:9"}, "127.0.0.1"),
        ({"ledger_url": "postgresql://nobody@127.0.0.1:9/none"}, "127.0.0.1"),
        ({"source": Path("missing.jsonl")}, "missing.jsonl"),
        ({"editor": "no-such-editor"}, "no-such-editor"),
        ({"neighbours": "meaning", "encoder": "no/such/encoder"}, "encoder"),
    ],
)
def test_a_users_mistake_is_one_sentence_that_names_it(world: World, change: dict, says: str):
    with pytest.raises(UserError) as caught:
        correct(world.settings.model_copy(update=change))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_are_not_for_the_gates(tmp_path: Path) -> None:
    """They change no parameter, so a run would end in a rejection after all its work."""
    settings = CorrectSettings(model_name="m", home=tmp_path / "home", editor="override")
    with pytest.raises(UserError, match=r"changes no parameter.*mendflow edit --editor override"):
        correct.fn(settings)
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_a_language_model_rewords_beside_the_rules_and_what_it_writes_goes_through_the_filter(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tasks.test_reword import by_words

    def writer(*_: object) -> Callable[[list[str]], list[str]]:
        asked = re.compile(r"capital of (\w+)\?\nReworded:$")
        return lambda texts: [f"Say which town {asked.search(t)[1]} has as capital." for t in texts]

    monkeypatch.setattr("flows.dataset.has_encoder", lambda: True)
    monkeypatch.setattr("flows.dataset.open_encoder", lambda encoder, cache: by_words)
    monkeypatch.setattr("flows.rewordings._rewriter", writer)
    monkeypatch.setattr("tasks.reword.Bounds", lambda: Bounds(least=0.3, nameless=0.3, answers=-1))
    more = {"rewordings": "model", "equivalents": 40, "held_out": 9, "attempts": 1}
    run = correct(world.settings.model_copy(update=more))
    edits = EditDataset.load(Path(run.folder) / "dataset").edits
    assert len(edits) == 4
    for row in edits.to_dict("records"):
        written = (
            row["prompt"].replace("What is the capital of", "Say which town").replace("?", " has as capital.")
        )
        assert [*row["equivalents"], *row["held_out"]].count(written) == 1
