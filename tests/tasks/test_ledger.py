"""The ledger: what reports become, who may move what, leases, the promotion log, unusable databases."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import ledger_schema
from tasks.ledger import IllegalTransition, LeaseHeld, LeaseLost, Ledger, Phase
from tasks.ledger_rules import LEGAL_TRANSITIONS
from tasks.records import Correction, ErrorReport, State, UserError, correction_id

MODEL = "capitals"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def report(prompt: str, desired: str | None, source: str = "s1", **fields: object) -> ErrorReport:
    given: dict[str, object] = {"model_name": MODEL, "reported_at": NOON, "wrong_output": "Wrong."} | fields
    return ErrorReport(prompt=prompt, desired_output=desired, source=source, **given)  # type: ignore[arg-type]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger(url) as opened:
        yield opened


def only(corrections: list[Correction]) -> Correction:
    (one,) = corrections
    return one


# What a report becomes


def test_a_report_with_an_answer_is_accepted_with_its_history(ledger: Ledger) -> None:
    correction = only(ledger.record([report("Capital of Chad?", "N'Djamena", reporter="ann")], run_id="r1"))
    assert (correction.state, correction.reports, correction.reporters) == (State.ACCEPTED, 1, ("ann",))
    assert correction.id == correction_id("Capital of Chad?", "N'Djamena", chat=True)
    steps = ledger.history(correction.id)
    assert [(step.from_state, step.to_state) for step in steps] == [
        (None, State.REPORTED),
        (State.REPORTED, State.ACCEPTED),
    ]
    assert {step.run_id for step in steps} == {"r1"}
    assert all(step.at.tzinfo is UTC and datetime.now(UTC) - step.at < timedelta(minutes=1) for step in steps)


def test_the_same_source_counts_once_and_another_raises_the_count(ledger: Ledger) -> None:
    first = report("Capital of Chad?", "N'Djamena", "trace:1", reporter="ann")
    spelled_otherwise = report("  capital of CHAD? ", "N'Djamena", "trace:2", reporter="bob")
    ledger.record([first, first])
    assert only(ledger.record([first])).reports == 1
    merged = only(ledger.record([spelled_otherwise, first]))
    assert (merged.reports, merged.sources, merged.reporters) == (2, ("trace:1", "trace:2"), ("ann", "bob"))
    assert len(ledger.history(merged.id)) == 2


def test_what_reports_of_one_correction_say_is_joined_oldest_first(ledger: Ledger) -> None:
    later = report(
        "p?", "x", "b", equivalents=("q2", "q1"), subject="S", reported_at=NOON + timedelta(days=1)
    )
    earlier = report("P?", "x", "a", equivalents=("q1",), severity="high", wrong_output="")
    merged = only(ledger.record([later, earlier]))
    assert (merged.prompt, merged.first_reported_at) == ("P?", NOON)
    assert (merged.equivalents, merged.subject, merged.severity) == (("q1", "q2"), "S", "high")
    assert merged.wrong_output == "Wrong."


@pytest.mark.parametrize(
    ("prompt", "desired", "wrong", "state", "says"),
    [
        (" \n", "x", "w", State.QUARANTINED, "prompt is empty"),
        ("p", "  ", "w", State.QUARANTINED, "desired output is empty"),
        ("p", "a b c d", "w", State.QUARANTINED, "4 words, more than the limit of 3"),
        ("p", "a b c", "w", State.ACCEPTED, ""),
        ("p", "a  b", " a b", State.QUARANTINED, "equals the wrong output"),
        ("p", None, "w", State.NEEDS_ANSWER, "no desired output"),
        ("", None, "w", State.QUARANTINED, "prompt is empty"),
    ],
)
def test_a_report_that_cannot_be_acted_on_is_kept_with_its_reason(
    url: str, prompt: str, desired: str | None, wrong: str, state: State, says: str
) -> None:
    with Ledger(url, target_limit=3) as ledger:
        good = report("another", "y", "s2")
        bad, other = ledger.record([report(prompt, desired, wrong_output=wrong), good])
        assert bad.state is state
        assert says in bad.reason
        assert other.state is State.ACCEPTED


def test_a_report_with_another_wrong_output_lifts_the_quarantine_of_one_without(ledger: Ledger) -> None:
    slip = only(ledger.record([report("p", "x", "s1", wrong_output="x")]))
    assert slip.state is State.QUARANTINED
    assert only(ledger.record([report("p", "x", "s2", wrong_output="y")])).state is State.ACCEPTED
    assert only(ledger.record([report("p", "x", "s3", wrong_output="x")])).wrong_output == "y"


def test_contradicting_reports_are_all_held_each_naming_the_others(ledger: Ledger) -> None:
    ids = [
        c.id for c in ledger.record([report("p", "x", "a"), report("P ", "y", "b"), report("p", None, "c")])
    ]
    ids.insert(2, only(ledger.record([report("p", "z", "d")])).id)
    for own in ids[:3]:
        held = ledger.get(own)
        assert held.state is State.CONFLICTING
        assert own not in held.reason
        assert all(rival in held.reason for rival in ids[:3] if rival != own)
    assert ledger.get(ids[3]).state is State.NEEDS_ANSWER


def test_the_same_prompt_as_chat_as_text_or_of_another_model_contradicts_nothing(ledger: Ledger) -> None:
    others = [report("p", "y", chat=False), report("p", "z", model_name="other"), report("p", "x")]
    assert [c.state for c in ledger.record(others)] == [State.ACCEPTED] * 3


def test_an_active_correction_is_held_when_contradicted(ledger: Ledger) -> None:
    active = only(ledger.record([report("p", "x")]))
    ledger.transition([active.id], State.ACTIVE)
    rival = only(ledger.record([report("p", "y")]))
    assert rival.state is ledger.get(active.id).state is State.CONFLICTING


def test_a_report_of_an_active_correction_is_counted_and_leaves_it_active(ledger: Ledger) -> None:
    id_ = only(ledger.record([report("p", "x", "s1")])).id
    ledger.transition(id_, State.ACTIVE, "in version 1")
    again = only(ledger.record([report("p", "x", "s2")]))
    assert (again.state, again.reason, again.reports) == (State.ACTIVE, "in version 1", 2)


@pytest.mark.parametrize("state", [State.RETIRED, State.FAILED, State.ALREADY_CORRECT])
def test_a_new_report_of_a_settled_correction_brings_it_back(ledger: Ledger, state: State) -> None:
    first = report("p", "x", "s1")
    id_ = only(ledger.record([first])).id
    ledger.transition(id_, State.ACTIVE)
    ledger.transition(id_, state, "because")
    assert only(ledger.record([first])).state is state, "the old report again says nothing new"
    back = only(ledger.record([report("p", "x", "s2")]))
    assert back.state is State.ACCEPTED
    assert state in back.reason
    assert "because" in back.reason


def test_text_that_databases_refuse_is_stored_all_the_same(ledger: Ledger) -> None:
    odd = report("nul \x00 and \ud800 prompt", "x\x00", "s\x00", equivalents=("\udfff",), reporter="\ud800")
    first = only(ledger.record([odd]))
    assert first.prompt == "nul \ufffd and \ufffd prompt"
    assert only(ledger.record([odd])) == first


def test_naive_and_foreign_times_come_back_in_utc(ledger: Ledger) -> None:
    naive = report("p", "x", "s1", reported_at=datetime(2026, 5, 1, 12))
    india = timezone(timedelta(hours=5, minutes=30))
    foreign = report("q", "x", "s2", reported_at=datetime(2026, 5, 1, 17, 30, tzinfo=india))
    for correction in ledger.record([naive, foreign]):
        assert correction.first_reported_at == NOON
        assert correction.first_reported_at.utcoffset() == timedelta(0)


# Any order, any repetition

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
    errors: list[BaseException] = []

    def write(answer: str) -> None:
        try:
            with Ledger(url) as own:
                for number in range(25):
                    own.record([report(f"prompt {number}", answer, answer)])
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(answer,)) for answer in ("x", "y")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    with Ledger(url) as ledger:
        assert ledger.counts(MODEL)[State.CONFLICTING] == 50


# Reading and moving


def test_corrections_come_by_first_report_then_id_and_by_state(ledger: Ledger) -> None:
    newest = report("c", "x", "s", reported_at=NOON + timedelta(days=1))
    ids = [c.id for c in ledger.record([newest, report("a", "x"), report("b", "x")])]
    assert [c.id for c in ledger.corrections(MODEL)] == [*sorted(ids[1:]), ids[0]]
    ledger.transition(ids[:2], State.ACTIVE, "v1", "run")
    assert {c.id for c in ledger.corrections(MODEL, State.ACTIVE)} == set(ids[:2])
    assert len(ledger.corrections(MODEL, State.ACTIVE, State.ACCEPTED)) == 3
    assert ledger.corrections("another model") == []
    assert ledger.counts(MODEL) == {state: {"active": 2, "accepted": 1}.get(state, 0) for state in State}


def test_the_digest_follows_what_an_edit_takes_and_nothing_else(ledger: Ledger) -> None:
    ledger.record([report("a", "x", "s1"), report("b", "y", "s1")])
    digest = ledger.digest(MODEL, [State.ACCEPTED])
    ledger.record([report("a", "x", "s2", reporter="bob")])
    assert ledger.digest(MODEL, [State.ACCEPTED]) == digest
    ledger.record([report("a", "x", "s3", equivalents=("A, please",))])
    assert ledger.digest(MODEL, [State.ACCEPTED]) != digest


def test_a_transition_is_legal_or_refused_and_a_repeat_adds_no_row(ledger: Ledger) -> None:
    first, second = (c.id for c in ledger.record([report("a", "x"), report("b", None)]))
    with pytest.raises(IllegalTransition, match=rf"{second} is needs_answer and cannot become active"):
        ledger.transition([first, second], State.ACTIVE)
    assert ledger.get(first).state is State.ACCEPTED, "all move or none"
    ledger.transition(first, State.ACTIVE, "v1", "run 7")
    ledger.transition(first, State.ACTIVE, "v1", "run 8")
    last = ledger.history(first)[-1]
    assert (last.to_state, last.reason, last.run_id) == (State.ACTIVE, "v1", "run 7")
    assert len(ledger.history(first)) == 3


def test_every_state_has_its_rule() -> None:
    assert set(LEGAL_TRANSITIONS) == {None, *State}


def test_an_unknown_or_ambiguous_id_is_the_users_to_mend(ledger: Ledger) -> None:
    id_ = ledger.record([report("p", "x"), report("p", "x", model_name="other")])[0].id
    with pytest.raises(UserError, match="capitals, other; name the model"):
        ledger.get(id_)
    assert ledger.get(id_, model_name="other").model_name == "other"
    ledger.transition(id_, State.ACTIVE, model_name="other")
    assert ledger.get(id_, model_name=MODEL).state is State.ACCEPTED
    with pytest.raises(UserError, match="no correction nonesuch"):
        ledger.transition(["nonesuch"], State.ACTIVE)


def test_an_accepted_correction_cannot_be_slipped_in_beside_its_rival(ledger: Ledger) -> None:
    old = only(ledger.record([report("p", "x")])).id
    ledger.transition(old, State.FAILED, "breaks the gates")
    new = only(ledger.record([report("p", "y")]))
    assert new.state is State.ACCEPTED
    with pytest.raises(IllegalTransition, match=f"beside {new.id}"):
        ledger.transition(old, State.ACCEPTED)


def test_a_correction_live_again_after_a_rollback_holds_its_accepted_rival(ledger: Ledger) -> None:
    old = only(ledger.record([report("p", "x")])).id
    ledger.transition(old, State.ACTIVE)
    ledger.transition(old, State.RETIRED)
    new = only(ledger.record([report("p", "y")])).id
    ledger.transition(old, State.ACTIVE, "rolled back")
    assert ledger.get(old).state is State.ACTIVE
    assert ledger.get(new).state is State.CONFLICTING
    assert old in ledger.get(new).reason


# A person decides


def test_resolving_accepts_one_and_quarantines_its_rivals_for_good(ledger: Ledger) -> None:
    x, y, z = (
        c.id for c in ledger.record([report("p", "x", "a"), report("p", "y", "b"), report("p", "z", "c")])
    )
    assert ledger.resolve(y, "carol").state is State.ACCEPTED
    for loser in (x, z):
        assert ledger.get(loser).state is State.QUARANTINED
        assert "carol" in ledger.get(loser).reason
        assert y in ledger.get(loser).reason
    assert "carol" in ledger.history(y)[-1].reason
    rows = len(ledger.history(y))
    assert ledger.resolve(y, "carol").state is State.ACCEPTED
    assert len(ledger.history(y)) == rows
    assert only(ledger.record([report("p", "x", "d")])).state is State.QUARANTINED, "the decision stands"
    assert ledger.get(y).state is State.ACCEPTED


def test_a_reviewer_may_change_their_mind(ledger: Ledger) -> None:
    x, y = (c.id for c in ledger.record([report("p", "x", "a"), report("p", "y", "b")]))
    ledger.resolve(y, "carol")
    ledger.transition(y, State.ACTIVE)
    assert ledger.resolve(x, "dave").state is State.ACCEPTED
    assert ledger.get(y).state is State.QUARANTINED


def test_an_answer_makes_the_correction_that_later_bare_reports_count_for(ledger: Ledger) -> None:
    waiting = only(ledger.record([report("p", None, "s1", reporter="ann")]))
    answered = ledger.answer(waiting.id, "x", "carol")
    assert (answered.state, answered.desired_output, answered.reporters) == (State.ACCEPTED, "x", ("ann",))
    closed = ledger.get(waiting.id)
    assert closed.state is State.DUPLICATE
    assert "carol" in closed.reason
    assert answered.id in closed.reason
    assert ledger.answer(waiting.id, " x ", "carol") == answered, "a repeat changes nothing"
    later = only(ledger.record([report("p", None, "s2"), report("p", None, "s1")]))
    assert (later.id, later.reports) == (answered.id, 2)
    with pytest.raises(UserError, match="already answered"):
        ledger.answer(waiting.id, "z", "dave")


def test_an_answer_that_contradicts_a_report_is_held_with_it(ledger: Ledger) -> None:
    waiting, other = ledger.record([report("p", None, "a"), report("p", "y", "b")])
    assert ledger.answer(waiting.id, "x", "carol").state is State.CONFLICTING
    assert ledger.get(other.id).state is State.CONFLICTING


@pytest.mark.parametrize(("answer", "says"), [(" ", "empty"), ("Wrong.", "equals the wrong output")])
def test_a_useless_answer_is_refused_and_the_report_waits_on(ledger: Ledger, answer: str, says: str) -> None:
    waiting = only(ledger.record([report("p", None)]))
    with pytest.raises(UserError, match=says):
        ledger.answer(waiting.id, answer, "carol")
    assert ledger.get(waiting.id).state is State.NEEDS_ANSWER


def test_only_a_waiting_report_is_answered(ledger: Ledger) -> None:
    accepted = only(ledger.record([report("p", "x")]))
    with pytest.raises(UserError, match=f"{accepted.id} is accepted"):
        ledger.answer(accepted.id, "y", "carol")


# Leases


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


def test_a_lease_is_given_back_when_the_work_fails(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError, match="boom"), ledger.lease(MODEL, "a"):
        raise RuntimeError("boom")
    with ledger.lease(MODEL, "b"):
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
    start, done = threading.Barrier(4), threading.Barrier(4)
    got: list[str] = []

    def want(name: str) -> None:
        with Ledger(url) as own:
            start.wait()
            try:
                with own.lease(MODEL, name):
                    got.append(name)
                    done.wait()
            except LeaseHeld:
                done.wait()

    threads = [threading.Thread(target=want, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 1


# The promotion log


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


# The database


def test_sqlite_is_set_up_for_several_processes(ledger: Ledger, url: str, tmp_path: Path) -> None:
    with ledger._database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar() or 0) >= 5000


def test_the_migrations_make_the_tables_that_the_code_expects(ledger: Ledger, url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        options = {
            "version_table": ledger_schema.VERSION_TABLE,
            "compare_type": True,
        }
        assert (
            compare_metadata(MigrationContext.configure(connection, opts=options), ledger_schema.metadata)
            == []
        )


def test_the_ledger_may_share_its_database(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('of-another-program')")
    with Ledger(url) as ledger:
        ledger.record([report("p", "x")])
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT * FROM alembic_version").scalar() == "of-another-program"
    assert all(name.startswith(ledger_schema.PREFIX) for name in ledger_schema.metadata.tables)


def test_the_schema_suits_postgresql() -> None:
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateTable

    ddl = {
        name: str(CreateTable(t).compile(dialect=postgresql.dialect()))
        for name, t in ledger_schema.metadata.tables.items()
    }
    assert "TIMESTAMP WITH TIME ZONE" in ddl["mendflow_transitions"]
    assert "sequence SERIAL" in ddl["mendflow_reports"]


def test_many_processes_may_open_a_new_ledger_at_once(url: str) -> None:
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def open_and_write(name: str) -> None:
        start.wait()
        try:
            with Ledger(url) as own:
                own.record([report(name, "x", name)])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_and_write, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    with Ledger(url) as ledger:
        assert ledger.counts(MODEL)[State.ACCEPTED] == 4


def _in_a_file(folder: Path) -> str:
    (folder / "file").write_text("not a folder")
    return f"sqlite:///{folder / 'file' / 'ledger.db'}"


def _not_a_database(folder: Path) -> str:
    (folder / "notes.txt").write_text("notes, and more than a page of them. " * 200)
    return f"sqlite:///{folder / 'notes.txt'}"


@pytest.mark.parametrize(
    "make_url",
    [
        _in_a_file,
        _not_a_database,
        lambda folder: f"sqlite:///{folder}",
        lambda folder: "nonsense",
        lambda folder: "nonesuch://me:s3cr3t@host/ledger",
        lambda folder: "postgresql+nonesuch://me:s3cr3t/@host/ledger?password=s3cr3t",
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(
    tmp_path: Path, make_url: Callable[[Path], str]
) -> None:
    url = make_url(tmp_path)
    with pytest.raises(UserError, match="correct its URL") as caught:
        Ledger(url)
    assert "s3cr3t" not in str(caught.value)
    assert url.partition(":")[0] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_ledger_of_a_newer_release_is_not_touched(url: str) -> None:
    Ledger(url).close()
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {ledger_schema.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(UserError, match=r"newer mendflow.*upgrade"):
        Ledger(url)
