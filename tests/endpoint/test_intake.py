"""Reports that wait together are written together, and one that is at fault alone is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from flows.endpoint.intake import Intake
from tasks.ledger import Ledger, SourceTaken
from tasks.records import Correction, UserError
from tests.tasks.ledger_tools import MODEL, report


class Held:
    """Stops the intake after its first report, until what comes meanwhile is waiting."""

    def __init__(self) -> None:
        self.reached, self.released, self.told = threading.Event(), threading.Event(), list[list[str]]()

    def tell(self, kept: list[Correction]) -> None:
        self.told.append([one.prompt for one in kept])
        self.reached.set()
        self.released.wait(10)


def test_what_waits_is_one_batch_and_only_who_is_at_fault_is_refused(tmp_path: Path):
    held = Held()
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        intake = Intake(ledger, held.tell)
        first = intake.take(report("first?", "x", "http:ann:1"))
        assert held.reached.wait(10)
        good = [intake.take(report(f"{n}?", "x", f"http:bob:{n}")) for n in range(3)]
        again = intake.take(report("first?", "x", "http:ann:1"))
        given_up = intake.take(report("given up?", "x", "http:ann:2"))
        assert given_up.cancel()
        wrong = intake.take(report("other?", "x", "http:ann:1"))
        held.released.set()
        intake.close()
        assert [one.result(10)[1] for one in (first, *good, again)] == [True, True, True, True, False]
        assert again.result()[0] == first.result()[0]
        with pytest.raises(SourceTaken):
            wrong.result(10)
        assert {one.prompt for one in ledger.corrections(MODEL)} == {"first?", "0?", "1?", "2?"}
    assert [prompt for batch in held.told for prompt in batch] == ["first?", "0?", "1?", "2?"]


def test_without_fault_a_batch_is_told_at_once(tmp_path: Path):
    held = Held()
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        intake = Intake(ledger, held.tell)
        intake.take(report("first?", "x", "http:ann:1"))
        assert held.reached.wait(10)
        for n in range(100):
            intake.take(report(f"{n}?", "x", f"http:bob:{n}"))
        held.released.set()
        intake.close()
    assert [len(batch) for batch in held.told] == [1, 64, 36]


def test_a_ledger_that_fails_fails_all_that_wait_and_the_next_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        take, failures = ledger.take, [UserError("the disk is full"), KeyError("odd")]

        def fail_at_first(*arguments, **named):
            if failures:
                raise failures.pop(0)
            return take(*arguments, **named)

        monkeypatch.setattr(ledger, "take", fail_at_first)
        intake = Intake(ledger, lambda kept: None)
        for n, kind in enumerate((UserError, KeyError)):
            with pytest.raises(kind):
                intake.take(report(f"{n}?", "x", "http:ann:1")).result(10)
        assert intake.take(report("2?", "x", "http:ann:1")).result(10)[1]
        intake.close()
