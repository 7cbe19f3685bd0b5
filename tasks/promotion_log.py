"""The promotion log: which version became champion, or was rejected or withdrawn, when, by whom and why.

Rows are only added.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from tasks import ledger_schema as schema
from tasks.ledger_database import Database, lock_models
from tasks.records import UserError

PROMOTE, ROLLBACK, REJECT, WITHDRAW = "promote", "rollback", "reject", "withdraw canary"
# The actions that change who serves: begun, then done or failed. Others move nothing, and are one row.
CHANGES = (PROMOTE, ROLLBACK)


class Phase(StrEnum):
    """A change of champion is begun before an alias moves, then done or failed; begun alone: interrupted."""

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Promotion:
    """One row of the promotion log."""

    model_name: str
    action: str
    from_version: str | None
    to_version: str | None
    who: str
    why: str
    phase: Phase
    run_id: str
    at: datetime

    @property
    def change(self) -> tuple[str, str | None, str | None]:
        """What is done to which versions; the same in all phases."""
        return self.action, self.from_version, self.to_version


def append(database: Database, promotion: Promotion) -> None:
    """Add a row; a repetition of the last one (but for who, why and when) adds nothing.

    Raises:
        UserError: another change was begun and is neither done nor failed.
        ValueError: the end of a change that was not begun.
    """
    with database.writing() as connection:
        lock_models(connection, [promotion.model_name])
        last = next(iter(_rows(connection, promotion.model_name, newest=1)), None)
        if last and (last.change, last.phase, last.run_id) == (
            promotion.change,
            promotion.phase,
            promotion.run_id,
        ):
            return
        unfinished = last if last and last.phase is Phase.BEGUN else None
        other = unfinished is not None and unfinished.change != promotion.change
        ends = promotion.phase is not Phase.BEGUN and promotion.action in CHANGES
        if ends and (unfinished is None or other):
            raise ValueError(f"{_shown(promotion)} ends as {promotion.phase}, but it was not begun")
        if unfinished is not None and other:
            raise UserError(
                f"{_shown(unfinished)} was interrupted; "
                f"finish it, or log it as failed, before {_shown(promotion)}"
            )
        fields = {column: getattr(promotion, column) for column in _COLUMNS}
        connection.execute(schema.promotions.insert().values({**fields, "phase": str(promotion.phase)}))


def rows(database: Database, model_name: str) -> list[Promotion]:
    """The whole log of a model, oldest first."""
    with database.reading() as connection:
        return _rows(connection, model_name)[::-1]


def rejection(database: Database, model_name: str, version: str) -> Promotion | None:
    """That a person rejected this version, if one did."""
    with database.reading() as connection:
        found = [row for row in _rows(connection, model_name) if row.action == REJECT]
    return next((row for row in found if row.to_version == version), None)


def unfinished(database: Database, model_name: str) -> Promotion | None:
    """The change that was begun and neither done nor failed, if there is one."""
    with database.reading() as connection:
        last = next(iter(_rows(connection, model_name, newest=1)), None)
    return last if last and last.phase is Phase.BEGUN else None


_COLUMNS = ("model_name", "action", "from_version", "to_version", "who", "why", "phase", "run_id", "at")


def _rows(connection: sa.Connection, model_name: str, newest: int | None = None) -> list[Promotion]:
    """Newest first."""
    table = schema.promotions
    query = (
        sa.select(table)
        .where(table.c.model_name == model_name)
        .order_by(table.c.sequence.desc())
        .limit(newest)
    )
    return [
        Promotion(**{**{column: row[column] for column in _COLUMNS}, "phase": Phase(row["phase"])})
        for row in connection.execute(query).mappings()
    ]


def _shown(promotion: Promotion) -> str:
    return (
        f"{promotion.action} of {promotion.model_name} from version {promotion.from_version or 'none'} "
        f"to {promotion.to_version or 'none'}"
    )
