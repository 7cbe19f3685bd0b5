"""What an editor practises on inside a correction run: the traffic, and more of its kind."""

from __future__ import annotations

from editors.protocol import Progress
from editors.requests import EditRequest
from tasks.models import ModelFolder, load
from tasks.own_prompts import prompts_like
from tasks.placement import PLACEMENT, Placement
from tasks.prompt_check import PromptCheck, askable_prompts
from tasks.records import TrafficRecord
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
    return corrections_from_traffic(records, limit=limit, seed=seed)
