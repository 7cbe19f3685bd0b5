"""The stages of a correction run as Prefect tasks; no model or tensor goes through Prefect.

Every stage writes into the run's folder and finds there what an interrupted run had finished.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from editors.catalogue import is_trained, listed
from editors.override import OverrideEditor
from editors.subject import with_any_subjects
from editors.subject_editing import SubjectEditor
from flows.console import ReportProgress
from flows.practice import LEAST_TO_TRAIN_ON, practice_from_file, practice_from_traffic
from flows.settings import CorrectSettings
from tasks import collect, register, report_files
from tasks.apply import Applied, apply, open_any_editor
from tasks.edit_dataset import EditDataset
from tasks.ledger import Ledger
from tasks.models import ModelFolder, load_delta, load_overrides, resolve
from tasks.overriding import overridden
from tasks.records import CannotEditError, Collected, Rejected, State, UserError
from tasks.registry import CHAMPION, describe, resolve_version
from tasks.roles import Learnable
from tasks.tracking import has_store, tracking
from tasks.train import PRETRAINED, TrainedEditor, data_digest, find_editor, train_editor

stage = task(cache_policy=NO_CACHE, persist_result=False)
OPEN = (State.ACCEPTED, State.ACTIVE)
# How `reconcile` begins its reason for retiring a correction, and so knows which ones a person withdrew.
_NOT_HELD = "not held by champion"


@dataclass(frozen=True)
class Champion:
    """A version that serves, or did: its number, where it is, and the corrections it holds, or overrides."""

    version: str
    folder: ModelFolder
    correction_ids: tuple[str, ...]
    overridden: tuple[str, ...] = ()

    @property
    def corrected(self) -> tuple[str, ...]:
        """Ids of the corrections whose prompts it answers as they want, in whichever way."""
        return *self.correction_ids, *self.overridden


@stage
def collect_errors(settings: CorrectSettings) -> Collected:
    """Flagged errors from a file of reports or from traces; unflagged traffic from traces."""
    if settings.source is None:
        return collect.from_traces(
            settings.tracking, settings.experiment, settings.model_name, chat=settings.chat
        )
    collected = report_files.from_file(settings.source, settings.model_name, chat=settings.chat)
    if not has_store(settings.tracking):
        return collected
    try:
        # Locality needs traffic, and what was served is there even where reports come from elsewhere.
        served = collect.from_traces(
            settings.tracking, settings.experiment, settings.model_name, chat=settings.chat
        )
    except collect.NoExperiment:
        return collected
    return collected.model_copy(update={"traffic": served.traffic})


@stage
def find_champion(settings: CorrectSettings, ledger: Ledger) -> Champion:
    """The champion; a base that the user named is registered as the first one where there is none yet.

    Raises:
        UserError: there is none and no base is named, or one of them cannot be used.
    """
    from tasks.promotion import promote

    name, uri = settings.model_name, settings.tracking
    # Only the home folder's own store is made here; one that a user named has to be there.
    with tracking(uri, create=not settings.tracking_uri):
        pass
    if describe(name, tracking_uri=uri).champion is None:
        # Errors may be reported about any name: a misspelt one is to become no model by itself.
        if not settings.base:
            raise UserError(
                f"there is no champion of {name}: correct the name, or name the base that is to be its first "
                f"(`{settings.command('correct', '--base', 'REF')}`; in a deployment, `base` of its settings)"
            )
        base = resolve(settings.base, cache=settings.home / "models")
        version = register.register(name, tracking_uri=uri, base=base)
        promote(
            name,
            version,
            expected_champion=None,
            ledger=ledger,
            who="mendflow",
            why="the pristine base is the first champion",
            tracking_uri=uri,
        )
    return version_at(settings, CHAMPION)


def version_at(settings: CorrectSettings, alias: str) -> Champion:
    """The version with this alias or number.

    Raises:
        UserError: no version has it, or what it names cannot be loaded.
    """
    name, uri = settings.model_name, settings.tracking
    version = resolve_version(name, alias, tracking_uri=uri)
    folder = resolve(f"models:/{name}/{version}", cache=settings.home / "models", tracking_uri=uri)
    ids = load_delta(folder.delta, folder).manifest.get("correction_ids", []) if folder.delta else []
    return Champion(version, folder, tuple(ids), overridden(load_overrides(folder)))


def check_base(settings: CorrectSettings, champion: Champion) -> None:
    """Refuse a base that the user named where the champion stands on another one.

    Raises:
        UserError: it is another base, or cannot be found.
    """
    if settings.base in ("", champion.folder.ref):
        return
    named = resolve(settings.base, cache=settings.home / "models")
    if named.digest != champion.folder.digest:
        raise UserError(
            f"the champion of {settings.model_name} stands on the base {champion.folder.ref} (digest "
            f"{champion.folder.digest[:12]}), not on {settings.base} (digest {named.digest[:12]}): leave the "
            "base out, or give the new base a model name of its own; replacing a base is planned for later"
        )


def check_editor(settings: CorrectSettings) -> None:
    """Refuse an editor whose versions the gates cannot judge, and a training that would not take place.

    Raises:
        UserError: overrides change no parameter, which is the first thing that a candidate is asked; or
            there is nothing to train, or nothing to train on where the user said so.
    """
    if OverrideEditor.name in settings.tried:
        raise UserError(
            "`override` answers in front of the model and changes no parameter, so there is nothing for the "
            "gates to judge: write overrides with `mendflow edit --editor override`, or name another editor"
        )
    data = settings.training_data
    if not any(map(is_trained, settings.tried)) and (settings.retrain or data is not None):
        option = "--retrain" if data is None else "--training-data"
        raise UserError(
            f"{option} would do nothing: this command does not train the editor {', '.join(settings.tried)}; "
            f"leave it out, or name one of {listed(trained=True)} with --editor"
        )
    if data is not None and not data.exists():
        raise UserError(f"there is no {data} to train on; correct --training-data")


def reconcile(
    ledger: Ledger, model_name: str, champion: Champion, *, brought_back: Collection[str] = ()
) -> None:
    """Make the ledger say what the champion holds, whatever was interrupted after the last promotion.

    A correction that someone withdrew stays so, and the next run solves without it, unless it is among those
    that a rollback has brought back: the next run would undo the rollback.
    """
    held = set(champion.correction_ids)
    known = {c.id: c for c in ledger.corrections(model_name) if c.id in held or c.state is State.ACTIVE}
    rise = [
        c.id
        for c in known.values()
        if c.state in (State.ACCEPTED, State.FAILED)
        or (c.state is State.RETIRED and (c.reason.startswith(_NOT_HELD) or c.id in brought_back))
    ]
    fall = [i for i in known if i not in held]
    ledger.transition(rise, State.ACTIVE, f"held by champion {champion.version}", model_name=model_name)
    ledger.transition(fall, State.RETIRED, f"{_NOT_HELD} {champion.version}", model_name=model_name)


@stage
def train_or_reuse(
    settings: CorrectSettings,
    base: ModelFolder,
    learnable: Learnable,
    progress: ReportProgress,
    left_out: Callable[[Iterable[Rejected]], None],
) -> TrainedEditor | None:
    """The folder of an editor for this base: reused if one fits, else trained; None if none is needed.

    Where the user named training data or asked for a training, only one trained on just that fits; otherwise
    not one that a run trained while prompts that are the gates' now were not. `left_out` is told which rows
    of the training data cannot be used.

    Raises:
        CannotEditError: there is too little to train on, or the editor that fits is damaged.
        UserError: the base or the training data cannot be read.
    """
    from editors.training import TrainingConfig

    kind = settings.editor
    if not is_trained(kind):
        return None
    trained = settings.home / "editors"
    if not settings.retrain and settings.training_data is None:
        places = [trained, PRETRAINED]
        found = find_editor(base.digest, places, chat=settings.chat, name=kind, split=learnable.split)
        if found:
            return found
    if settings.training_data is not None:
        requests, stay = practice_from_file(
            settings.training_data, learnable, chat=settings.chat, left_out=left_out
        )
    else:
        requests, stay = practice_from_traffic(
            base, learnable, chat=settings.chat, seed=settings.seed, progress=progress
        )
        if len(requests) < LEAST_TO_TRAIN_ON or len(stay) < LEAST_TO_TRAIN_ON:
            raise CannotEditError(
                f"there is no {kind} editor for {base.ref}, and its traffic, without what the gates ask, "
                f"yields {len(requests)} corrections and {len(stay)} prompts to keep, where training takes "
                f"{LEAST_TO_TRAIN_ON} of each: train one with `mendflow train-editor --model {base.ref} "
                f"--data FILE --editor {kind} --out DIR` and name DIR with --editor, or use --editor patcher"
            )
    # What an interrupted run had trained is there already. Whatever the gates asked then, now they ask none
    # of these data.
    digest = data_digest(requests, stay)
    found = find_editor(base.digest, [trained], chat=settings.chat, name=kind, trained_on=digest)
    if found:
        return found
    name = f"{kind}-{base.digest[:12]}"
    return train_editor(
        base,
        requests,
        stay,
        trained / name,
        chat=settings.chat,
        editor=kind,
        training=TrainingConfig(steps=settings.training_steps, validate_every=20, seed=settings.seed),
        checkpoint=settings.home / "training" / name,
        split=learnable.split,
        progress=progress,
        source="the traffic" if settings.training_data is None else settings.training_data.name,
        left_out=left_out,
    )


@stage
def apply_corrections(
    base: ModelFolder,
    editor: str,
    dataset: EditDataset,
    folder: Path,
    manifest: dict[str, Any],
    cache: Path,
    progress: ReportProgress,
) -> Applied:
    """One delta over the pristine base from all corrections of the dataset."""
    opened = open_any_editor(editor, base, cache, progress)
    requests, keep = dataset.requests(locality=0), dataset.kept()
    if isinstance(opened, SubjectEditor):
        # One without a subject must not keep all others from theirs; the gates see what became of it.
        requests = with_any_subjects(requests)
    return apply(base, opened, requests, keep, folder, manifest=manifest, progress=progress)
