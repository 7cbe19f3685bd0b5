"""Export a version for other servers: a full checkpoint, or an adapter with its error stated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import Narrator
from flows.settings import CorrectSettings
from tasks.export import check_export, export_checkpoint
from tasks.ledger import Ledger
from tasks.models import ModelFolder, load_delta, load_overrides, resolve
from tasks.prompt_check import PromptCheck
from tasks.registry import resolve_version
from tasks.tracking import has_store

if TYPE_CHECKING:
    from tasks.adapter import AdapterReport, Question


@dataclass(frozen=True)
class Exported:
    """The version that was written, the overrides beside it, and what an adapter loses, if it is one."""

    version: str
    overrides: int
    adapter: AdapterReport | None


def export(
    settings: CorrectSettings, version: str, out: Path, *, rank: int | None = None, replace: bool = False
) -> Exported:
    """Write a version into a folder.

    Args:
        settings: of the model and its stores.
        version: a number or an alias.
        out: a new or an empty folder.
        rank: write an adapter of at most this rank; None for a full checkpoint.
        replace: an earlier export in `out` may be replaced.

    Raises:
        UserError: there is no such version, it cannot be an adapter, or `out` holds something.
    """
    check_export(out, replace_earlier=replace)
    narrator = Narrator()
    name, uri = settings.model_name, settings.tracking
    number = resolve_version(name, version, tracking_uri=uri)
    with narrator.stage("model", f"Find version {number} of {name}"):
        folder = resolve(f"models:/{name}/{number}", cache=settings.home / "models", tracking_uri=uri)
    if rank is None:
        with narrator.stage("write", "Write the checkpoint and load it again"):
            export_checkpoint(folder, None, out)
        return Exported(number, len(load_overrides(folder)), None)
    from tasks.adapter import export_adapter

    with narrator.stage("write", f"Write the adapter, and ask it what version {number} corrects"):
        report = export_adapter(folder, out, rank=rank, questions=_questions(settings, folder))
    return Exported(number, 0, report)


def _questions(settings: CorrectSettings, folder: ModelFolder) -> list[Question]:
    """The prompts of the version's corrections and their phrasings, where the ledger has them."""
    from tasks.adapter import Question

    if folder.delta is None or not has_store(settings.ledger):
        return []
    ids = set(load_delta(folder.delta, folder).manifest.get("correction_ids", []))
    if not ids:
        return []
    with Ledger(settings.ledger) as ledger:
        corrections = [one for one in ledger.corrections(settings.model_name) if one.id in ids]
    check = PromptCheck.of(folder)
    return [
        Question(prompt, one.chat)
        for one in corrections
        for prompt in (one.prompt, *one.equivalents)
        if not check.fault(prompt, chat=one.chat)
    ]
