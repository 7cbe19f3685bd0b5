"""The ledger's tables. Rows are only ever added; a correction's content and state are read from them.

All names carry a prefix, so that the ledger may share a database with MLflow or Prefect. A change here needs
a new revision in `migrations/versions`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

PREFIX = "mendflow_"
VERSION_TABLE = f"{PREFIX}ledger_version"
# The longest name of a model, in characters.
NAME_LENGTH = 255


def storable(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which no encoding has, and NUL, which PostgreSQL refuses."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", "\ufffd")


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A moment, aware and in UTC on this side, whatever the database keeps; a naive one is taken as UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """To UTC."""
        return None if value is None else _as_utc(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """To aware UTC: SQLite gives naive values, PostgreSQL those of the session's zone."""
        return None if value is None else _as_utc(value)


class StorableText(sa.TypeDecorator[str]):
    """Text, made `storable` on its way in."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """What any database takes."""
        return None if value is None else storable(value)


metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# One row a model: what a writer locks, so that two writers never judge the same prompt at once.
models = sa.Table(f"{PREFIX}models", metadata, sa.Column("name", sa.String(NAME_LENGTH), primary_key=True))

corrections = sa.Table(
    f"{PREFIX}corrections",
    metadata,
    sa.Column("model_name", sa.String(255), sa.ForeignKey(models.c.name), primary_key=True),
    sa.Column("id", sa.String(64), primary_key=True),
    # Corrections of one model with the same digest are about the same prompt, and may contradict each other.
    sa.Column("prompt_digest", sa.String(64), nullable=False),
    sa.Index(None, "model_name", "prompt_digest"),
)


def _of_correction() -> list[Any]:
    return [
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("model_name", sa.String(255), nullable=False),
        sa.Column("correction_id", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_name", "correction_id"], [corrections.c.model_name, corrections.c.id]
        ),
    ]


reports = sa.Table(
    f"{PREFIX}reports",
    metadata,
    *_of_correction(),
    sa.Column("source", StorableText, nullable=False),
    sa.Column("reporter", StorableText, nullable=False),
    sa.Column("reported_at", UtcDateTime, nullable=False),
    sa.Column("model_version", StorableText, nullable=False),
    sa.Column("prompt", StorableText, nullable=False),
    sa.Column("wrong_output", StorableText, nullable=False),
    sa.Column("desired_output", StorableText),
    # The program that gave it; empty where a person did.
    sa.Column("answerer", StorableText, nullable=False),
    sa.Column("chat", sa.Boolean, nullable=False),
    sa.Column("subject", StorableText),
    sa.Column("severity", StorableText, nullable=False),
    sa.Column("suppress", sa.Boolean, nullable=False),
    sa.Column("equivalents", sa.JSON, nullable=False),
    sa.Column("locality", sa.JSON, nullable=False),
    sa.UniqueConstraint("model_name", "correction_id", "source"),
    sa.Index(None, "model_name", "source"),
)

transitions = sa.Table(
    f"{PREFIX}transitions",
    metadata,
    *_of_correction(),
    sa.Column("from_state", sa.String(32)),
    sa.Column("to_state", sa.String(32), nullable=False),
    sa.Column("reason", StorableText, nullable=False),
    sa.Column("run_id", sa.String(255), nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Index(None, "model_name", "correction_id", "sequence"),
)

answers = sa.Table(
    f"{PREFIX}answers",
    metadata,
    *_of_correction(),
    sa.Column("answered_as", sa.String(64), nullable=False),
    sa.Column("desired_output", StorableText, nullable=False),
    sa.Column("reviewer", StorableText, nullable=False),
    # Whether the reviewer is one, and no person.
    sa.Column("program", sa.Boolean, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("model_name", "correction_id"),
)

# What a rewording means is a matter of the prompt, whatever its answer: no correction is named. The last row
# of a source about a rewording counts.
refused_rewordings = sa.Table(
    f"{PREFIX}refused_rewordings",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("model_name", sa.String(255), nullable=False),
    sa.Column("prompt_digest", sa.String(64), nullable=False),
    sa.Column("rewording", StorableText, nullable=False),
    sa.Column("refused", sa.Boolean, nullable=False),
    sa.Column("reviewer", StorableText, nullable=False),
    sa.Column("source", StorableText, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Index(None, "model_name", "prompt_digest"),
)

leases = sa.Table(
    f"{PREFIX}leases",
    metadata,
    sa.Column("model_name", sa.String(255), primary_key=True),
    sa.Column("holder", StorableText, nullable=False),
    sa.Column("process", StorableText, nullable=False),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("acquired_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
)

promotions = sa.Table(
    f"{PREFIX}promotions",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("model_name", sa.String(255), nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("from_version", sa.String(255)),
    sa.Column("to_version", sa.String(255)),
    sa.Column("who", StorableText, nullable=False),
    sa.Column("why", StorableText, nullable=False),
    sa.Column("phase", sa.String(32), nullable=False),
    sa.Column("run_id", sa.String(255), nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Index(None, "model_name", "sequence"),
)


def _as_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
