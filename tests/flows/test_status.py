"""What `mendflow status` tells, and what it takes to promote what the gates refused."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.promote import promote
from tasks.ledger import Ledger
from tasks.records import UserError
from tasks.registry import describe
from tasks.verdicts import COMPARED_TAG, REASON_TAG, VERDICT_TAG
from tests.flows.serving_tools import Known
from validation.verdict import Verdict

REFUSED = "Refused: locality_agreement 0.65 is below 0.9."


@pytest.fixture
def refused(known: Known) -> Known:
    """The gates refused version 3 beside the champion, version 2."""
    known.tag("3", **{VERDICT_TAG: Verdict.REJECT.value, REASON_TAG: REFUSED, COMPARED_TAG: "2"})
    return known


def status(known: Known) -> str:
    asked = ["status", known.name, "--home", str(known.settings.home)]
    done = CliRunner().invoke(app, [*asked, "--tracking", known.settings.tracking], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_verdict_and_work_under_way_are_told(refused: Known):
    with Ledger(refused.settings.ledger) as ledger, ledger.lease(f"{refused.name}/correct", "correct"):
        told = status(refused)
    assert f"verdict on version 3: {REFUSED}" in told
    assert "UTC: correct" in told
    refused.champion("3")
    after = status(refused)
    assert "at work" not in after
    assert REFUSED not in after


def test_a_refused_version_is_promoted_for_a_reason_only(refused: Known):
    with pytest.raises(
        UserError, match=r"verdict on version 3 .* is REJECT .*give the reason with"
    ) as raised:
        promote(refused.settings, "3", "ann", " ")
    assert REFUSED in str(raised.value)
    assert describe(refused.name, tracking_uri=refused.settings.tracking).champion == "2"
    assert promote(refused.settings, "3", "ann", "the prompts it moved are gone") == "3"
    with Ledger(refused.settings.ledger) as ledger:
        (row,) = ledger.promotion_log(refused.name)[-1:]
    assert (row.who, row.why) == ("ann", "the prompts it moved are gone")


def test_a_version_that_no_gate_refused_needs_no_reason(known: Known):
    assert promote(known.settings, "3", "ann", "") == "3"
    with Ledger(known.settings.ledger) as ledger:
        assert ledger.promotion_log(known.name)[-1].why == "promoted by hand"
