"""What an editor practises on inside a correction run: the traffic and more of its kind, or a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from editors.protocol import Progress
from editors.requests import EditRequest
from tasks.formats import read_requests
from tasks.models import ModelFolder, load
from tasks.neighbours import restated
from tasks.own_prompts import prompts_like
from tasks.placement import PLACEMENT, Placement
from tasks.prompt_check import PromptCheck, askable_prompts
from tasks.records import CannotEditError, Rejected, TrafficRecord
from tasks.rephrase import wording
from tasks.roles import Learnable
from tasks.train import answers_to_keep
from tasks.training_data import corrections_from_traffic

# Different prompts that a training wants; the model writes what the traffic lacks.
ENOUGH = 240
# Corrections, and prompts that must stay, below which nothing is trained.
LEAST_TO_TRAIN_ON = 12


def practice_from_traffic(
    base: ModelFolder,
    learnable: Learnable,
    *,
    chat: bool,
    seed: int,
    limit: int = ENOUGH,
    at: Placement = PLACEMENT,
    progress: Progress,
) -> tuple[list[EditRequest], list[str]]:
    """Corrections to practise on, `limit` at most, and prompts that must stay, from unlabelled traffic alone.

    Raises:
        UserError: the model cannot be loaded, or cannot be asked.
    """
    records = list(learnable.traffic)
    prompts = list(dict.fromkeys(record.prompt for record in records if record.chat == chat))
    if prompts and len(prompts) < ENOUGH:
        model, tokenizer = load(base, at.dtype, at.device)
        written = prompts_like(
            model,
            tokenizer,
            prompts,
            ENOUGH - len(prompts),
            barred=learnable.asked,
            restating=learnable.corrected,
            seed=seed,
            progress=progress,
        )
        written, _ = askable_prompts(written, PromptCheck.of(base), "", chat=chat)
        answered = answers_to_keep(model, tokenizer, written, chat=chat, progress=progress)
        records += [TrafficRecord(prompt=k.prompt, output=k.answer.strip(), chat=chat) for k in answered]
    return corrections_from_traffic(records, limit=limit, seed=seed, withheld=learnable.asked)


def practice_from_file(
    path: Path, learnable: Learnable, *, chat: bool, left_out: Callable[[Iterable[Rejected]], None]
) -> tuple[list[EditRequest], list[str]]:
    """Corrections of a file and the prompts it says must stay, without what gates or corrections ask.

    `left_out` is told which rows cannot be read, and how many ask what no editor may practise on.

    Raises:
        CannotEditError: nothing to practise on is left of it.
        UserError: the file cannot be read.
    """
    read, rejected = read_requests(path, chat=chat)
    left_out(rejected)
    withheld = learnable.withheld

    # Once for all of them: it goes through every correction.
    asked = list(dict.fromkeys(p for request in read for p in (request.prompt, *request.locality)))
    again = restated(learnable.corrected, asked)
    free = {p for i, p in enumerate(asked) if i not in again and wording(p) not in withheld}
    requests = [
        replace(
            request,
            equivalents=tuple(text for text in request.equivalents if wording(text) not in withheld),
            locality=tuple(prompt for prompt in request.locality if prompt in free),
        )
        for request in read
        if request.prompt in free
    ]
    if len(requests) < len(read):
        reason = f"{len(read) - len(requests)} of {len(read)} rows ask what the gates or corrections ask"
        left_out([Rejected(source=path.name, reason=f"{reason}, which no editor may have practised on")])
        if not requests:
            raise CannotEditError(f"{path} has nothing to train on: {reason}; add others to it")
    return requests, [prompt for request in requests for prompt in request.locality]
