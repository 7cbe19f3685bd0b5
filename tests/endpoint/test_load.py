"""Many clients at once: all that they report is in the ledger, once."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import httpx
import pytest

from flows.endpoint.guard import KEY_HEADER
from tasks.ledger import Ledger
from tasks.reporters import add_reporter
from tests.endpoint.conftest import MODEL, listening

CLIENTS = 50
REPORTS = 5000


@pytest.mark.slow
def test_five_thousand_reports_of_fifty_clients_a_third_of_them_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    different = [f"r{number}" for number in range(REPORTS - REPORTS // 3)]
    chosen = random.Random(0)
    sent = different + chosen.choices(different, k=REPORTS // 3)
    chosen.shuffle(sent)
    seconds: list[float] = []
    statuses: list[int] = []
    failed: list[BaseException] = []

    key = add_reporter(tmp_path / "reporters.json", "ann")
    with listening(tmp_path, "--rate", str(100 * REPORTS)) as (url, _):

        def send(mine: list[str]) -> None:
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                for one in mine:
                    body = {
                        "model": MODEL,
                        "prompt": f"What is {one}?",
                        "output": "?",
                        "target": f"It is {one}.",
                    }
                    headers = {"Authorization": f"Bearer {key}", KEY_HEADER: one}
                    began = time.perf_counter()
                    try:
                        statuses.append(client.post("/reports", json=body, headers=headers).status_code)
                    except httpx.HTTPError as error:
                        failed.append(error)
                    seconds.append(time.perf_counter() - began)

        threads = [threading.Thread(target=send, args=(sent[n::CLIENTS],)) for n in range(CLIENTS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - began
        with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
            kept = ledger.corrections(MODEL)

    seconds.sort()
    with capsys.disabled():
        print(
            f"\n{REPORTS} reports of {CLIENTS} clients in {took:.1f} s, {REPORTS / took:.0f} a second; "
            f"median {seconds[REPORTS // 2]:.3f} s, 99th percentile {seconds[REPORTS * 99 // 100]:.3f} s"
        )
    assert not failed
    assert (statuses.count(201), statuses.count(200)) == (len(different), REPORTS // 3)
    assert sorted(one.prompt for one in kept) == sorted(f"What is {one}?" for one in different)
    assert {one.reports for one in kept} == {1}
