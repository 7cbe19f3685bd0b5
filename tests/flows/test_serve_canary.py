"""`mendflow serve --canary`: the version that waits answers some, until its feedback is worse."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app as command
from flows.serve import WHO, Shares
from tasks.ledger import Ledger
from tasks.live_canary import STANDING_TAG
from tasks.promotion import WITHDRAWN_TAG
from tasks.promotion_log import WITHDRAW
from tasks.records import UserError
from tasks.registry import describe
from tasks.traffic import Feedback, give_feedback
from tests.flows.serving_tools import (
    PROMPTS,
    Known,
    ask,
    client_of,
    events,
    rollout_of,
    tags_of,
    text,
    traced,
    until,
)
from tests.flows.webhook import Webhook

HALF = Shares(canary=0.5)


def test_a_canary_answers_its_users_and_only_them(known: Known):
    expected = {
        number: dict(zip(PROMPTS, known.expected(number, PROMPTS, chat=True, tokens=8), strict=True))
        for number in ("2", "3")
    }
    known.candidate("3")
    of_user: dict[str, set[str]] = {}
    with client_of(known, shares=HALF) as client:
        rollout_of(client)
        for number, prompt in itertools.product(range(12), PROMPTS[:2]):
            user = f"user {number}"
            named = {"user": user} if number % 2 else {"safety_identifier": user}
            answer = ask(client, prompt, stream=number < 6, **named)
            version = answer.headers["x-mendflow-version"]
            said = (
                "".join(one["choices"][0]["delta"].get("content", "") for one in events(answer))
                if number < 6
                else text(answer)
            )
            assert said == expected[version][prompt]
            of_user.setdefault(user, set()).add(version)
        anybody = {ask(client, "Hi", tokens=1).headers["x-mendflow-version"] for _ in range(30)}
    assert all(len(versions) == 1 for versions in of_user.values())
    assert set().union(*of_user.values()) == anybody == {"2", "3"}
    told = {trace.info.tags["mendflow.version"] for trace in traced(known)}
    assert told == {"2", "3"}


def complain(known: Known, client: Any, version: str, count: int, *, user: str = "") -> None:
    """Ask until this version has answered so often, and call each of its answers wrong, others right."""
    clicks: list[Feedback] = []
    while sum(not click.correct for click in clicks) < count:
        answer = ask(client, "Hi", tokens=1, **({"user": user} if user else {}))
        right = answer.headers["x-mendflow-version"] != version
        clicks.append(Feedback(answer.headers["x-mendflow-trace"], right, "ann"))
    written = client.app.state.service.traces
    until(lambda: written.waiting == 0 and {c.trace_id for c in clicks} <= ids(known))
    give_feedback(clicks, tracking_uri=known.settings.tracking)


def ids(known: Known) -> set[str]:
    return {trace.info.trace_id for trace in traced(known)}


def test_a_canary_with_worse_feedback_withdraws_itself(known: Known):
    with Webhook() as webhook:
        settings = known.settings.model_copy(update={"notify": webhook.save("canary")})
        known = Known(settings, known.base)
        known.candidate("3")
        with client_of(known, shares=HALF) as client:
            rollout = rollout_of(client)
            complain(known, client, "2", 1)
            rollout.report()
            assert client.get("/health").json()["candidate"] == {
                "version": "3",
                "shadow": 0.0,
                "compared": 0,
                "canary": 0.5,
                "asked": {"shadow": 0.0, "canary": 0.5},
                "fault": None,
            }
            assert "it got 0.5 of the requests; users flagged 0 of " in tags_of(known, "3")[STANDING_TAG]
            complain(known, client, "3", 9)
            rollout.report()
            assert rollout.health()["canary"] == 0.0
            assert {ask(client, "Hi", tokens=1).headers["x-mendflow-version"] for _ in range(20)} == {"2"}
            rollout.look()
            assert rollout.health()["version"] is None
        why = tags_of(known, "3")[WITHDRAWN_TAG]
        assert why.startswith("its feedback is worse: it got 0.5 of the requests; users flagged 9 of ")
        with Ledger(settings.ledger) as ledger:
            (row,) = ledger.promotion_log(known.name)
        assert (row.action, row.from_version, row.to_version, row.who, row.why) == (
            WITHDRAW,
            "2",
            "3",
            WHO,
            why,
        )
        assert [one.partition(" / ")[0] for one in webhook.heard] == [
            f"{known.name}: version 3: withdrawn as canary beside version 2"
        ]
    # It promotes nothing, and leaves the decision to the person.
    now = describe(known.name, tracking_uri=settings.tracking)
    assert (now.champion, tags_of(known, "3")["approval"]) == ("2", "pending")
    with client_of(known, shares=HALF) as client:
        assert rollout_of(client).health()["version"] is None


@pytest.mark.slow
def test_one_angry_user_withdraws_no_canary(known: Known):
    known.candidate("3")
    with client_of(known, shares=HALF) as client:
        rollout = rollout_of(client)
        users = (f"user {number}" for number in itertools.count())
        on_canary = next(
            u for u in users if ask(client, "Hi", 1, user=u).headers["x-mendflow-version"] == "3"
        )
        complain(known, client, "3", 12, user=on_canary)
        rollout.report()
        assert rollout.health()["canary"] == 0.5
        assert "users flagged 12 of 12" in tags_of(known, "3")[STANDING_TAG]


@pytest.mark.parametrize("stream", [False, True])
def test_a_canary_that_fails_is_withdrawn_and_the_champion_answers(
    stream: bool, known: Known, monkeypatch: pytest.MonkeyPatch
):
    from tasks import live_answer

    tokens = live_answer.next_tokens
    (expected,) = known.expected("2", PROMPTS[:1], chat=True, tokens=8)
    known.candidate("3")
    with client_of(known, shares=Shares(canary=0.999)) as client:
        rollout = rollout_of(client)
        canary = rollout.candidate.current
        assert canary is not None

        def failing(model: Any, *arguments: Any) -> Any:
            if model is canary.version.model:
                raise ValueError("the model's logits are not finite")
            return tokens(model, *arguments)

        monkeypatch.setattr(live_answer, "next_tokens", failing)
        answer = ask(client, PROMPTS[0], stream=stream)
        assert answer.headers["x-mendflow-version"] == "2"
        if stream:
            said = "".join(one["choices"][0]["delta"].get("content", "") for one in events(answer))
        else:
            said = text(answer)
        assert said == expected
        rollout.look()
        assert tags_of(known, "3")[WITHDRAWN_TAG] == "it failed to answer a request (ValueError)"
    assert [trace.info.tags["mendflow.version"] for trace in traced(known)] == ["2"]


def test_word_of_a_withdrawal_is_left_once_the_stores_can_be_used_again(
    known: Known, monkeypatch: pytest.MonkeyPatch
):
    known.candidate("3")
    with client_of(known, shares=HALF) as client:
        rollout = rollout_of(client)
        trial = rollout.candidate.current
        assert trial is not None
        assert rollout.canary is not None
        rollout.canary.failed(trial, ValueError("broken"))

        def down(*_: Any, **__: Any) -> None:
            raise UserError("the store is away")

        with monkeypatch.context() as patch:
            patch.setattr("tasks.promotion.tag_version", down)
            rollout.look()
            assert WITHDRAWN_TAG not in tags_of(known, "3")
            assert {ask(client, "Hi", tokens=1).headers["x-mendflow-version"] for _ in range(10)} == {"2"}
        rollout.look()
        assert WITHDRAWN_TAG in tags_of(known, "3")
    with Ledger(known.settings.ledger) as ledger:
        assert [row.action for row in ledger.promotion_log(known.name)] == [WITHDRAW]


def test_shares_that_are_none_are_refused(known: Known, tmp_path: Path):
    for shares in (("--canary", "1"), ("--canary", "-0.1"), ("--shadow", "1.5")):
        done = CliRunner().invoke(
            command,
            ["serve", known.name, *shares, "--home", str(tmp_path), "--tracking", known.settings.tracking],
        )
        assert isinstance(done.exception, UserError), done.output
        assert "a share is between 0 and 1" in str(done.exception)
