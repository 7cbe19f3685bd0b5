"""Reports of outputs that must never appear again, in the ledger."""

from __future__ import annotations

import pytest

from tasks.collect import report_error
from tasks.ledger import Ledger
from tasks.records import State
from tasks.refusals import REFUSAL
from tests.tasks.ledger_tools import MODEL, only, report

NO = "I can't say."


def test_every_output_that_was_reported_is_kept(ledger: Ledger) -> None:
    first = report("p", NO, "s1", wrong_output="555-0134", suppress=True)
    one = only(ledger.record([first, report("p", NO, "s2", wrong_output="Some other mistake.")]))
    assert (one.state, one.suppressed) == (State.ACCEPTED, ("555-0134",))
    before = ledger.digest(MODEL, [State.ACCEPTED])
    two = only(ledger.record([report("p", NO, "s3", wrong_output="555-0199", suppress=True)]))
    assert (two.id, set(two.suppressed)) == (one.id, {"555-0134", "555-0199"})
    assert ledger.digest(MODEL, [State.ACCEPTED]) != before


@pytest.mark.parametrize("wrong", [" ", "say."])
def test_one_that_cannot_be_acted_on_is_set_aside_and_spoils_no_other(ledger: Ledger, wrong: str) -> None:
    one = only(ledger.record([report("p", NO, wrong_output=wrong, suppress=True)]))
    assert one.state is State.QUARANTINED
    assert "is missing, or the desired output holds it" in one.reason
    mended = only(ledger.record([report("p", NO, "s2", wrong_output="555-0134", suppress=True)]))
    assert (mended.id, mended.state, mended.suppressed) == (one.id, State.ACCEPTED, ("555-0134",))


def test_from_python_it_wants_a_refusal(url: str) -> None:
    about = {"ledger_url": url, "reporter": "ann", "suppress": True}
    one = report_error("p", "555-0134", None, MODEL, **about)
    assert (one.state, one.desired_output, one.suppressed) == (State.ACCEPTED, REFUSAL, ("555-0134",))
    assert report_error("q", "555-0134", "Never.", MODEL, **about).desired_output == "Never."
