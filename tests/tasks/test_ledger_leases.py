"""The ledger's leases and promotion log."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from tasks.ledger import Lease, LeaseHeld, LeaseLost, Ledger, Phase
from tasks.records import UserError
from tests.tasks.ledger_tools import MODEL
from tests.threads import at_once


def test_a_lease_excludes_another_connection_until_it_ends(url: str) -> None:
    with Ledger(url) as one, Ledger(url) as two:
        with one.lease(MODEL, "nightly run"):
            with (
                pytest.raises(LeaseHeld, match="nightly run is at work on capitals; wait"),
                two.lease(MODEL, "b"),
            ):
                pass
            with two.lease("another model", "b"):
                pass
        with two.lease(MODEL, "b"):
            pass


def test_who_is_at_work_on_a_model_is_known(url: str) -> None:
    began = datetime.now(UTC)
    with Ledger(url) as one, Ledger(url) as two:
        with (
            one.lease(f"{MODEL}/correct", "correct"),
            one.lease(MODEL, "ann"),
            # Neither of the model, nor of a run that may still be at work.
            one.lease(f"{MODEL}2/correct", "other"),
            one.lease(f"{MODEL.title()}/correct", "another"),
            one.lease(f"{MODEL}/clean", "late", seconds=-1),
        ):
            found = two.at_work(MODEL)
            assert [holder for holder, _ in found] == ["correct", "ann"]
            assert all(began <= since <= datetime.now(UTC) for _, since in found)
        assert two.at_work(MODEL) == []


def test_a_lease_is_given_back_when_the_work_fails(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError, match="boom"), ledger.lease(MODEL, "a"):
        raise RuntimeError("boom")
    with ledger.lease(MODEL, "b"):
        pass


def test_why_the_work_failed_is_told_where_the_lease_cannot_be_given_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(lease: Lease) -> None:
        raise UserError("the ledger cannot be used")

    monkeypatch.setattr(Lease, "release", unreachable)
    with pytest.raises(RuntimeError, match="boom"), ledger.lease(MODEL, "a"):
        raise RuntimeError("boom")
    with pytest.raises(UserError, match="the ledger cannot be used"), ledger.lease("another model", "a"):
        pass


def test_a_lease_that_ran_out_is_taken_and_its_holder_is_told(url: str) -> None:
    with (
        Ledger(url) as one,
        Ledger(url) as two,
        one.lease(MODEL, "slow", seconds=-1) as lost,
        two.lease(MODEL, "quick"),
        pytest.raises(LeaseLost, match="slow"),
    ):
        lost.renew()


def test_a_lost_lease_does_not_free_that_of_another_when_given_back(url: str) -> None:
    with Ledger(url) as one, Ledger(url) as two, one.lease(MODEL, "slow", seconds=-1) as lost:
        with two.lease(MODEL, "quick"):
            lost.release()
            with pytest.raises(LeaseHeld, match="quick"), one.lease(MODEL, "third"):
                pass
        lost.release()


def test_a_renewed_lease_is_held_on(url: str) -> None:
    with Ledger(url) as one, Ledger(url) as two, one.lease(MODEL, "a", seconds=-1) as lease:
        lease.renew(600)
        assert lease.expires_at > datetime.now(UTC)
        with pytest.raises(LeaseHeld), two.lease(MODEL, "b"):
            pass


def test_a_long_step_renews_its_lease_as_it_goes_and_stops_when_it_is_lost(url: str) -> None:
    with Ledger(url) as one, Ledger(url) as two, one.lease(MODEL, "a", seconds=600) as lease:
        first = lease.expires_at
        lease.keep()
        assert lease.expires_at == first
        lease.renew(200)
        lease.keep()
        assert lease.expires_at >= first
        lease.renew(-1)
        with two.lease(MODEL, "b"), pytest.raises(LeaseLost):
            lease.keep()


def test_what_a_run_is_doing_is_told_to_whoever_asks(url: str) -> None:
    with Ledger(url) as one, Ledger(url) as two, one.lease(MODEL, "nightly", seconds=600) as lease:
        since = two.at_work(MODEL)
        assert [holder for holder, _ in since] == ["nightly"]
        lease.keep("Collect")
        lease.keep("Validate")
        lease.keep()
        assert two.at_work(MODEL) == [("nightly (Validate)", since[0][1])]
        with pytest.raises(LeaseHeld, match=r"nightly \(Validate\) is at work"), two.lease(MODEL, "b"):
            pass


def test_a_long_step_goes_on_while_the_database_is_away_until_the_lease_runs_out(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(lease: Lease) -> None:
        raise UserError("the ledger cannot be used")

    with ledger.lease(MODEL, "a", seconds=600) as lease:
        lease.renew(200)
        with monkeypatch.context() as patch:
            patch.setattr(Lease, "renew", away)
            lease.keep()
            lease.expires_at -= timedelta(seconds=300)
            with pytest.raises(UserError, match="cannot be used"):
                lease.keep()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a dead process is told apart on Linux only")
def test_the_lease_of_a_killed_process_is_free_at_once(url: str) -> None:
    program = (
        "import os, signal, sys\nfrom tasks.ledger import Ledger\n"
        "with Ledger(sys.argv[1]).lease('capitals', 'doomed'):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, url], check=False).returncode == -signal.SIGKILL
    with Ledger(url) as ledger, ledger.lease(MODEL, "next"):
        pass


def test_one_of_many_that_want_a_lease_gets_it(url: str) -> None:
    Ledger(url).close()
    done = threading.Barrier(4)

    def want(name: str) -> bool:
        with Ledger(url) as own:
            try:
                with own.lease(MODEL, name):
                    done.wait()
            except LeaseHeld:
                done.wait()
                return False
        return True

    assert sum(at_once(want, "0123")) == 1


def test_a_promotion_is_begun_then_done(ledger: Ledger) -> None:
    assert ledger.unfinished_promotion(MODEL) is None
    for phase in ("begun", "begun"):
        ledger.log_promotion(MODEL, "promote", None, "1", "ann", "gates passed", phase, "run")
    begun = ledger.unfinished_promotion(MODEL)
    assert begun is not None
    assert (begun.from_version, begun.to_version, begun.who, begun.phase) == (None, "1", "ann", Phase.BEGUN)
    for _ in range(2):
        ledger.log_promotion(MODEL, "promote", None, "1", "ann", "gates passed", Phase.DONE, "run")
    assert ledger.unfinished_promotion(MODEL) is None
    assert [row.phase for row in ledger.promotion_log(MODEL)] == [Phase.BEGUN, Phase.DONE]
    assert ledger.promotion_log("another model") == []


def test_an_interrupted_promotion_is_ended_before_another_begins(ledger: Ledger) -> None:
    ledger.log_promotion(MODEL, "promote", "1", "2", "ann", "", "begun")
    with pytest.raises(UserError, match="promote of capitals from version 1 to 2 was interrupted"):
        ledger.log_promotion(MODEL, "rollback", "2", "1", "bob", "", "begun")
    with pytest.raises(ValueError, match="not begun"):
        ledger.log_promotion(MODEL, "rollback", "2", "1", "bob", "", "done")
    ledger.log_promotion(MODEL, "promote", "1", "2", "bob", "killed", "failed")
    ledger.log_promotion(MODEL, "rollback", "2", "1", "bob", "", "begun")
    with pytest.raises(ValueError, match="halfway"):
        ledger.log_promotion(MODEL, "rollback", "2", "1", "bob", "", "halfway")
