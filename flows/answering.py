"""The answer stage: reports that came without an answer are put to the answerer that the user configured."""

from __future__ import annotations

from dataclasses import dataclass

from flows.answerer_settings import FunctionSettings, TableSettings
from flows.console import ReportProgress
from flows.settings import CorrectSettings
from flows.stages import stage
from tasks.answering.function import UserFunction
from tasks.answering.model import MajorityOfModel
from tasks.answering.protocol import Answered, Answerer
from tasks.answering.table import LookupTable
from tasks.ledger import Ledger
from tasks.records import Correction, State, StoreFailedError, UserError
from validation.matching import answers


@dataclass(frozen=True)
class AnswerCounts:
    """How many reports were put to the answerer, and how many of its answers were taken."""

    asked: int
    taken: int


def open_answerer(settings: CorrectSettings) -> Answerer | None:
    """The answerer that the settings name, if they do; a model is not loaded before it is asked.

    Raises:
        UserError: its file or function cannot be used.
    """
    named = settings.answerer
    if named is None:
        return None
    if isinstance(named, TableSettings):
        return LookupTable(named.file)
    if isinstance(named, FunctionSettings):
        return UserFunction(named.function, named.folder)
    return MajorityOfModel(
        named.model,
        samples=named.samples,
        agreement=named.agreement,
        temperature=named.temperature,
        device=named.device,
        cache=settings.home / "models",
    )


@stage
def answer_waiting(
    settings: CorrectSettings, ledger: Ledger, answerer: Answerer, progress: ReportProgress
) -> AnswerCounts:
    """Give the reports that wait as `needs_answer` the answerer's answers, each marked as its.

    What it has no answer to goes on waiting, with the reason. So does what a person has said the answer to,
    in another report of the same prompt, and what would be answered with the output that was reported.

    Raises:
        UserError: the answerer cannot be asked at all.
    """
    name = settings.model_name
    none = f"{answerer.name} gave no answer: "
    waiting = [
        one
        for one in ledger.corrections(name, State.NEEDS_ANSWER)
        if not (answerer.repeats and one.reason.startswith(none))
    ]
    if not waiting:
        return AnswerCounts(0, 0)
    reasons: dict[str, str] = {}
    for one, given in zip(waiting, answerer.answer(waiting, progress), strict=True):
        why = _why_not(one, given)
        if not why:
            try:
                ledger.answer(
                    one.id, given.text, answerer.name, program=True, note=given.note, model_name=name
                )
            except StoreFailedError:
                raise
            except UserError as error:
                why = str(error)
        if why:
            reasons[one.id] = none + why
    ledger.still_waiting(reasons, model_name=name)
    return AnswerCounts(len(waiting), len(waiting) - len(reasons))


def _why_not(report: Correction, given: Answered) -> str:
    if not given.text:
        return given.note or "it has none"
    if report.wrong_output.strip() and answers(report.wrong_output, given.text):
        return "what it answers is what was reported as wrong"
    return ""
