"""A lease on a model: at most one run changes a model at a time, and a killed run does not block the next."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import exc

from tasks import ledger_schema as schema
from tasks.ledger_database import Database
from tasks.processes import has_ended, mark_of
from tasks.records import UserError


class LeaseHeld(UserError):  # noqa: N818
    """Another run holds the lease on the model."""


class LeaseLost(UserError):  # noqa: N818
    """The lease ran out and another run took it."""


class Lease:
    """The right to change one model until `expires_at`; renew it before a long step."""

    def __init__(self, database: Database, model_name: str, holder: str, seconds: float) -> None:
        self.model_name = model_name
        self.holder = holder
        self.seconds = seconds
        self._doing = ""
        self._database = database
        self._token = uuid.uuid4().hex
        self.expires_at = self._take()

    def renew(self, seconds: float | None = None) -> None:
        """Hold it for `seconds` from now (by default as long as at first).

        Raises:
            LeaseLost: another run has taken it; this one must change nothing more.
        """
        expires_at = datetime.now(UTC) + timedelta(seconds=self.seconds if seconds is None else seconds)
        with self._database.writing() as connection:
            kept = connection.execute(
                sa.update(schema.leases)
                .where(*self._mine())
                .values(expires_at=expires_at, holder=self._told())
            )
        if not kept.rowcount:
            raise LeaseLost(
                f"{self.holder} held {self.model_name} past its time and another run has taken it; "
                "run this one again, with a longer lease"
            )
        self.expires_at = expires_at

    def keep(self, doing: str = "") -> None:
        """Renew it where less than half of its time is left; to be called often in a long step.

        What the run is `doing` is told to whoever asks what is at work (`at_work`).

        Raises:
            LeaseLost: another run has taken it.
            UserError: it has run out, and the database cannot be reached.
        """
        left = (self.expires_at - datetime.now(UTC)).total_seconds()
        news = bool(doing) and doing != self._doing
        self._doing = doing or self._doing
        if news or left < self.seconds / 2:
            try:
                self.renew()
            except LeaseLost:
                raise
            except UserError:
                # It is held still: the next call may find the database again.
                if left <= 0:
                    raise

    def release(self) -> None:
        """Give it back; nothing happens if another run has taken it."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(schema.leases).where(*self._mine()))

    def _told(self) -> str:
        return f"{self.holder} ({self._doing})" if self._doing else self.holder

    def _mine(self) -> tuple[sa.ColumnElement[bool], ...]:
        return schema.leases.c.model_name == self.model_name, schema.leases.c.token == self._token

    def _take(self) -> datetime:
        table = schema.leases
        now = datetime.now(UTC)
        expires_at = now + timedelta(seconds=self.seconds)
        row = {
            "holder": self.holder,
            "process": mark_of(os.getpid()),
            "token": self._token,
            "acquired_at": now,
            "expires_at": expires_at,
        }
        with self._database.writing() as connection:
            of_model = table.c.model_name == self.model_name
            present = connection.execute(sa.select(table).where(of_model)).first()
            if present is None:
                try:
                    with connection.begin_nested():
                        connection.execute(sa.insert(table).values(model_name=self.model_name, **row))
                    return expires_at
                except exc.IntegrityError:
                    present = connection.execute(sa.select(table).where(of_model)).first()
            if present is not None and (present.expires_at <= now or has_ended(present.process)):
                # Compare and set: only one of those who see it free gets it.
                free = table.c.token == present.token, table.c.expires_at == present.expires_at
                if connection.execute(sa.update(table).where(of_model, *free).values(**row)).rowcount:
                    return expires_at
        holder, until = (
            ("another run", "soon")
            if present is None
            else (present.holder, f"{present.expires_at:%F %T} UTC")
        )
        raise LeaseHeld(
            f"{holder} is at work on {self.model_name}; "
            f"wait for it to end, or until its lease runs out ({until})"
        )


def at_work(database: Database, model_name: str) -> list[tuple[str, datetime]]:
    """Who holds a lease on a model, or on one kind of its runs (`MODEL/KIND`), and since when."""
    with database.reading() as connection:
        leases = connection.execute(sa.select(schema.leases).order_by(schema.leases.c.acquired_at)).all()
    now = datetime.now(UTC)
    # Here and not in the database, which may take capitals for small letters.
    of_model = (one for one in leases if f"{one.model_name}/".startswith(f"{model_name}/"))
    return [
        (one.holder, one.acquired_at)
        for one in of_model
        if one.expires_at > now and not has_ended(one.process)
    ]


@contextmanager
def hold(database: Database, model_name: str, holder: str, seconds: float) -> Iterator[Lease]:
    """Hold the lease on a model inside the block.

    Raises:
        LeaseHeld: another run holds it.
    """
    lease = Lease(database, model_name, holder, seconds)
    try:
        yield lease
    except BaseException:
        # What went wrong inside is told, and not that the database cannot be reached to say so; the lease
        # ends with this process.
        with suppress(UserError):
            lease.release()
        raise
    lease.release()
