"""Train an editor from a file, for `mendflow train-editor` and `make editor`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from editors.catalogue import EDITORS, configured, entry, is_trained, listed
from editors.protocol import EDITOR_FILE, WEIGHTS_FILE
from editors.requests import EditRequest
from editors.subject_editing import SubjectEditor
from editors.training import TrainingConfig
from flows.console import Narrator, ReportProgress
from flows.practice import LEAST_TO_TRAIN_ON, practice_from_traffic
from flows.settings import CorrectSettings
from tasks.apply import open_any_editor
from tasks.formats import holds_prompts, read_prompts, read_requests
from tasks.models import ModelFolder, load, resolve
from tasks.placement import PLACEMENT, Placement
from tasks.prompt_check import PromptCheck, askable, askable_prompts
from tasks.records import Rejected, TrafficRecord, UserError, normalise_prompt
from tasks.roles import Learnable
from tasks.train import TrainedEditor, answers_to_keep, train_editor
from tasks.training_data import (
    RELATIONS_FOLDER,
    at_most,
    corrections_from_traffic,
    practice_questions,
    practice_statements,
    with_equivalents,
)

MOST_TO_KEEP = 200


def train(
    settings: CorrectSettings,
    model: str,
    data: Path,
    out: Path,
    *,
    editor: str,
    minutes: float | None = None,
    steps: int,
    limit: int,
    chat: bool,
    seed: int,
    modules: str | None = None,
    at: Placement = PLACEMENT,
) -> TrainedEditor:
    """Train an editor on corrections, on bare prompts, or on ParaRel and zsRE in a folder.

    A training that was killed goes on from its last checkpoint, in the home folder, when it is run again. Of
    an editor that is not trained, what it has to know of the model is gathered into the home folder.

    Args:
        settings: where the stores are.
        model: any reference that `tasks.models.resolve` knows.
        data: what is practised on.
        out: folder for the editor.
        editor: its name.
        minutes: most minutes of training.
        steps: most steps of training.
        limit: most corrections to practise on.
        chat: whether prompts are chat turns.
        seed: of everything drawn.
        modules: regular expression over the names of the modules to edit; None for the editor's own choice.
        at: where the model is put.

    Raises:
        UserError: the model or the data cannot be used, or the editor has nothing to be trained or gathered.
    """
    if not is_trained(editor):
        return _gathered(settings, model, out, editor=editor, modules=modules, at=at)
    config = entry(editor).editor_class().config_class()
    if modules is not None:
        config = configured(editor, config, modules=modules)
    # What an interrupted training left of an editor may be written over.
    strange = out.is_file() or (
        out.is_dir()
        and not (out / EDITOR_FILE).exists()
        and any(not path.name.startswith((EDITOR_FILE, WEIGHTS_FILE)) for path in out.iterdir())
    )
    if strange or (out / "delta.json").exists():
        raise UserError(f"{out} holds something other than an editor; name a new or an empty folder")
    narrator = Narrator()
    with narrator.stage("model", f"Find the model {model}"):
        base = resolve(model, cache=settings.home / "models", tracking_uri=settings.tracking)
    with narrator.stage("data", "Prepare corrections to practise on") as progress:
        requests, stay = _practice(
            base,
            data,
            limit=limit,
            chat=chat,
            seed=seed,
            at=at,
            progress=progress,
            left_out=narrator.left_out,
        )
    training = TrainingConfig(steps=steps, minutes=minutes, seed=seed)
    with narrator.stage("train", f"Train on {len(requests)} corrections") as progress:
        return train_editor(
            base,
            requests,
            stay,
            out,
            chat=chat,
            editor=editor,
            config=config,
            at=at,
            training=training,
            checkpoint=settings.home / "training" / "train-editor",
            progress=progress,
            source=data.name,
            left_out=narrator.left_out,
        )


def _gathered(
    settings: CorrectSettings, model: str, out: Path, *, editor: str, modules: str | None, at: Placement
) -> TrainedEditor:
    """The key statistics of an editor that needs them and no training, kept where an edit finds them."""
    if editor not in EDITORS or not issubclass(entry(editor).editor_class(), SubjectEditor):
        raise UserError(
            f"the editor {editor!r} is not one that is trained; name one of {listed(trained=True)}"
        )
    narrator, folder = Narrator(), settings.key_statistics
    with narrator.stage("model", f"Find the model {model}"):
        base = resolve(model, cache=settings.home / "models", tracking_uri=settings.tracking)
    with narrator.stage("statistics", "Gather key statistics") as progress:
        named = {} if modules is None else {"modules": modules}
        opened = open_any_editor(editor, base, folder, progress, at=at, settings=named)
    told = (
        f"{editor} needs no training, so nothing is written to {out}; the key statistics that it needs of "
        f"{base.ref} are there, where `mendflow edit --editor {editor}` with the same --home finds them"
    )
    return TrainedEditor(folder, opened.digest(), "gathered", told)


def _practice(
    base: ModelFolder,
    data: Path,
    *,
    limit: int,
    chat: bool,
    seed: int,
    at: Placement = PLACEMENT,
    progress: ReportProgress,
    left_out: Callable[[Iterable[Rejected]], None],
) -> tuple[list[EditRequest], list[str]]:
    rng = random.Random(seed)
    if (data / RELATIONS_FOLDER).is_dir():
        return _from_relations(base, data, limit=limit, chat=chat, seed=seed, at=at, progress=progress)
    if holds_prompts(data):
        prompts, rejected = read_prompts(data, chat=chat)
        prompts, unaskable = askable_prompts(prompts, PromptCheck.of(base), data.name, chat=chat)
        left_out([*rejected, *unaskable])
        asked = at_most(2 * limit, prompts, rng)
        return _from_prompts(base, data, asked, limit=limit, chat=chat, seed=seed, at=at, progress=progress)
    read, rejected = read_requests(data, chat=chat)
    read, unaskable = askable(read, PromptCheck.of(base), data.name)
    left_out([*rejected, *unaskable])
    chosen = at_most(2 * limit, read, rng)
    requests, spare = chosen[:limit], chosen[limit:]
    stay = [prompt for request in chosen for prompt in request.locality[:1]]
    # Prompts of corrections that are not practised on must stay too.
    stay += [request.prompt for request in spare]
    if not stay:
        half = len(chosen) // 2
        requests, stay = chosen[:half], [request.prompt for request in chosen[half:]]
    # No prompt is asked to change and to stay.
    practised = {normalise_prompt(text) for r in requests for text in (r.prompt, *r.equivalents)}
    stay = [prompt for prompt in dict.fromkeys(stay) if normalise_prompt(prompt) not in practised]
    return with_equivalents(requests, seed=seed), at_most(MOST_TO_KEEP, stay, rng)


def _from_prompts(
    base: ModelFolder,
    data: Path,
    prompts: Sequence[str],
    *,
    limit: int,
    chat: bool,
    seed: int,
    at: Placement = PLACEMENT,
    progress: ReportProgress,
) -> tuple[list[EditRequest], list[str]]:
    """From prompts alone, and as many more that the model writes as practice takes."""
    traffic = _answered(base, prompts, chat=chat, at=at, progress=progress)
    learnable = Learnable(traffic, frozenset())
    requests, stay = practice_from_traffic(
        base, learnable, chat=chat, seed=seed, limit=limit, at=at, progress=progress
    )
    if min(len(requests), len(stay)) < LEAST_TO_TRAIN_ON:
        raise UserError(
            f"{data.name} holds {len(prompts)} prompts that can be asked, of which {len(traffic)} have an "
            f"answer. With those that the model could write like them, {len(requests)} can be practised on "
            f"and {len(stay)} be held, where training takes {LEAST_TO_TRAIN_ON} of each: give more prompts, "
            f"several of a kind; {3 * LEAST_TO_TRAIN_ON} that have an answer will do"
        )
    return requests, at_most(MOST_TO_KEEP, stay, random.Random(seed))


def _from_relations(
    base: ModelFolder,
    data: Path,
    *,
    limit: int,
    chat: bool,
    seed: int,
    at: Placement,
    progress: ReportProgress,
) -> tuple[list[EditRequest], list[str]]:
    """From ParaRel and zsRE in a folder."""
    rng = random.Random(seed)
    questions, _ = askable_prompts(
        practice_questions(data, seed=seed), PromptCheck.of(base), data.name, chat=chat
    )
    questions = at_most(2 * limit, questions, rng)
    traffic = _answered(base, questions, chat=chat, at=at, progress=progress)
    requests, stay = corrections_from_traffic(traffic, limit=limit, seed=seed)
    stated, prompts = practice_statements(data, chat=chat, seed=seed)
    return requests + stated, at_most(MOST_TO_KEEP, stay, rng) + prompts


def _answered(
    base: ModelFolder, prompts: Sequence[str], *, chat: bool, at: Placement, progress: ReportProgress
) -> list[TrafficRecord]:
    """The prompts with the model's own answers, without those that it answers with nothing."""
    model, tokenizer = load(base, at.dtype, at.device)
    answered = answers_to_keep(model, tokenizer, prompts, chat=chat, progress=progress)
    return [TrafficRecord(prompt=k.prompt, output=k.answer.strip(), chat=chat) for k in answered]
