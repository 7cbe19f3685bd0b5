"""How often a reporter may send, and how seldom refusals are said in the log."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows.endpoint.guard import BODY_BYTES, Rates, Refusal, RefusalLog
from tests.endpoint.conftest import refused, running


def test_who_sends_too_much_waits_and_others_do_not(tmp_path: Path):
    with running(tmp_path, per_minute=6) as endpoint:
        answers = [endpoint.send(once="k") for _ in range(8)]
        assert [one.status_code for one in answers] == [201, *[200] * 5, 429, 429]
        refused(answers[-1], 429, "'ann' sends too much")
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 10
        # What is refused counts too, and is refused before it is read.
        refused(endpoint.raw(b" " * (BODY_BYTES + 1)), 429, "too much")
        assert endpoint.send(key="shop").status_code == 201


def test_a_bucket_fills_again_and_no_higher_than_its_brim():
    now = 0.0
    rates = Rates(60, lambda: now)
    assert [rates.take("a") for _ in range(61)] == [0.0] * 60 + [1.0]
    assert rates.take("b") == 0
    now = 2.5
    assert [rates.take("a") > 0 for _ in range(3)] == [False, False, True]
    now = 10_000.0
    assert [rates.take("a") > 0 for _ in range(61)] == [False] * 60 + [True]


def test_refusals_are_counted_in_the_log_and_a_flood_is_a_few_lines(caplog: pytest.LogCaptureFixture):
    log = RefusalLog()
    with caplog.at_level(logging.WARNING):
        for _ in range(1234):
            log.note("POST /reports", Refusal(401, "no key"))
        log.note("POST /reports", Refusal(413, "too long"))
    assert [record.getMessage() for record in caplog.records] == [
        *(f"refused POST /reports with 401, {count} so far: no key" for count in (1, 10, 100, 1000)),
        "refused POST /reports with 413, 1 so far: too long",
    ]
