"""The build stage: the edit dataset, with the champion's own answers, through the data gate."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from flows.console import ReportProgress
from flows.judge import check_gates
from flows.overriding import wanted_overrides
from flows.rewordings import Rewordings
from flows.settings import CorrectSettings
from flows.stages import Champion, stage
from tasks.ask import greedy_answers
from tasks.build import build
from tasks.edit_dataset import EditDataset
from tasks.embedding import MISSING, Embed, has_encoder, open_encoder
from tasks.equivalents import beside_the_ledger
from tasks.ledger import Ledger
from tasks.measuring import GATE_TOKENS
from tasks.prompt_check import PromptCheck
from tasks.records import State, TrafficRecord, UserError
from tasks.roles import Learnable, for_training, recent
from validation.limits import DataLimits
from validation.outcomes import LOCALITY

if TYPE_CHECKING:
    import pandas as pd

    from editors.overrides import Overrides


@stage
def build_dataset(
    settings: CorrectSettings,
    ledger: Ledger,
    champion: Champion,
    traffic: Iterable[TrafficRecord],
    folder: Path,
    progress: ReportProgress,
    aside: Collection[str] = (),
    rewordings: Rewordings | None = None,
) -> tuple[EditDataset, dict[str, str]]:
    """Build the edit dataset and pass it through the data gate; (what may be learned from, what may not).

    It is what it would be if the corrections `aside` had failed already. `rewordings` has what a model wrote
    for other parts of the batch.
    """
    from validation.data_gate import check_data

    check = PromptCheck.of(champion.folder)
    corrections = [
        c.model_copy(update={"state": State.FAILED}) if c.id in aside else c
        for c in ledger.corrections(settings.model_name)
    ]
    embed, warnings = _encoder(settings)
    ask = _asking(champion, check, progress)
    built = build(
        corrections,
        [_as_answered_by(champion, record, check) for record in traffic],
        folder / "built",
        seed=settings.seed,
        held_out=settings.held_out,
        equivalents=settings.equivalents,
        far=settings.far,
        keep_confirmed=settings.keep_confirmed,
        gate_share=settings.gate_share,
        gate_rows=_gate_rows(settings),
        held=champion.corrected,
        references=ask,
        embed=embed if settings.neighbours == "meaning" else None,
        written=(rewordings or Rewordings()).of(settings, champion, corrections, embed, ask, progress)
        if embed is not None and settings.rewordings == "model"
        else None,
        manifest={"model": settings.model_name, "champion": champion.version},
    )
    overrides = wanted_overrides(settings, ledger, champion, aside=aside)
    edits, locality = _askable_rows(built, check, overrides)
    checked = check_data(
        beside_the_ledger(edits, corrections),
        locality,
        docs_dir=folder / "data_docs",
        limits=data_limits(settings),
        model_name=shlex.quote(settings.model_name),
        redact=settings.redaction.redact,
    )
    dataset = EditDataset.from_rows(
        checked.edits.to_dict("records"),
        checked.locality.to_dict("records"),
        {
            **built.manifest,
            "data_gate": {"failed": dict(checked.rows_failed), "warnings": [*warnings, *checked.warnings]},
        },
    )
    dataset.save(folder / "dataset")
    for id_, reason in checked.rows_failed.items():
        ledger.transition(id_, State.QUARANTINED, reason, model_name=settings.model_name)
    if not checked.passed:
        raise UserError(f"there is nothing to learn from: {checked.reason}")
    return dataset, dict(checked.rows_failed)


def data_limits(settings: CorrectSettings) -> DataLimits:
    """The limits of what a run may learn from; how much locality is enough the model gates say."""
    return DataLimits(minimum_gate_locality=0, reporter_corrections=settings.reporter_limit)


def traffic_to_train_on(
    settings: CorrectSettings, ledger: Ledger, champion: Champion, traffic: Iterable[TrafficRecord]
) -> Learnable:
    """The traffic without what the gates will ask of the candidate, and without what corrections ask."""
    return for_training(
        traffic,
        ledger.corrections(settings.model_name),
        gate_share=settings.gate_share,
        gate_rows=_gate_rows(settings),
        seed=settings.seed,
        held=champion.corrected,
    )


def requests_to_replay(
    settings: CorrectSettings, ledger: Ledger, champion: Champion, traffic: Sequence[TrafficRecord]
) -> list[tuple[str, bool]]:
    """The last requests, but for what corrections ask and what the model cannot be asked any more."""
    if not settings.replay:
        return []
    check, corrections = PromptCheck.of(champion.folder), ledger.corrections(settings.model_name)
    found = recent(traffic, corrections, held=champion.corrected)
    askable = ((prompt, chat) for prompt, chat in found if not check.fault(prompt, chat=chat))
    return list(islice(askable, settings.replay))


def _encoder(settings: CorrectSettings) -> tuple[Embed | None, list[str]]:
    """The sentence encoder where one is needed, and what is done without it where none is installed."""
    wanted = {
        "neighbours are found by words in common, and not by meaning": settings.neighbours == "meaning",
        "corrections are reworded by rules alone": settings.rewordings == "model",
    }
    if not any(wanted.values()):
        return None, []
    if settings.encoder or has_encoder():
        return open_encoder(settings.encoder, cache=settings.home / "embeddings"), []
    return None, [f"{without}: {MISSING}" for without, needed in wanted.items() if needed]


def _gate_rows(settings: CorrectSettings) -> int:
    """How many locality rows the gates need to decide."""
    gate = check_gates(settings).gates.get(LOCALITY)
    return gate.minimum_n if gate else 0


def _as_answered_by(champion: Champion, record: TrafficRecord, check: PromptCheck) -> TrafficRecord:
    """The record without an answer that the champion would not give the gates: it is asked for that.

    So it is with another version's, or what may be; with what was drawn by lot; and with what was cut short,
    or is longer than the gates let an answer be. What was confirmed to be right is so whoever said it, and so
    is a whole answer whose beginning was.
    """
    if record.model_version != champion.version or not record.greedy:
        gold = record.gold or (record.output if record.confirmed else None)
        return record.model_copy(update={"output": "", "gold": gold})
    if record.whole and check.tokens(record.output) <= GATE_TOKENS:
        return record
    return record.model_copy(update={"output": ""})


def _askable_rows(
    built: EditDataset, check: PromptCheck, overrides: Overrides
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of edits and locality without phrasings and prompts that the model cannot be asked.

    The gates hold out no phrasing that an override answers: it says nothing of what was solved.
    """
    edits = built.edits.copy()
    for column in ("equivalents", "held_out"):
        edits[column] = [
            [text for text in texts if not check.fault(text, target, chat=chat)]
            for texts, target, chat in zip(edits[column], edits["target"], edits["chat"], strict=True)
        ]
    edits["held_out"] = [
        [text for text in texts if overrides.lookup(text, chat=chat) is None]
        for texts, chat in zip(edits["held_out"], edits["chat"], strict=True)
    ]
    rows = zip(*(built.locality[column] for column in ("prompt", "reference", "chat")), strict=True)
    kept = [not check.fault(prompt, reference, chat=chat) for prompt, reference, chat in rows]
    return edits, built.locality.loc[kept]


def _asking(
    champion: Champion, check: PromptCheck, progress: ReportProgress
) -> Callable[[list[str], bool], list[str]]:
    def ask(prompts: list[str], chat: bool) -> list[str]:
        return greedy_answers(
            champion.folder,
            check,
            prompts,
            chat=chat,
            max_new_tokens=GATE_TOKENS,
            progress=lambda done, total: progress(done, total, "asking the champion"),
        )

    return ask
