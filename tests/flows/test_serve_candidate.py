"""`mendflow serve` tries the version that waits: in shadow, or as a canary that withdraws itself."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
from typer.testing import CliRunner

from flows.cli import app as command
from flows.serve import WHO, Shares
from tasks.ledger import Ledger
from tasks.live_canary import STANDING_TAG
from tasks.live_shadow import SHADOW_TAG
from tasks.promotion import WITHDRAWN_TAG
from tasks.promotion_log import WITHDRAW
from tasks.records import UserError
from tasks.registry import describe
from tasks.tracking import tracking
from tasks.traffic import Feedback, give_feedback
from tasks.verdicts import COMPARED_TAG, VERDICT_TAG
from tests.flows.serving_tools import (
    MATRIX,
    PROMPTS,
    Known,
    ask,
    client_of,
    damage,
    events,
    rollout_of,
    running,
    traced,
    until,
)
from tests.flows.webhook import Webhook

ALL, HALF = Shares(shadow=1.0), Shares(canary=0.5)


def tags(known: Known, number: str) -> dict[str, str]:
    versions = describe(known.name, tracking_uri=known.settings.tracking).versions
    return dict(next(version.tags for version in versions if version.number == number))


def text(response: Any) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_in_shadow_nobody_sees_the_candidate_and_whoever_approves_it_sees_what_differs(known: Known):
    shown = known.expected("2", PROMPTS, chat=True, tokens=8)
    hidden = known.expected("3", PROMPTS, chat=True, tokens=8)
    differing = [one for one in zip(PROMPTS, shown, hidden, strict=True) if one[1] != one[2]]
    assert differing
    known.candidate("3")
    for again in (1, 2):
        with client_of(known, shares=ALL) as client:
            rollout = rollout_of(client)
            answers = [ask(client, prompt) for prompt in PROMPTS]
            # What is drawn by lot differs from itself: it is not compared.
            assert ask(client, PROMPTS[0], temperature=1.0).status_code == 200
            assert [text(answer) for answer in answers] == shown
            assert {answer.headers["x-mendflow-version"] for answer in answers} == {"2"}
            until(lambda: rollout.health()["compared"] == len(PROMPTS))  # noqa: B023
            assert client.get("/health").json()["candidate"]["shadow"] == 1.0
        # What it has compared is logged at its end, and counts on after a restart.
        count, unlike = again * len(PROMPTS), again * len(differing)
        said = tags(known, "3")[SHADOW_TAG]
        assert said.startswith(f"{count} answers compared with version 2's, {unlike} differ (")
    assert {trace.info.tags["mendflow.version"] for trace in traced(known)} == {"2"}
    with tracking(known.settings.tracking) as client:
        logged = mlflow.artifacts.load_dict(said.partition(": ")[2])
        (run,) = client.search_runs(
            [client.get_experiment_by_name(f"{known.name} traffic-corrections").experiment_id]
        )
    assert (run.data.metrics["shadow_compared"], run.data.metrics["shadow_differing"]) == (count, unlike)
    pairs = {(one["asked"][0]["content"], one["champion"], one["candidate"]) for one in logged["pairs"]}
    assert pairs == set(differing)
    waits = CliRunner().invoke(
        command,
        ["status", known.name, "--home", str(known.settings.home), "--tracking", known.settings.tracking],
    )
    assert said in waits.output


def test_the_candidate_computes_nothing_while_a_request_is_under_way(
    known: Known, monkeypatch: pytest.MonkeyPatch
):
    from tasks import live_answer

    tokens, goes_on, begun = live_answer.next_tokens, threading.Event(), threading.Event()
    by_candidate: list[int] = []
    known.candidate("3")
    with client_of(known, shares=ALL) as client:
        rollout = rollout_of(client)
        trial = rollout.candidate.current
        assert trial is not None

        def counted(steps: Iterator[int]) -> Iterator[int]:
            for token in steps:
                by_candidate.append(token)
                yield token

        def held(model: Any, *arguments: Any) -> Iterator[int]:
            steps = tokens(model, *arguments)
            if model is trial.version.model:
                return counted(steps)
            if not begun.is_set():
                begun.set()
                goes_on.wait()
            return steps

        monkeypatch.setattr(live_answer, "next_tokens", held)
        first = threading.Thread(target=ask, args=(client, "Hi"))
        first.start()
        begun.wait()
        assert ask(client, PROMPTS[0]).status_code == 200
        time.sleep(0.5)
        assert by_candidate == []
        goes_on.set()
        first.join()
        until(lambda: rollout.health()["compared"] == 2)
    assert by_candidate


def test_the_candidate_shares_the_bases_weights_with_the_champion(known: Known):
    known.candidate("3")
    with client_of(known, shares=ALL) as client:
        trial = rollout_of(client).candidate.current
        assert trial is not None
        champion = dict(client.app.state.service.follower.current.model.named_parameters())
        own = [
            name
            for name, tensor in trial.version.model.named_parameters()
            if tensor.data_ptr() != champion[name].data_ptr()
        ]
    assert own == [MATRIX]


def test_only_a_version_that_passed_beside_this_champion_and_waits_is_tried(
    known: Known, caplog: pytest.LogCaptureFixture
):
    with client_of(known, shares=ALL) as client:

        def tried() -> str | None:
            return rollout_of(client).health()["version"]  # type: ignore[no-any-return]

        # It has the alias of a candidate, and no verdict yet.
        assert describe(known.name, tracking_uri=known.settings.tracking).candidate == "3"
        assert tried() is None
        known.candidate("3")
        assert tried() == "3"
        known.tag("3", **{VERDICT_TAG: "HOLD", COMPARED_TAG: "1"})
        assert tried() is None
        known.tag("3", **{COMPARED_TAG: "2"})
        assert tried() == "3"
        known.candidate("1")
        assert tried() == "1"
        known.tag("1", approval="rejected by ann: too terse")
        assert tried() is None
        damage(known, "3")
        known.candidate("3")
        assert tried() is None
        assert "not the one that was registered" in client.get("/health").json()["candidate"]["fault"]
        assert ask(client, PROMPTS[0]).headers["x-mendflow-version"] == "2"
        assert sum("version 3 cannot be tried" in line for line in caplog.messages) == 1


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
                "fault": None,
            }
            assert "it got 0.5 of the requests; users flagged 0 of " in tags(known, "3")[STANDING_TAG]
            complain(known, client, "3", 9)
            rollout.report()
            assert rollout.health()["canary"] == 0.0
            assert {ask(client, "Hi", tokens=1).headers["x-mendflow-version"] for _ in range(20)} == {"2"}
            rollout.look()
            assert rollout.health()["version"] is None
        why = tags(known, "3")[WITHDRAWN_TAG]
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
    assert (now.champion, tags(known, "3")["approval"]) == ("2", "pending")
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
        assert "users flagged 12 of 12" in tags(known, "3")[STANDING_TAG]


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
        assert tags(known, "3")[WITHDRAWN_TAG] == "it failed to answer a request (ValueError)"
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
            assert WITHDRAWN_TAG not in tags(known, "3")
            assert {ask(client, "Hi", tokens=1).headers["x-mendflow-version"] for _ in range(10)} == {"2"}
        rollout.look()
        assert WITHDRAWN_TAG in tags(known, "3")
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


@pytest.mark.slow
def test_candidates_change_under_load_and_no_request_is_dropped_or_mixed(known: Known):
    expected = {
        number: dict(zip(PROMPTS, known.expected(number, PROMPTS, chat=True, tokens=16), strict=True))
        for number in ("1", "2", "3")
    }
    seen: list[tuple[str, str, str]] = []
    failed: list[str] = []
    over = threading.Event()

    def user(client: httpx.Client, number: int) -> None:
        for asked in itertools.cycle(PROMPTS):
            if over.is_set():
                return
            try:
                response = ask(client, asked, 16, stream=number == 0)
                if number == 0:
                    said = "".join(one["choices"][0]["delta"].get("content", "") for one in events(response))
                else:
                    said = text(response)
                seen.append((response.headers["x-mendflow-version"], asked, said))
            except Exception as error:
                failed.append(repr(error))

    known.candidate("3")
    with running(known, shares=Shares(shadow=0.5, canary=0.4)) as client:
        users = [threading.Thread(target=user, args=(client, number)) for number in range(3)]
        for thread in users:
            thread.start()
        for number in itertools.islice(itertools.cycle("31"), 12):
            known.candidate(number)
            until(lambda: client.get("/health").json()["candidate"]["version"] == number)  # noqa: B023
            before = len(seen)
            until(lambda: len(seen) > before + 10)  # noqa: B023
        over.set()
        for thread in users:
            thread.join()
    assert failed == []
    assert [one for one in seen if expected[one[0]][one[1]] != one[2]] == []
    assert {version for version, _, _ in seen} == {"1", "2", "3"}
    assert json.dumps(tags(known, "2")).count("shadow") == 0
