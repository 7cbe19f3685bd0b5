"""What the ledger's tests share: a model, a moment, and reports about them."""

from __future__ import annotations

from datetime import UTC, datetime

from tasks.records import Correction, ErrorReport

MODEL = "capitals"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def report(prompt: str, desired: str | None, source: str = "s1", **fields: object) -> ErrorReport:
    """A report about the model, made at noon, unless `fields` say otherwise."""
    given: dict[str, object] = {"model_name": MODEL, "reported_at": NOON, "wrong_output": "Wrong."} | fields
    return ErrorReport(prompt=prompt, desired_output=desired, source=source, **given)  # type: ignore[arg-type]


def only(corrections: list[Correction]) -> Correction:
    """The one correction of the list."""
    (one,) = corrections
    return one
