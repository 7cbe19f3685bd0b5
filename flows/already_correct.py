"""The stage that asks the champion whether what was reported is an error still."""

from __future__ import annotations

from flows.console import ReportProgress
from flows.settings import CorrectSettings
from flows.stages import Champion, stage
from tasks.ledger import Ledger
from tasks.measuring import room_for
from tasks.models import load
from tasks.prompt_check import PromptCheck
from tasks.records import Correction, State, UserError


@stage
def close_already_correct(
    settings: CorrectSettings, ledger: Ledger, champion: Champion, progress: ReportProgress
) -> list[Correction]:
    """Close new corrections that the champion answers rightly; it is asked what it has not answered yet.

    What it cannot be asked at all is quarantined with the reason.

    Raises:
        UserError: prompts are to be chat turns, and the champion has no chat template.
    """
    from editors.generation import generate_greedy
    from validation.matching import matches, same_answer

    new = _askable(settings, ledger, champion)
    closed: list[Correction] = []
    # A report of the champion's own answer is as good as asking it again: it answers greedily.
    # What must never appear may hide behind a greedy answer that is right.
    open_ = [c for c in new if not c.suppressed]
    unasked = [c for c in open_ if c.model_version != champion.version or not c.wrong_output]
    if not unasked:
        return closed
    model, tokenizer = load(champion.folder)
    for chat in sorted({c.chat for c in unasked}):
        asked = [c for c in unasked if c.chat == chat]
        outputs = generate_greedy(
            model,
            tokenizer,
            [c.prompt for c in asked],
            chat=chat,
            max_new_tokens=max(room_for(tokenizer, c.desired_output or "") for c in asked),
            progress=lambda done, total: progress(done, total, "asking the champion"),
        )
        for correction, output in zip(asked, outputs, strict=True):
            wrong = correction.wrong_output or ""
            right = matches(output, correction.desired_output or "", chat=chat, wrong_output=wrong)
            # Whoever reported this very answer said that it is wrong.
            if right and not (wrong.strip() and same_answer(output, wrong)):
                closed.append(correction)
    ledger.transition(
        [c.id for c in closed],
        State.ALREADY_CORRECT,
        f"champion {champion.version} answers it rightly",
        model_name=settings.model_name,
    )
    return closed


def _askable(settings: CorrectSettings, ledger: Ledger, champion: Champion) -> list[Correction]:
    """The new corrections that the champion can be asked, once the others are quarantined."""
    new = ledger.corrections(settings.model_name, State.ACCEPTED)
    check = PromptCheck.of(champion.folder)
    if settings.chat and not check.takes_chat and any(correction.chat for correction in new):
        raise UserError(
            f"{champion.folder.ref} has no chat template, so its prompts cannot be chat turns; "
            "give them as raw text (--text, or chat = false)"
        )
    askable = []
    for correction in new:
        fault = check.fault(correction.prompt, correction.desired_output or "", chat=correction.chat)
        if fault:
            ledger.transition(correction.id, State.QUARANTINED, fault, model_name=settings.model_name)
        else:
            askable.append(correction)
    return askable
