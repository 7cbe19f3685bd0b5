"""`mendflow serve` tries the version that waits, and has it answer in shadow."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import mlflow
import pytest
from typer.testing import CliRunner

from flows.cli import app as command
from flows.serve import Shares
from tasks.ledger import Ledger
from tasks.live_shadow import SHADOW_TAG
from tasks.registry import describe
from tasks.tracking import tracking
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
    tags_of,
    text,
    traced,
    until,
)
from tests.tasks.ledger_tools import report
from validation.suppression import WITHHELD, withholding

ALL = Shares(shadow=1.0)


def test_in_shadow_nobody_sees_the_candidate_and_whoever_approves_it_sees_what_differs(known: Known):
    shown = known.expected("2", PROMPTS, chat=True, tokens=8)
    hidden = known.expected("3", PROMPTS, chat=True, tokens=8)
    differing = [one for one in zip(PROMPTS, shown, hidden, strict=True) if one[1] != one[2]]
    assert differing
    prompt, private, _ = differing[0]
    with Ledger(known.settings.ledger) as ledger:
        told = report(prompt, "No.", model_name=known.name, wrong_output=private, suppress=True)
        ledger.record([told])
    withheld = withholding([([private], f"{prompt} No.")])
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
        said = tags_of(known, "3")[SHADOW_TAG]
        assert said.startswith(f"{count} answers compared with version 2's, {unlike} differ (")
    assert {trace.info.tags["mendflow.version"] for trace in traced(known)} == {"2"}
    with tracking(known.settings.tracking) as client:
        logged = mlflow.artifacts.load_dict(said.partition(": ")[2])
        (run,) = client.search_runs(
            [client.get_experiment_by_name(f"{known.name} traffic-corrections").experiment_id]
        )
    assert (run.data.metrics["shadow_compared"], run.data.metrics["shadow_differing"]) == (count, unlike)
    pairs = {(one["asked"][0]["content"], one["champion"], one["candidate"]) for one in logged["pairs"]}
    assert pairs == {tuple(map(withheld, one)) for one in differing}
    assert (prompt, WITHHELD) in {pair[:2] for pair in pairs}
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
    assert json.dumps(tags_of(known, "2")).count("shadow") == 0
