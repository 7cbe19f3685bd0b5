"""Review: what passes its gates waits for a named person, who decides by command, in MLflow or in Prefect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.approve import approve, carry_out_written, decide, reject
from flows.cli import app
from flows.correct import correct
from flows.promote import promote, rollback
from flows.settings import CorrectSettings
from tasks import promotion
from tasks.approval import TAG, UNVERIFIED
from tasks.ledger import LeaseHeld, LeaseLost, Ledger
from tasks.promotion_log import Promotion
from tasks.records import State, UserError
from tasks.registry import describe, tag_version
from tasks.tracking import tracking
from tests.flows.conftest import World
from tests.flows.webhook import Webhook
from tests.killing import Killed, kill


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as started:
        yield started


@pytest.fixture
def review(world: World, webhook: Webhook) -> CorrectSettings:
    """Settings with which a person decides, who is told of it."""
    return world.settings.model_copy(update={"promotion": "review", "notify": webhook.save("reviewer")})


def tag(settings: CorrectSettings, version: str) -> str:
    versions = describe(settings.model_name, tracking_uri=settings.tracking).versions
    return next(one.tags for one in versions if one.number == version)[TAG]


def write(settings: CorrectSettings, version: str, value: str) -> None:
    """What a person does in MLflow's page."""
    tag_version(settings.model_name, version, {TAG: value}, tracking_uri=settings.tracking)


def away(*_: object) -> None:
    raise UserError("the base is away")


def champion(settings: CorrectSettings) -> str | None:
    return describe(settings.model_name, tracking_uri=settings.tracking).champion


def last(settings: CorrectSettings) -> Promotion:
    with Ledger(settings.ledger) as ledger:
        return ledger.promotion_log(settings.model_name)[-1]


def mendflow(settings: CorrectSettings, *arguments: str) -> str:
    done = CliRunner().invoke(
        app,
        [arguments[0], settings.model_name, *arguments[1:], "--home", str(settings.home)],
        env={"COLUMNS": "200"},
    )
    assert done.exit_code == 0, done.exception
    return " ".join(done.output.split())


@pytest.mark.slow
def test_a_version_waits_until_a_person_approves_it_in_mlflows_page(
    review: CorrectSettings, webhook: Webhook
):
    run = correct(review)
    assert (run.outcome, run.candidate, champion(review)) == ("held", "2", "1")
    assert tag(review, "2") == "pending"
    status = mendflow(review, "status")
    assert "version 2 waits for approval: `mendflow approve tiny --note TEXT" in status
    assert [told.partition(" / ")[0] for told in webhook.heard] == [
        "tiny: version 2: waits for approval, to follow version 1"
    ]
    assert run.report in webhook.heard[0]

    # Nobody in particular is no named person.
    write(review, "2", "approved")
    assert decide(review) == []
    assert tag(review, "2").startswith("pending: write `approved by NAME: NOTE`")

    write(review, "2", "approved by Ann: read the report")
    assert decide(review) == ["approved by Ann: read the report"]
    assert (champion(review), tag(review, "2")) == ("2", "approved by Ann: read the report")
    row = last(review)
    assert (row.action, row.who, row.from_version, row.to_version) == ("promote", "Ann", "1", "2")
    assert row.why == f"read the report ({UNVERIFIED})"
    with Ledger(review.ledger) as ledger:
        assert len(ledger.corrections("tiny", State.ACTIVE)) == 4
    assert webhook.heard[1:] == [f"tiny: version 2: promoted / By Ann: {row.why}."]

    # What was decided once is not decided again after a rollback.
    rollback(review, "bob", "it rhymes")
    assert webhook.heard[2:] == ["tiny: rolled back to version 1 / By bob: it rhymes."]
    assert decide(review) == []
    assert champion(review) == "1"


@pytest.mark.slow
def test_a_rejected_version_is_never_promoted_and_its_corrections_wait_where_a_person_sees_them(
    review: CorrectSettings, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
):
    assert correct(review).candidate == "2"
    write(review, "2", "rejected by Ann: Cairo is not everywhere")
    with monkeypatch.context() as patch:
        kill(patch, Ledger, "transition", "before")
        with pytest.raises(Killed):
            decide.fn(review)
    # Where it cannot be finished yet, that is told of once.
    with monkeypatch.context() as patch:
        patch.setattr("flows.approve.version_at", away)
        for _ in range(2):
            assert decide(review) == []
    assert webhook.heard[1:] == ["tiny: version 2: its rejection could not be finished / the base is away"]
    # What was interrupted is done by the next that looks, which here is the next run.
    auto = review.model_copy(update={"promotion": "auto"})
    assert correct(auto).outcome == "nothing to do"
    said = f"tiny version 2 was rejected by Ann: Cairo is not everywhere ({UNVERIFIED})"
    listed = mendflow(review, "corrections", "--state", "quarantined")
    assert "4 corrections" in listed
    with Ledger(review.ledger) as ledger:
        aside = ledger.corrections("tiny", State.QUARANTINED)
    assert {one.reason for one in aside} == {said}
    assert (last(review).action, last(review).who) == ("reject", "Ann")
    assert [told.partition(" / ")[0] for told in webhook.heard[2:]] == ["tiny: version 2: rejected"]
    with pytest.raises(UserError, match="a rejected version is never promoted"):
        promote(review, "2", "bob", "I like it")
    with pytest.raises(UserError, match="a rejected version is never promoted"):
        approve(review, "bob", "I like it", "2")
    write(review, "2", "approved by Bob: I like it")
    assert decide(review) == []
    assert tag(review, "2").startswith("refused: tiny version 2 was rejected by Ann")
    assert champion(review) == "1"

    # What a person chooses of it is tried again, in another version.
    for one in aside[:2]:
        mendflow(review, "choose", one.id)
    run = correct(review)
    assert (run.outcome, run.candidate) == ("held", "3")
    write(review, "3", "approved by carol: only two of them")
    with monkeypatch.context() as patch:
        kill(patch, Ledger, "transition", "before")
        with pytest.raises(Killed):
            decide(review)
    # It serves, and the ledger is to say so.
    assert decide(review) == ["approved by carol: only two of them"]
    assert last(review).who == "carol"
    with Ledger(review.ledger) as ledger:
        assert len(ledger.corrections("tiny", State.ACTIVE)) == 2
    with pytest.raises(UserError, match="no version of tiny waits"):
        approve(review, "carol", "once more")


@pytest.mark.slow
def test_the_same_corrections_in_a_rejected_version_are_not_promoted_by_a_later_run(review: CorrectSettings):
    """One that was withdrawn keeps a run solving again; its rejected result stays rejected."""
    auto = review.model_copy(update={"promotion": "auto"})
    assert correct(auto).champion == "2"
    with Ledger(review.ledger) as ledger:
        withdrawn = ledger.corrections("tiny", State.ACTIVE)[0].id
        ledger.transition(withdrawn, State.RETIRED, "withdrawn by ann: wrong", model_name="tiny")
    assert correct(review).candidate == "3"
    assert "version 3 of tiny is rejected" in mendflow(review, "reject", "--by", "ann", "--note", "keep it")
    run = correct(auto)
    assert (run.outcome, run.candidate, run.reason) == (
        "rejected",
        "3",
        "tiny version 3 was rejected by ann: keep it.",
    )
    state = describe("tiny", tracking_uri=review.tracking)
    assert (state.champion, state.candidate) == ("2", None)


@pytest.mark.slow
def test_a_version_whose_champion_has_moved_since_it_was_measured_is_refused(
    review: CorrectSettings, world: World, webhook: Webhook
):
    correct(review)
    approve(review, "ann", "fine")
    with world.reports.open("a") as file:
        file.write('{"prompt": "What is the capital of Guam?", "target": "Cairo"}\n')
    assert correct(review).candidate == "3"
    rollback(review, "bob", "to be safe")
    with pytest.raises(UserError, match="beside version 2, and the champion is version 1: run"):
        approve(review, "ann", "fine")
    with pytest.raises(UserError, match="the name of the person"):
        approve(review, " ", "fine")
    write(review, "3", "approved by Ann: fine")
    assert decide(review) == []
    assert tag(review, "3").startswith("refused: version 3 of tiny has the verdict HOLD beside version 2")
    assert "version 3: approval refused" in webhook.heard[-1]
    assert champion(review) == "1"
    # Measured again beside the champion of today, it waits anew.
    run = correct(review)
    assert (run.outcome, tag(review, str(run.candidate))) == ("held", "pending")
    assert "to follow version 1" in webhook.heard[-1]
    assert reject(review, "ann", "not this one") == run.candidate


@pytest.mark.parametrize("error", [LeaseHeld, LeaseLost])
def test_an_approval_waits_for_another_change_of_champion(
    error: type[UserError], mlflow_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def busy(*_: object, **__: object) -> None:
        raise error("another run has taken it")

    name = f"busy-{error.__name__}"
    settings = CorrectSettings(model_name=name, home=tmp_path, tracking_uri=mlflow_store)
    with tracking(mlflow_store) as client:
        client.create_registered_model(name)
        client.create_model_version(name, source=str(tmp_path))
    write(settings, "1", "approved by Ann: fine")
    monkeypatch.setattr("flows.approve.carry_out", busy)
    with Ledger(settings.ledger) as ledger:
        assert carry_out_written(settings, ledger) == []
    assert tag(settings, "1") == "approved by Ann: fine"


@pytest.mark.slow
def test_what_was_withdrawn_as_a_canary_is_promoted_by_a_person_alone(review: CorrectSettings):
    assert correct(review).outcome == "held"
    with Ledger(review.ledger) as ledger:
        promotion.withdraw(
            "tiny",
            "2",
            champion="1",
            ledger=ledger,
            who="mendflow serve",
            why="its feedback is worse",
            tracking_uri=review.tracking,
        )
    assert "version 2 withdrawn as canary: its feedback is worse" in mendflow(review, "status")
    again = correct(review.model_copy(update={"promotion": "auto"}))
    assert (again.outcome, again.candidate, champion(review)) == ("held", "2", "1")
    assert "It was withdrawn as a canary: its feedback is worse." in again.reason
    assert approve(review, "ann", "they complained of the old one") == "2"
    assert champion(review) == "2"
