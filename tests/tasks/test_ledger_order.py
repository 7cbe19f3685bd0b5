"""The ledger under any order and repetition of reports, kills and several writers."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.ledger import IllegalTransition, Ledger
from tasks.records import Correction, ErrorReport, State
from tests.tasks.ledger_tools import MODEL, NOON, report
from tests.threads import at_once

_REPORTS = st.lists(
    st.builds(
        lambda prompt, desired, wrong, source, minutes: (prompt, desired, wrong, source, minutes),
        st.sampled_from(["p", "P ", "q", " "]),
        st.sampled_from(["x", "y", " x", "", "far too long an answer", None]),
        st.sampled_from(["x", "w", ""]),
        st.integers(0, 3),
        st.integers(0, 2),
    ),
    max_size=8,
)


def _state(reports: list[ErrorReport], cuts: list[int]) -> tuple[list[Correction], str]:
    with Ledger("sqlite://", target_limit=3) as ledger:
        start = 0
        for cut in [*sorted(cuts), len(reports)]:
            ledger.record(reports[start:cut])
            start = max(start, cut)
        return ledger.corrections(MODEL), ledger.digest(MODEL, [State.ACCEPTED])


@settings(max_examples=25, deadline=None)
@given(drawn=_REPORTS, data=st.data())
def test_any_order_and_repetition_of_the_same_reports_gives_the_same_ledger(
    drawn: list[tuple[str, str | None, str, int, int]], data: st.DataObject
) -> None:
    # A source says one thing about a correction; the number in the list keeps them apart.
    reports = [
        report(
            prompt,
            desired,
            f"{source}:{n}",
            wrong_output=wrong,
            reported_at=NOON + timedelta(minutes=minutes),
        )
        for n, (prompt, desired, wrong, source, minutes) in enumerate(drawn)
    ]
    again = data.draw(st.lists(st.sampled_from(reports), max_size=5)) if reports else []
    shuffled = data.draw(st.permutations(reports + again))
    cuts = data.draw(st.lists(st.integers(0, len(shuffled)), max_size=3))
    assert _state(shuffled, cuts) == _state(reports, [])


@settings(max_examples=25, deadline=None)
@given(drawn=_REPORTS, steps=st.lists(st.tuples(st.integers(0, 7), st.sampled_from(list(State))), max_size=8))
def test_two_accepted_or_active_corrections_never_contradict(
    drawn: list[tuple[str, str | None, str, int, int]], steps: list[tuple[int, State]]
) -> None:
    with Ledger("sqlite://") as ledger:
        for number, (prompt, desired, wrong, _, _) in enumerate(drawn):
            ledger.record([report(prompt, desired, str(number), wrong_output=wrong)])
            known = ledger.corrections(MODEL)
            for index, state in steps:
                try:
                    ledger.transition(known[index % len(known)].id, state)
                except IllegalTransition:
                    continue
                present = ledger.history(known[index % len(known)].id)[-1]
                assert present.to_state is state
        working = ledger.corrections(MODEL, State.ACCEPTED)
        prompts = [c.prompt.strip().lower() for c in working]
        assert len(set(prompts)) == len(prompts)
        active = {c.prompt.strip().lower() for c in ledger.corrections(MODEL, State.ACTIVE)}
        assert active.isdisjoint(prompts)


def test_a_batch_killed_half_way_and_repeated_ends_as_if_it_had_not_been(tmp_path: Path, url: str) -> None:
    program = textwrap.dedent(
        """
        import sys
        from datetime import UTC, datetime
        from tasks.ledger import Ledger
        from tasks.records import ErrorReport
        ledger = Ledger(sys.argv[1])
        noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
        print("ready", flush=True)
        for batch in range(400):
            ledger.record(
                ErrorReport(prompt=f"{n % 40}", desired_output=f"{n % 41}", source=str(n),
                            model_name="capitals", reported_at=noon, wrong_output="w")
                for n in range(batch * 5, batch * 5 + 5)
            )
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(random.Random(0).uniform(0.1, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
    reports = [report(f"{n % 40}", f"{n % 41}", str(n), wrong_output="w") for n in range(2000)]
    with Ledger(url) as ledger, Ledger(f"sqlite:///{tmp_path / 'undisturbed.db'}") as undisturbed:
        recorded = sum(c.reports for c in ledger.corrections(MODEL))
        assert 0 < recorded < 2000, "the child was killed too early or too late to tell"
        assert recorded % 5 == 0, "half a batch was kept"
        ledger.record(reports)
        undisturbed.record(reports)
        assert ledger.corrections(MODEL) == undisturbed.corrections(MODEL)


def test_two_writers_at_once_lose_nothing_and_miss_no_contradiction(url: str) -> None:
    Ledger(url).close()

    def write(answer: str) -> None:
        with Ledger(url) as own:
            for number in range(25):
                own.record([report(f"prompt {number}", answer, answer)])

    at_once(write, "xy")
    with Ledger(url) as ledger:
        assert ledger.counts(MODEL)[State.CONFLICTING] == 50
