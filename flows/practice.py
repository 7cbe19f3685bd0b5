"""What an editor practises on inside a correction run: the traffic, and more of its kind."""

from __future__ import annotations

from editors.protocol import Progress
from editors.requests import EditRequest
from tasks.models import ModelFolder, load
from tasks.own_prompts import prompts_like
from tasks.records import TrafficRecord
from tasks.roles import Learnable
from tasks.train import answers_to_keep
from tasks.training_data import corrections_from_traffic

# Different prompts that a training wants; the model writes what the traffic lacks.
ENOUGH = 240


def practice_from_traffic(
    base: ModelFolder, learnable: Learnable, *, chat: bool, seed: int, progress: Progress
) -> tuple[list[EditRequest], list[str]]:
    """Corrections to practise on and prompts whose answers must stay, from unlabelled traffic alone.

    Raises:
        UserError: the model cannot be loaded, or cannot be asked.
    """
    records = list(learnable.traffic)
    prompts = list(dict.fromkeys(record.prompt for record in records if record.chat == chat))
    if prompts and len(prompts) < ENOUGH:
        model, tokenizer = load(base)
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
        answered = answers_to_keep(model, tokenizer, written, chat=chat, progress=progress)
        records += [TrafficRecord(prompt=k.prompt, output=k.answer.strip(), chat=chat) for k in answered]
    return corrections_from_traffic(records, seed=seed)
