"""Running a Great Expectations suite over a frame, without its fail-open traps.

A map expectation passes on an empty frame and skips missing values, and `.success` is false for a mere
warning: so every caller pairs its expectations with row counts and not-null ones, and reads the results here
one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

_ROW = "row"
_SITE = "docs"


@dataclass(frozen=True)
class ExpectationResult:
    """What one expectation found; `rows` are the positions of the rows that failed it."""

    check: str
    subject: str
    expectation: str
    severity: str
    success: bool
    observed: float | int | str | None
    unexpected: int
    rows: tuple[int, ...]
    error: str

    def as_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return asdict(self) | {"rows": list(self.rows)}


def run_suite(
    frame: pd.DataFrame,
    name: str,
    expectations: Sequence[Any],
    *,
    parameters: Mapping[str, float] | None = None,
    docs_dir: Path | None = None,
) -> list[ExpectationResult]:
    """Run the expectations over the frame and write Data Docs into `docs_dir`.

    Args:
        frame: any frame without a column `row`, which is added: the position that names failing rows.
        name: of the suite, as the Data Docs show it.
        expectations: each with `meta={"check": ..., "subject": ...}`; results come back in this order.
        parameters: values of the thresholds written as {"$PARAMETER": name}; a missing one raises.
        docs_dir: folder for the Data Docs; nothing is written without one.
    """
    with _quiet():
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False}
        batches = context.data_sources.add_pandas(name).add_dataframe_asset(name)
        suite = gx.ExpectationSuite(name, expectations=list(expectations))
        validation = gx.ValidationDefinition(
            name=name,
            data=batches.add_batch_definition_whole_dataframe(name),
            suite=context.suites.add(suite),
        )
        if docs_dir is not None:
            docs_dir.mkdir(parents=True, exist_ok=True)
            context.add_data_docs_site(site_name=_SITE, site_config=_site(docs_dir))
        result = context.validation_definitions.add(validation).run(
            batch_parameters={"dataframe": frame.assign(**{_ROW: range(len(frame))})},
            expectation_parameters=dict(parameters or {}),
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [_ROW]},
        )
        if docs_dir is not None:
            context.build_data_docs(site_names=[_SITE])
    found = {(each.check, each.subject): each for each in map(_result, result.results)}
    wanted = [(each.meta["check"], each.meta["subject"]) for each in expectations]
    if len(found) != len(wanted) or set(found) != set(wanted):
        raise RuntimeError(
            f"the suite {name} returned other results than it was asked for; nothing is decided"
        )
    return [found[key] for key in wanted]


def docs_index(docs_dir: Path) -> Path:
    """The page to open."""
    return docs_dir / "index.html"


def _result(raw: Any) -> ExpectationResult:
    config, result = raw.expectation_config, raw.result
    index = result.get("unexpected_index_list") or []
    errors = raw.exception_info or {}
    # One record for the expectation, or one for each metric it needed.
    records = [errors] if "raised_exception" in errors else list(errors.values())
    messages = [str(each.get("exception_message")) for each in records if each.get("raised_exception")]
    return ExpectationResult(
        check=config.meta["check"],
        subject=config.meta["subject"],
        expectation=config.type,
        severity=str(getattr(config.severity, "value", config.severity)),
        success=bool(raw.success) and not messages,
        observed=_plain(result.get("observed_value")),
        unexpected=int(result.get("unexpected_count") or 0),
        rows=tuple(sorted(int(each[_ROW]) for each in index)),
        error="; ".join(messages),
    )


def _plain(value: Any) -> float | int | str | None:
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, (int, float, str)) else str(value)


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(folder.resolve()),
        },
        "show_how_to_buttons": False,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Great Expectations logs its own bookkeeping at INFO and WARNING."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
