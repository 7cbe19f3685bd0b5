"""Reports on their way into the ledger, one person's or a collection; Prefect is told of new ones."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable

from tasks.events import tell_of_reports
from tasks.ledger import Ledger, Taken
from tasks.records import Correction, ErrorReport
from tasks.refusals import wanted


def report_error(
    prompt: str,
    wrong_output: str,
    desired_output: str | None,
    model_name: str,
    *,
    ledger_url: str,
    reporter: str,
    model_version: str = "",
    chat: bool = True,
    subject: str | None = None,
    severity: str = "normal",
    suppress: bool = False,
    equivalents: Iterable[str] = (),
    locality: Iterable[str] = (),
    source: str | None = None,
) -> Correction:
    """Put one person's report into the ledger; the correction that it counts for.

    Every call is a report of its own, unless `source` says that it is one made before. With `suppress` the
    wrong output must never appear again; without a desired output, a refusal is wanted then.

    Raises:
        UserError: the ledger cannot be used.
    """
    report = ErrorReport(
        prompt=prompt,
        wrong_output=wrong_output,
        desired_output=wanted(desired_output, suppress=suppress),
        source=source or f"flag:{uuid.uuid4().hex}",
        reporter=reporter,
        model_name=model_name,
        model_version=model_version,
        chat=chat,
        subject=subject,
        severity=severity,
        suppress=suppress,
        equivalents=tuple(equivalents),
        locality=tuple(locality),
    )
    return take_reports([report], ledger_url=ledger_url)[0]


def take_reports(reports: Iterable[ErrorReport], *, ledger_url: str) -> list[Correction]:
    """Put reports into the ledger; the corrections that they are about, in order of first mention.

    Raises:
        UserError: the ledger cannot be used.
    """
    with Ledger(ledger_url) as ledger:
        return take_into(ledger, reports).corrections


def take_into(
    ledger: Ledger,
    reports: Iterable[ErrorReport],
    *,
    once: bool = False,
    tell: Callable[[Iterable[Correction]], object] = tell_of_reports,
) -> Taken:
    """Put reports into an open ledger, then `tell` of the new ones; `once` as `Ledger.take` has it.

    Raises:
        SourceTaken: one of them is not what its source has reported already; none is taken.
        UserError: the ledger cannot be used.
    """
    taken = ledger.take(reports, once=once)
    # Once they are kept: an event without its report would start a run that finds nothing.
    tell(taken.new)
    return taken
