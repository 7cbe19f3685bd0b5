"""What becomes of reports and edits that are taken, and of those that come again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flows.endpoint import teller
from tasks.ledger import Ledger
from tasks.records import Correction, State
from tasks.refusals import REFUSAL
from tasks.reporters import add_reporter, remove_reporter
from tests.endpoint.conftest import MODEL, Endpoint, running


def test_a_report_is_a_correction_by_the_name_of_the_key(endpoint: Endpoint):
    answered = endpoint.send(
        model_version="3", subject="Togo", rephrases=["Togo's capital?"], locality=["Capital of Chad?"]
    )
    (one,) = endpoint.kept()
    assert (answered.status_code, answered.json()) == (201, {"correction": one.id, "state": "accepted"})
    assert (one.prompt, one.wrong_output, one.desired_output) == ("Capital of Togo?", "Lagos.", "Lom\u00e9.")
    assert (one.reporters, one.chat, one.model_version, one.subject) == (("ann",), True, "3", "Togo")
    assert (one.equivalents, one.locality) == (("Togo's capital?",), ("Capital of Chad?",))


@pytest.mark.parametrize("unknown", [None, ...])
def test_a_report_without_an_answer_waits_for_one(endpoint: Endpoint, unknown: object):
    answered = endpoint.send(target=unknown, output=..., chat=False)
    (one,) = endpoint.kept()
    assert (answered.status_code, answered.json()["state"]) == (201, "needs_answer")
    assert (one.state, one.desired_output, one.chat) == (State.NEEDS_ANSWER, None, False)


def test_an_output_that_must_never_appear_wants_a_refusal(endpoint: Endpoint):
    answered = endpoint.send(target=None, suppress=True)
    (one,) = endpoint.kept()
    assert (answered.status_code, answered.json()["state"]) == (201, "accepted")
    assert (one.suppressed, one.desired_output) == (("Lagos.",), REFUSAL)


def test_an_edited_answer_is_a_report_of_what_it_became(endpoint: Endpoint):
    answered = endpoint.send("/edits", key="shop", target=..., edited="It is Lom\u00e9.")
    (one,) = endpoint.kept()
    assert (answered.status_code, answered.json()["correction"]) == (201, one.id)
    assert (one.wrong_output, one.desired_output, one.reporters) == ("Lagos.", "It is Lom\u00e9.", ("shop",))


def test_a_report_that_comes_again_is_the_same_and_another_in_its_place_is_refused(endpoint: Endpoint):
    first = endpoint.send(once="k1")
    before = endpoint.rows()
    again = endpoint.send(once="k1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    for change in ({"target": "Accra."}, {"prompt": "Capital of Chad?"}, {"output": "?"}, {"chat": False}):
        refused = endpoint.send(once="k1", **change)
        assert refused.status_code == 409
        assert "Idempotency-Key has made another report" in refused.json()["detail"]
    assert endpoint.rows() == before
    # The same words of another reporter, or under another key, are another report of the one correction.
    others = [endpoint.send(once="k1", key="shop"), endpoint.send(once="k2")]
    assert [other.status_code for other in others] == [201, 201]
    assert {other.json()["correction"] for other in others} == {first.json()["correction"]}
    (one,) = endpoint.kept()
    assert (one.reports, one.reporters) == (3, ("ann", "shop"))


def test_a_report_that_comes_again_after_a_reviewer_answered_counts_for_the_answered_one(endpoint: Endpoint):
    waiting = endpoint.send(once="k1", target=None).json()["correction"]
    with Ledger(endpoint.ledger_url) as ledger:
        answered = ledger.answer(waiting, "Lom\u00e9.", "eve")
    again = endpoint.send(once="k1", target=None)
    assert (again.status_code, again.json()) == (200, {"correction": answered.id, "state": "accepted"})


@pytest.mark.parametrize("same", [True, False])
def test_of_many_at_once_with_one_idempotency_key_one_is_taken(endpoint: Endpoint, same: bool):
    statuses: list[int] = []
    together = threading.Barrier(8)

    def send(number: int) -> None:
        together.wait()
        statuses.append(endpoint.send(once="k", target="Lom\u00e9." if same else f"{number}").status_code)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == ([200] * 7 + [201] if same else [201] + [409] * 7)
    (one,) = endpoint.kept()
    assert one.reports == 1


def test_reporters_come_and_go_while_it_runs(endpoint: Endpoint):
    remove_reporter(endpoint.reporters, "shop")
    assert endpoint.send(key="shop").status_code == 401
    endpoint.keys["new"] = add_reporter(endpoint.reporters, "new")
    assert endpoint.send(key="new").status_code == 201
    assert endpoint.send(key="ann").status_code == 201
    endpoint.reporters.write_text("{")
    refused = endpoint.send(key="ann")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "60")


def test_a_ledger_that_cannot_be_used_is_said_without_its_address(endpoint: Endpoint, caplog):
    path = Path(endpoint.ledger_url.removeprefix("sqlite:///"))
    for file in path.parent.glob("ledger.db*"):
        file.unlink()
    path.mkdir()
    refused = endpoint.send()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json()["detail"] == "the ledger cannot be used now; send the report again later"
    assert str(path) in caplog.text
    path.rmdir()


def test_new_reports_are_told_once_and_the_last_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[Correction] = []
    monkeypatch.setattr(teller, "tell_of_reports", told.extend)
    with running(tmp_path) as endpoint:
        for number in range(5):
            for _ in range(2):
                endpoint.send(prompt=f"{number}?", once=f"k{number}")
        kept = endpoint.kept(MODEL)
    assert [one.id for one in told] == [one.id for one in kept]
    assert len(told) == 5


def test_prefect_failing_in_a_new_way_stops_neither_reports_nor_the_telling_of_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    told: list[str] = []
    heard = threading.Event()

    def fail_once(kept: list[Correction]) -> None:
        if not told:
            told.append("failed")
            heard.set()
            raise KeyError("no such thing")
        told.extend(one.prompt for one in kept)

    monkeypatch.setattr(teller, "tell_of_reports", fail_once)
    with running(tmp_path) as endpoint:
        assert endpoint.send(prompt="first").status_code == 201
        assert heard.wait(10)
        assert endpoint.send(prompt="second").status_code == 201
    assert told == ["failed", "second"]
    assert "Prefect was not told of 1 reports" in caplog.text
