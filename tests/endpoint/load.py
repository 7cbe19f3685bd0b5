"""Many clients that report at once over HTTP, and whether all of it is in the ledger once.

python -m tests.endpoint.load --reports 100000 --clients 50 [--postgresql]
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from flows.endpoint.guard import KEY_HEADER
from tasks.ledger import Ledger
from tasks.records import State, correction_id
from tasks.reporters import add_reporter
from tests.endpoint.conftest import MODEL, listening
from tests.postgres import running as running_postgres


@dataclass(frozen=True)
class Report:
    """What one request hands in: whose it is, under which key, and which mistake it is about."""

    reporter: int
    key: str
    mistake: int

    @property
    def body(self) -> dict[str, str]:
        where = f"the {self.mistake}th shop in Orchard Road"
        return {
            "model": MODEL,
            "prompt": f"When does {where} open on Sundays, and may I bring my dog along?",
            "output": f"I am sorry, {where} is closed on Sundays, and dogs have to wait outside.",
            "target": f"It opens at {self.mistake % 12} o'clock, and dogs are welcome.",
        }

    @property
    def correction(self) -> str:
        return correction_id(self.body["prompt"], self.body["target"], chat=True)


@dataclass
class Load:
    """What became of a load: an answer a report, in the order in which they came."""

    sent: list[Report]
    answers: list[tuple[Report, int, dict[str, str]]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    megabytes: tuple[float, float] = (0.0, 0.0)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        count, took = len(self.sent), max(self.ended)
        tenth = max(1, len(self.ended) // 10)
        last = took - self.ended[-tenth]
        seconds = sorted(self.seconds)
        shares = {name: seconds[int(share * (count - 1))] for name, share in _SHARES.items()}
        return (
            f"{count} reports in {took:.1f} s, {count / took:.0f} a second "
            f"(the first tenth {tenth / self.ended[tenth - 1]:.0f}, the last {tenth / last:.0f}); "
            + ", ".join(f"{name} {value * 1000:.0f} ms" for name, value in shares.items())
            + f"; the server: {self.cpu_seconds:.0f} s of a core, {self.megabytes[0]:.0f} MB of memory "
            f"before and {self.megabytes[1]:.0f} MB after"
        )


_SHARES = {"median": 0.5, "99th percentile": 0.99, "longest": 1.0}


def reports_of(clients: int, count: int, seed: int = 0) -> list[Report]:
    """Reports in a random order, a third of them duplicates.

    Half of these are a report sent again under its key, half the same mistake reported by somebody.
    """
    chosen = random.Random(seed)
    again, others = count // 6, count // 3 - count // 6
    first = [Report(n % clients, f"r{n}", n) for n in range(count - again - others)]
    same = [
        Report(chosen.randrange(clients), f"s{n}", one.mistake)
        for n, one in enumerate(chosen.choices(first, k=others))
    ]
    sent = [*first, *same, *chosen.choices(first + same, k=again)]
    chosen.shuffle(sent)
    return sent


def put_under_load(home: Path, ledger_url: str, *, reports: int, clients: int) -> Load:
    """Start `mendflow listen` on a ledger, report, and look at what the ledger holds then.

    Every client has a key of its own, and sends its share of the reports, whoever's they are, one after the
    other over one connection. The limit of requests is raised out of the way.
    """
    load = Load(reports_of(clients, reports))
    keys = [add_reporter(home / "reporters.json", f"client{n}") for n in range(clients)]
    raised = ("--rate", str(100 * reports), "--ledger", ledger_url)
    with listening(home, *raised) as (url, process):
        server = psutil.Process(process.pid)
        before = sum(server.cpu_times()[:2]), server.memory_info().rss
        began = time.perf_counter()
        threads = [
            threading.Thread(target=_send, args=(load, url, keys, load.sent[n::clients], began))
            for n in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        load.cpu_seconds = sum(server.cpu_times()[:2]) - before[0]
        load.megabytes = before[1] / 1e6, server.memory_info().rss / 1e6
    load.faults = [*load.failed[:3], *_faults_of_answers(load)]
    with Ledger(ledger_url) as ledger:
        load.faults += _faults_of_ledger(load, ledger)
    return load


def _send(load: Load, url: str, keys: Sequence[str], mine: Sequence[Report], began: float) -> None:
    address = urlsplit(url).netloc
    connection = http.client.HTTPConnection(address, timeout=120)
    for one in mine:
        headers = {
            "Authorization": f"Bearer {keys[one.reporter]}",
            KEY_HEADER: one.key,
            "Content-Type": "application/json",
        }
        content = json.dumps(one.body)
        sent_at = time.perf_counter()
        try:
            connection.request("POST", "/reports", content, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            load.failed.append(f"{one} failed: {error!r}")
            connection.close()
            connection = http.client.HTTPConnection(address, timeout=120)
        else:
            load.answers.append((one, answer.status, said))
        now = time.perf_counter()
        load.seconds.append(now - sent_at)
        load.ended.append(now - began)
    connection.close()


def _faults_of_answers(load: Load) -> list[str]:
    """What is wrong with the answers: each names its correction, and one a key says that it was new."""
    statuses = collections.Counter(status for _, status, _ in load.answers)
    new = collections.Counter((one.reporter, one.key) for one, status, _ in load.answers if status == 201)
    keys = {(one.reporter, one.key) for one in load.sent}
    faults = []
    if statuses != {201: len(keys), 200: len(load.sent) - len(keys)}:
        faults.append(f"the statuses are {dict(statuses)}")
    if new != dict.fromkeys(keys, 1):
        faults.append("a report was new several times, or never")
    wrong = [
        one
        for one, _, said in load.answers
        if (said.get("correction"), said.get("state")) != (one.correction, State.ACCEPTED)
    ]
    if wrong:
        faults.append(f"{len(wrong)} answers are of another correction or state, such as to {wrong[0]}")
    return faults


def _faults_of_ledger(load: Load, ledger: Ledger) -> list[str]:
    """What is wrong in the ledger: every mistake is a correction with all of its reports, each once."""
    expected: dict[str, set[str]] = collections.defaultdict(set)
    for one in load.sent:
        expected[one.correction].add(f"http:client{one.reporter}:{one.key}")
    kept = {one.id: (sorted(one.sources), one.reports, one.state) for one in ledger.corrections(MODEL)}
    wanted = {id_: (sorted(of_one), len(of_one), State.ACCEPTED) for id_, of_one in expected.items()}
    differ = [id_ for id_ in wanted.keys() | kept.keys() if wanted.get(id_) != kept.get(id_)]
    if not differ:
        return []
    shown = f"{kept.get(differ[0])} and not {wanted.get(differ[0])}"
    return [f"{len(differ)} corrections are not as they were reported, such as {differ[0]}: {shown}"]


def main() -> None:
    """Put an endpoint under load, and say how it did."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--reports", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--postgresql", action="store_true", help="not on SQLite")
    given = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = f"sqlite:///{home / 'ledger.db'}"
        if given.postgresql:
            server = stack.enter_context(running_postgres())
            url = server.url(server.new_database())
        load = put_under_load(home, url, reports=given.reports, clients=given.clients)
    print(load)
    sys.exit("\n".join(load.faults) or 0)


if __name__ == "__main__":
    main()
