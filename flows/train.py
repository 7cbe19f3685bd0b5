"""Train an editor from a file, for `mendflow train-editor` and `make editor`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path

from editors.catalogue import is_trained, listed
from editors.protocol import EDITOR_FILE, WEIGHTS_FILE
from editors.requests import EditRequest
from editors.training import TrainingConfig
from flows.console import Narrator, ReportProgress
from flows.settings import CorrectSettings
from tasks.formats import read_prompts, read_requests
from tasks.models import ModelFolder, load, resolve
from tasks.records import Rejected, TrafficRecord, UserError, normalise_prompt
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
) -> TrainedEditor:
    """Train an editor on corrections, on bare prompts (.txt), or on ParaRel and zsRE in a folder.

    A training that was killed goes on from its last checkpoint, in the home folder, when it is run again.

    Raises:
        UserError: the model or the data cannot be used, or the editor is of a kind that does not train.
    """
    if not is_trained(editor):
        raise UserError(
            f"the editor {editor!r} is not one that is trained; name one of {listed(trained=True)}"
        )
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
            base, data, limit=limit, chat=chat, seed=seed, progress=progress, left_out=narrator.left_out
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
            training=training,
            checkpoint=settings.home / "training" / "train-editor",
            progress=progress,
        )


def _practice(
    base: ModelFolder,
    data: Path,
    *,
    limit: int,
    chat: bool,
    seed: int,
    progress: ReportProgress,
    left_out: Callable[[Iterable[Rejected]], None],
) -> tuple[list[EditRequest], list[str]]:
    rng = random.Random(seed)
    relations = (data / RELATIONS_FOLDER).is_dir()
    if relations or data.suffix == ".txt":
        questions = practice_questions(data, seed=seed) if relations else read_prompts(data)
        loaded, tokenizer = load(base)
        asked = at_most(2 * limit, questions, rng)
        answered = answers_to_keep(loaded, tokenizer, asked, chat=chat, progress=progress)
        records = [TrafficRecord(prompt=k.prompt, output=k.answer.strip(), chat=chat) for k in answered]
        requests, stay = corrections_from_traffic(records, limit=limit, seed=seed)
        if relations:
            stated, prompts = practice_statements(data, chat=chat, seed=seed)
            return requests + stated, at_most(MOST_TO_KEEP, stay, rng) + prompts
        return requests, at_most(MOST_TO_KEEP, stay, rng)
    read, rejected = read_requests(data, chat=chat)
    left_out(rejected)
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
