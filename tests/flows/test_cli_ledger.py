"""What people decide about corrections: finding ids, answering, choosing, retiring, looking back."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.parts import FOLDER
from flows.settings import HOME, CorrectSettings
from flows.told import Told, remember
from tasks.ledger import Ledger, Phase
from tasks.promotion_log import PROMOTE, ROLLBACK
from tasks.records import State, UserError, correction_id
from tasks.registry import RegisteredModel, Version

MODEL = "my-model"


class Shell:
    """`shell(command, ...)` runs `mendflow command my-model ...` in a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, command: str, *arguments: str) -> str:
        done = self.run(command, *arguments)
        assert done.exit_code == 0, done.exception
        return " ".join(done.output.split())

    def run(self, command: str, *arguments: str) -> Result:
        return CliRunner().invoke(
            app, [command, MODEL, *arguments, "--home", str(self.home)], env={"COLUMNS": "160"}
        )

    def flag(self, prompt: str, *more: str) -> str:
        """The id of the correction."""
        return self("flag", "--prompt", prompt, *more).split()[0]

    @property
    def ledger(self) -> str:
        return f"sqlite:///{self.home / 'ledger.db'}"

    def state(self, correction: str) -> State:
        with Ledger(self.ledger) as ledger:
            return ledger.get(correction, model_name=MODEL).state


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


def test_ids_are_found_by_state_whole_in_a_narrow_window(shell: Shell):
    togo = shell.flag("Capital of Togo?", "--expected", "Lome")
    chad = shell.flag("Capital of [bold]Chad[/]?")
    listed = shell("corrections")
    for part in (togo, "Capital of Togo?", "Lome", chad, "[bold]Chad[/]", "needs_answer", "2 corrections"):
        assert part in listed
    waiting = shell("corrections", "--state", "needs_answer")
    assert chad in waiting
    assert togo not in waiting
    assert "1 correction of my-model in state needs_answer" in waiting
    # Before there is any version there are corrections, and no answers.
    explained = shell("explain", "capital of TOGO")
    for part in (togo, "as 'Capital of Togo?'", "accepted", chad, "alike", "from 0 to 1"):
        assert part in explained
    assert "from 0 to 1" not in shell("explain", "capital of TOGO", "--nearest", "0")
    assert "no correction of my-model touches it" in shell("explain", "Zzyzx")
    narrow = CliRunner().invoke(app, ["corrections", MODEL, "--home", str(shell.home)], env={"COLUMNS": "50"})
    assert togo in narrow.output
    assert "0 corrections" in shell("corrections", "--state", "retired")


def test_a_hint_names_the_stores_that_the_user_named(
    shell: Shell, mlflow_store: str, monkeypatch: pytest.MonkeyPatch
):
    ledger, home = f"sqlite:///{shell.home.parent / 'my ledger.db'}", shell.home
    book = ("--ledger", ledger)
    shell.flag("Capital of Togo?", *book)
    mali = shell.flag("Capital of Mali?", "--expected", "Bamako", *book)
    of_book = f"--home {home} --ledger '{ledger}'`"
    both = f"--home {home} --tracking {mlflow_store} --ledger '{ledger}'`"
    hint = shell("status", "--tracking", mlflow_store, *book)
    assert f"`mendflow correct my-model --base REF {both} solves them" in hint
    assert f"`mendflow answer my-model ID --expected TEXT {of_book}" in hint
    assert f"`mendflow corrections my-model --state needs_answer {of_book}" in hint
    with Ledger(ledger) as opened:
        opened.transition(mali, State.ACTIVE, "held", model_name=MODEL)
    assert f"`mendflow correct my-model {of_book}" in shell("retire", mali, "--why", "wrong", *book)
    monkeypatch.setattr("flows.cli.versions.prepare_prefect", lambda _: None)
    there = RegisteredModel("my-model", {"champion": "9"}, (Version("9", ("champion",), {}, "", 0),))
    monkeypatch.setattr("flows.cli.versions.registered", lambda *_, **__: there)
    for number, moved in (("8", ", back from 9"), ("10", ", forward again from 9")):

        def rolled_back(settings: CorrectSettings, who: str, why: str, number: str = number) -> str:
            with Ledger(settings.ledger) as opened:
                # Another change may follow at once.
                for change in ((ROLLBACK, "9", number), (PROMOTE, number, "11")):
                    for phase in (Phase.BEGUN, Phase.DONE):
                        opened.log_promotion(MODEL, *change, who, why, phase)
            return number

        monkeypatch.setattr("flows.promote.rollback", rolled_back)
        said = shell("rollback", "--tracking", mlflow_store, *book)
        assert f"champion of my-model is version {number}{moved} corrections" in said
        assert f"`mendflow rollback my-model {both}" in said


def test_a_command_about_a_model_reaches_its_stores_and_tells_no_password():
    stores = {"tracking_uri": "http://host:5000", "ledger_url": "postgresql://ann:secret@host/db"}
    settings = CorrectSettings(model_name="my model", home=Path("elsewhere"), **stores)
    assert settings.command("promote", "--version", "3") == (
        "mendflow promote 'my model' --version 3 --home elsewhere --tracking http://host:5000 "
        "--ledger 'postgresql://ann:***@host/db'"
    )
    assert CorrectSettings(model_name="m", home=HOME.absolute()).command("rollback") == "mendflow rollback m"


def test_a_misspelt_model_or_home_is_named_and_not_said_to_have_no_corrections(shell: Shell):
    shell.flag("Capital of Togo?", "--expected", "Lome")
    misspelt = Shell(shell.home.with_name("elsewhere"))
    for command in (["status"], ["explain", "Capital of Togo?"], ["clean"]):
        failure = misspelt.run(*command).exception
        assert isinstance(failure, UserError), command
        assert f"nothing is known of a model 'my-model' in {misspelt.home}" in str(failure)
    assert not misspelt.home.exists() or not any(misspelt.home.iterdir())


def test_the_beginning_of_an_id_is_enough_where_no_other_begins_so(shell: Shell):
    prompts = [f"Capital of place {number}?" for number in range(17)]
    ids = {correction_id(prompt, "Lome", chat=True): prompt for prompt in prompts}
    twins = next(
        [a, b] for a in sorted(ids) for b in sorted(ids) if a < b and a[0] == b[0] and a[:8] != b[:8]
    )
    for id_ in twins:
        assert shell.flag(ids[id_], "--expected", "Lome") == id_
    waiting, rival = shell.flag("Who?"), shell.flag(ids[twins[0]], "--expected", "Lagos")
    first, second = (id_[:8] for id_ in twins)
    assert twins[0] in shell("history", first)
    assert shell("choose", first).startswith(f"{twins[0]} accepted")
    assert shell.state(rival) is State.QUARANTINED
    assert shell("retire", second, "--why", "wrong") == f"{twins[1]} retired"
    shell("answer", waiting[:12], "--expected", "Ann")
    assert shell.state(waiting) is State.DUPLICATE
    for command in (["history"], ["choose"], ["retire", "--why", "x"], ["answer", "--expected", "x"]):
        failure = shell.run(command[0], twins[0][0], *command[1:]).exception
        assert isinstance(failure, UserError), command
        assert "begins the ids of" in str(failure)
        assert all(id_ in str(failure) for id_ in twins)
    assert "no correction" in str(shell.run("history", "").exception)


def test_a_report_without_an_answer_is_given_one_by_a_named_person(shell: Shell):
    waiting = shell.flag("Capital of Togo?", "--output", "Lagos")
    hint = shell("status")
    assert (
        f"1 waiting for an answer: `mendflow answer my-model ID --expected TEXT --home {shell.home}`" in hint
    )
    assert f"`mendflow corrections my-model --state needs_answer --home {shell.home}`" in hint
    told = shell("answer", waiting, "--expected", "Lome", "--who", "carol")
    answered = told.split()[-2]
    assert told == f"{waiting} answered, as correction {answered} accepted"
    assert shell.state(waiting) is State.DUPLICATE
    assert "waiting for an answer" not in shell("status")
    past = shell("history", waiting)
    for part in ("Capital of Togo?", "needs_answer", f"answered by carol, as {answered}"):
        assert part in past
    with Ledger(shell.ledger) as ledger:
        times = [f"{step.at:%Y-%m-%d %H:%M:%S}" for step in ledger.history(waiting)]
    assert times
    assert all(time in past for time in times)


def test_a_contradiction_is_decided_and_the_choice_may_be_changed(shell: Shell):
    lome = shell.flag("Capital of Togo?", "--expected", "Lome")
    lagos = shell.flag("capital of togo?", "--expected", "Lagos")
    assert f"2 contradicting each other: `mendflow choose my-model ID --home {shell.home}`" in shell("status")
    assert shell("choose", lome, "--who", "carol") == f"{lome} accepted: chosen by carol over {lagos}"
    assert shell.state(lagos) is State.QUARANTINED
    assert "contradicting" not in shell("status")
    shell("choose", lagos)
    assert (shell.state(lome), shell.state(lagos)) == (State.QUARANTINED, State.ACCEPTED)
    # Also when what was chosen has been withdrawn.
    shell("retire", lagos, "--why", "wrong after all")
    shell("choose", lome)
    assert (shell.state(lome), shell.state(lagos)) == (State.ACCEPTED, State.RETIRED)


def test_what_no_version_holds_yet_is_simply_withdrawn(shell: Shell):
    togo = shell.flag("Capital of Togo?", "--expected", "Lome")
    assert shell("retire", togo, "--why", "[red]typed[/] wrongly", "--who", "ann") == f"{togo} retired"
    assert "withdrawn by ann: [red]typed[/] wrongly" in shell("history", togo)
    # Reported again, it is taken back.
    assert shell.flag("Capital of Togo?", "--expected", "Lome") == togo
    assert shell.state(togo) is State.ACCEPTED


def test_a_mistake_names_the_correction_and_changes_nothing(shell: Shell):
    togo = shell.flag("Capital of Togo?", "--expected", "Lome")
    chad = shell.flag("Capital of Chad?")
    guam = shell.flag("Capital of Guam?", "--expected", "Hagatna")
    long = shell.flag("Capital of Guam?", "--expected", "word " * 100)
    shell("retire", togo, "--why", "wrong")
    assert shell("choose", guam, "--who", "ann") == f"{guam} accepted: chosen by ann"
    before = shell("corrections")
    for command, says in (
        (["answer", "0123", "--expected", "x"], "no correction 0123 of my-model; `mendflow corrections`"),
        (["choose", "0123"], "no correction 0123 of my-model"),
        (["retire", "0123", "--why", "x"], "no correction 0123 of my-model"),
        (["history", "0123"], "no correction 0123 of my-model"),
        (["answer", guam, "--expected", "x"], f"{guam} is accepted; only one that needs an answer"),
        (["answer", chad, "--expected", " "], "empty"),
        (["choose", togo], f"{togo} is retired, and nothing contradicts it"),
        (["choose", chad], f"{chad} is needs_answer, and nothing contradicts it"),
        (["choose", guam], f"{guam} is accepted and was chosen already"),
        (["choose", long], "100 words"),
        (["retire", togo, "--why", "x"], f"{togo} is retired already: withdrawn by"),
    ):
        failure = shell.run(*command).exception
        assert isinstance(failure, UserError), command
        assert says in str(failure)
        assert "\n" not in str(failure)
    assert shell.run("corrections", "--state", "wrong").exit_code == 2
    assert shell("corrections") == before


def test_a_report_about_a_name_that_is_new_says_so(shell: Shell):
    asked = ["--prompt", "Capital of Togo?", "--output", "Accra"]
    home = ["--home", str(shell.home)]
    assert "the only" not in CliRunner().invoke(app, ["flag", "first", *asked, *home]).output
    misspelt = CliRunner().invoke(app, ["flag", "frist", *asked, *home]).output
    assert "the only correction of frist; other models are first" in misspelt
    another = ["--prompt", "Capital of Chad?", "--output", "Accra"]
    assert "the only" not in CliRunner().invoke(app, ["flag", "frist", *another, *home]).output
    # Nor is the model in doubt that `up` was told of, whichever was reported first.
    (shell.home / FOLDER).mkdir()
    remember(shell.home / FOLDER, Told(model="told"))
    assert "the only" not in CliRunner().invoke(app, ["flag", "told", *asked, *home]).output
    assert (
        "other models are first, frist, told"
        in CliRunner().invoke(app, ["flag", "tolt", *asked, *home]).output
    )
    listed = CliRunner().invoke(app, ["corrections", "fisrt", *home]).output
    assert "0 corrections of fisrt" in listed
    assert "models with corrections are first, frist" in listed
    nothing = CliRunner().invoke(app, ["flag", "first", "--prompt", " ", *home]).exception
    assert "--prompt" in str(nothing)
