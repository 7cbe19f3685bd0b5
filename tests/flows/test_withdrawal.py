"""A correction that a person withdrew: solved without, until it is reported again or rolled back to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.correct import correct
from flows.promote import rollback
from flows.settings import CorrectSettings
from flows.stages import Champion, reconcile
from tasks.edit_dataset import EditDataset
from tasks.ledger import Ledger, Phase
from tasks.models import resolve
from tasks.records import ErrorReport, State, UserError
from tasks.registry import describe
from tasks.traffic import Feedback, ask, give_feedback, load_served
from tests.flows.conftest import World


def answers(settings: CorrectSettings, prompts: list[str], alias: str = "@champion") -> list[str]:
    served = load_served(f"models:/tiny{alias}", settings.tracking)
    return served.answer(prompts, chat=False, max_new_tokens=8)


@pytest.mark.slow
def test_the_answer_goes_back_and_the_others_hold(
    taught: Callable[[Path], World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = taught(tmp_path / "home").settings
    monkeypatch.setenv("MENDFLOW_HOME", str(settings.home))
    assert settings.source is not None
    assert settings.training_data is not None
    lines = [*settings.source.read_text().splitlines(), settings.training_data.read_text().splitlines()[0]]
    # Those that fine-tuning a model so small can hold together.
    chosen = [json.loads(lines[i]) for i in (0, 3, 4)]
    reports = tmp_path / "reports.jsonl"
    reports.write_text("".join(json.dumps({**row, "locality": []}) + "\n" for row in chosen))
    settings = settings.model_copy(update={"source": reports, "editor": "finetune", "training_data": None})
    prompts, wanted = [row["prompt"] for row in chosen], [row["target"] for row in chosen]

    def typed(command: str, *arguments: str) -> str:
        done = CliRunner().invoke(app, [command, "tiny", *arguments, "--home", str(settings.home)])
        assert done.exit_code == 0, done.exception
        return done.output

    first = correct(settings)
    assert first.outcome == "promoted", first.reason
    assert answers(settings, prompts) == wanted
    before = answers(settings, prompts, "/1")
    # The champion answers users as corrected, and they call it right: no reason to hold it still.
    served = load_served("models:/tiny@champion", settings.tracking)
    (one,) = ask(served, prompts[:1], experiment="mendflow", session="s", chat=False)
    give_feedback([Feedback(one.trace_id, True, "ann", one.output)], tracking_uri=settings.tracking)

    with Ledger(settings.ledger) as ledger:
        ids = {c.prompt: c.id for c in ledger.corrections("tiny", State.ACTIVE)}
    said = typed("retire", ids[prompts[0]], "--why", "no longer true", "--who", "ann")
    assert f"mendflow correct tiny --home {settings.home}` solves again without it" in said
    run = correct(settings)
    assert (run.outcome, run.counts) == ("promoted", {"active": 2, "retired": 1})
    kept = set(EditDataset.load(Path(run.folder) / "dataset").locality["prompt"])
    assert kept
    assert prompts[0] not in kept
    assert answers(settings, prompts) == [before[0], *wanted[1:]]
    # A run with nothing new changes nothing.
    assert correct(settings).outcome == "nothing to do"
    assert describe("tiny", tracking_uri=settings.tracking).champion == "3"

    # Who rolls back wants what served then, and the next run leaves it so: also where it has to finish the
    # rollback, because that was killed when it had only begun.
    def begun() -> None:
        with Ledger(settings.ledger) as ledger:
            ledger.log_promotion("tiny", "rollback", "3", "2", "ann", "to see it again", Phase.BEGUN)

    begun()
    assert correct(settings).outcome == "nothing to do"
    assert "held by champion 2" in typed("history", ids[prompts[0]])
    assert rollback(settings, "ann", "and forward") == "3"
    begun()
    assert rollback(settings, "ann", "typed again after the kill") == "2"
    for id_ in ids.values():
        typed("retire", id_, "--why", "no longer true")
    back = rf"holds 3: `mendflow promote tiny --version 1 --home {settings.home}` puts the base back"
    with pytest.raises(UserError, match=back):
        correct(settings)


def test_a_withdrawal_is_not_undone_by_the_version_that_still_holds_it(tiny_llama) -> None:
    folder = resolve(str(tiny_llama()))
    with Ledger("sqlite://") as ledger:
        report = {"desired_output": "x", "source": "s", "model_name": "tiny"}
        old, new = (c.id for c in ledger.record([ErrorReport(prompt=p, **report) for p in ("old", "new")]))
        reconcile(ledger, "tiny", Champion("2", folder, (old, new)))
        ledger.transition(old, State.RETIRED, "withdrawn by ann: wrong")
        # Of a version that was solved before the withdrawal, whoever promotes it.
        for champion in (Champion("2", folder, (old, new)), Champion("3", folder, (old,))):
            reconcile(ledger, "tiny", champion)
            assert ledger.get(old).state is State.RETIRED
        assert ledger.get(new).state is State.RETIRED
        reconcile(ledger, "tiny", Champion("2", folder, (old, new)), brought_back=[new])
        assert (ledger.get(old).state, ledger.get(new).state) == (State.RETIRED, State.ACTIVE)
        reconcile(ledger, "tiny", Champion("2", folder, (old, new)), brought_back=[old])
        assert ledger.get(old).state is State.ACTIVE
