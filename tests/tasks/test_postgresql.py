"""The ledger on PostgreSQL: the same as on SQLite, whatever is done to it, and when connections are dropped.

All other tests of the ledger run on PostgreSQL too, as slow tests.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tasks.ledger import Ledger
from tasks.records import Correction, State, UserError
from tests.postgres import Postgres
from tests.tasks.ledger_tools import MODEL, NOON, report
from tests.threads import at_once

_numbers = itertools.count()


@pytest.fixture
def database(postgresql: Postgres) -> str:
    return postgresql.new_database()


@pytest.fixture
def ledger(postgresql: Postgres, database: str) -> Iterator[Ledger]:
    with Ledger(postgresql.url(database), target_limit=3) as opened:
        yield opened


_TEXTS = st.sampled_from(["p", "P ", "é", "z", "Z", "\x00 q", "far too long an answer", " ", ""])
_REPORTS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": _TEXTS,
            "desired": st.none() | _TEXTS,
            "wrong_output": _TEXTS,
            "source": st.sampled_from(["a", "B", "c:1", "é", "_d"]),
            "equivalents": st.lists(_TEXTS, max_size=2).map(tuple),
            "reported_at": st.integers(0, 2).map(lambda minutes: NOON + timedelta(minutes=minutes)),
        }
    ),
    max_size=6,
)
_STEP = st.one_of(
    st.tuples(st.just("take"), _REPORTS, st.booleans()),
    st.tuples(st.just("transition"), st.integers(0, 7), st.tuples(st.sampled_from(list(State)))),
    st.tuples(st.just("answer"), st.integers(0, 7), st.tuples(_TEXTS, st.just("carol"))),
    st.tuples(st.just("resolve"), st.integers(0, 7), st.just(("carol",))),
)


@settings(
    max_examples=25,
    deadline=None,
    # Shrinking takes minutes on a server.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(_STEP, max_size=12))
def test_whatever_is_done_to_it_is_done_as_on_sqlite(ledger: Ledger, steps: list[Any]) -> None:
    name = f"model {next(_numbers)}"
    with Ledger("sqlite://", target_limit=3) as other:
        for step in steps:
            assert _done(ledger, name, step) == _done(other, name, step)
        assert _timeless(ledger.corrections(name)) == _timeless(other.corrections(name))
        assert ledger.counts(name) == other.counts(name)
        assert ledger.digest(name, State) == other.digest(name, State)
        for one in other.corrections(name):
            ours, theirs = ledger.history(one.id, model_name=name), other.history(one.id, model_name=name)
            assert [(s.from_state, s.to_state, s.reason) for s in ours] == [
                (s.from_state, s.to_state, s.reason) for s in theirs
            ]


def _done(ledger: Ledger, name: str, step: Any) -> object:
    """Do a step; what comes of it, or how it is refused."""
    action, subject, how = step
    known = ledger.corrections(name)
    try:
        if action == "take":
            reports = [report(model_name=name, **fields) for fields in subject]
            taken = ledger.take(reports, once=how).each
            return _timeless(one for one, _ in taken), [is_new for _, is_new in taken]
        if not known:
            return None
        method: Callable[..., Correction | None] = getattr(ledger, action)
        made = method(known[subject % len(known)].id, *how, model_name=name)
        return made and _timeless([made])
    except UserError as error:
        return str(error)


def _timeless(corrections: Iterable[Correction]) -> list[dict[str, object]]:
    """All that two ledgers agree on: not the moment at which somebody chose."""
    return [one.model_dump() | {"approved_at": one.approved_at is not None} for one in corrections]


def test_a_connection_that_was_dropped_between_two_uses_is_not_missed(
    ledger: Ledger, postgresql: Postgres, database: str
) -> None:
    with ledger.lease(MODEL, "a run") as lease:
        for number in range(3):
            postgresql.drop_connections(database)
            ledger.record([report(f"prompt {number}", "x")])
        postgresql.drop_connections(database)
        lease.renew()
        postgresql.drop_connections(database)
    assert ledger.counts(MODEL)[State.ACCEPTED] == 3
    with ledger.lease(MODEL, "the next"):
        pass


def test_what_was_under_way_when_a_connection_was_dropped_did_not_happen_and_may_be_done_again(
    ledger: Ledger, postgresql: Postgres, database: str
) -> None:
    ledger.record([report("before", "x")])

    engine = ledger._database._engine

    def drop(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO mendflow_transitions"):
            sa.event.remove(engine, "before_cursor_execute", drop)
            postgresql.drop_connections(database)

    sa.event.listen(engine, "before_cursor_execute", drop)
    reports = [report("meanwhile", "x"), report("meanwhile", "y", "s2")]
    with pytest.raises(UserError, match=r"the ledger postgresql\+psycopg.* cannot be used"):
        ledger.record(reports)
    assert [one.prompt for one in ledger.corrections(MODEL)] == ["before"]
    assert {one.state for one in ledger.record(reports)} == {State.CONFLICTING}


def test_a_server_that_was_started_again_has_all_that_was_acknowledged(postgresql: Postgres) -> None:
    url = postgresql.url(postgresql.new_database())
    with Ledger(url) as ledger:
        ledger.record([report("before", "x")])
        postgresql.stop()
        try:
            with pytest.raises(UserError, match="or see that it runs"):
                ledger.record([report("meanwhile", "x")])
        finally:
            postgresql.start()
        ledger.record([report("after", "x", reported_at=NOON + timedelta(minutes=1))])
        assert [one.prompt for one in ledger.corrections(MODEL)] == ["before", "after"]


def test_one_reading_sees_one_state_while_others_write(ledger: Ledger) -> None:
    ledger.record([report("p", "x")])
    with ledger._database.reading() as connection:
        count = sa.text("SELECT count(*) FROM mendflow_corrections")
        before = connection.execute(count).scalar()
        ledger.record([report("q", "x")])
        assert connection.execute(count).scalar() == before == 1
    assert len(ledger.corrections(MODEL)) == 2


def test_writers_at_once_lose_nothing_and_miss_no_contradiction(postgresql: Postgres, database: str) -> None:
    url = postgresql.url(database)

    def write(answer: str) -> None:
        # Each brings a new database to its revision, too.
        with Ledger(url) as own:
            for number in range(10):
                own.record([report(f"prompt {number}", answer, answer)])

    at_once(write, "wxyz")
    with Ledger(url) as ledger:
        assert ledger.counts(MODEL)[State.CONFLICTING] == 40
