"""Rewordings that reviewers refused, as the ledger's rows have them; in the caller's transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, datetime

import sqlalchemy as sa

from tasks import ledger_schema as schema

# Databases limit the parameters of one statement.
_CHUNK = 500


def refused_of(connection: sa.Connection, model_name: str, ids: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """By correction id, the rewordings of its prompt that some source refuses; only where there are any."""
    corrections = schema.corrections
    digests: dict[str, str] = {}
    for chunk in _chunks(list(ids)):
        query = sa.select(corrections.c.id, corrections.c.prompt_digest).where(
            corrections.c.model_name == model_name, corrections.c.id.in_(chunk)
        )
        digests |= {row.id: row.prompt_digest for row in connection.execute(query)}
    refused: dict[str, set[str]] = defaultdict(set)
    for chunk in _chunks(sorted(set(digests.values()))):
        for (digest, rewording, _), row in _last(connection, model_name, chunk).items():
            if row:
                refused[digest].add(rewording)
    return {id_: tuple(sorted(refused[digest])) for id_, digest in digests.items() if refused.get(digest)}


def refuse(
    connection: sa.Connection,
    model_name: str,
    prompt_digest: str,
    rewordings: Collection[str],
    reviewer: str,
    source: str,
) -> None:
    """Have a source refuse these rewordings of a prompt, and no others that it refused before."""
    before = {
        rewording
        for (_, rewording, who), row in _last(connection, model_name, [prompt_digest]).items()
        if row and who == source
    }
    now = {schema.storable(text) for text in rewordings}
    rows = [
        {
            "model_name": model_name,
            "prompt_digest": prompt_digest,
            "rewording": text,
            "refused": text in now,
            "reviewer": reviewer,
            "source": source,
            "at": datetime.now(UTC),
        }
        for text in sorted(now ^ before)
    ]
    if rows:
        connection.execute(schema.refused_rewordings.insert(), rows)


def _last(
    connection: sa.Connection, model_name: str, digests: Collection[str]
) -> dict[tuple[str, str, str], bool]:
    """Whether it is refused, by prompt digest, rewording and source."""
    table = schema.refused_rewordings
    query = (
        sa.select(table)
        .where(table.c.model_name == model_name, table.c.prompt_digest.in_(digests))
        .order_by(table.c.sequence)
    )
    found = connection.execute(query)
    return {(row.prompt_digest, row.rewording, row.source): row.refused for row in found}


def _chunks(items: list[str]) -> Iterable[list[str]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))
