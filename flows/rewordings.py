"""Rewordings that a language model writes: who writes them, and what is kept of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flows.console import ReportProgress
from flows.settings import CorrectSettings
from flows.stages import OPEN, Champion
from tasks.ask import greedy_answers
from tasks.embedding import Embed
from tasks.models import resolve
from tasks.prompt_check import PromptCheck
from tasks.records import Correction
from tasks.rephrase import Phrasing
from tasks.reword import LONGEST, Answer, keep_meaning, propose


class Rewordings:
    """Rewordings that a language model writes: once in a run, whatever parts of the batch are solved."""

    def __init__(self) -> None:
        self._written: dict[str, list[Phrasing]] = {}

    def of(
        self,
        settings: CorrectSettings,
        champion: Champion,
        corrections: Sequence[Correction],
        embed: Embed,
        answer: Answer,
        progress: ReportProgress,
    ) -> dict[str, list[Phrasing]]:
        """By correction id, the rewordings that the rewriter wrote and the filter kept.

        Raises:
            UserError: there is no such rewriter, or it cannot be loaded.
        """
        edited = [c for c in corrections if c.state in OPEN and c.desired_output]
        new = [c for c in edited if c.id not in self._written]
        if new:
            generate = _rewriter(settings, champion, progress)
            proposed: dict[str, list[Phrasing]] = {}
            for chat in (True, False):
                asked = [c for c in new if c.chat is chat]
                found = propose([c.prompt for c in asked], generate, chat=chat)
                proposed.update({c.id: phrasings for c, phrasings in zip(asked, found, strict=True)})
            self._written |= keep_meaning(new, proposed, embed, answer)
        return {c.id: self._written[c.id] for c in edited}


def _rewriter(
    settings: CorrectSettings, champion: Champion, progress: ReportProgress
) -> Callable[[list[str]], list[str]]:
    """What goes on with texts: the model that the settings name, else the champion; "" for one too long."""
    named = settings.rewriter
    folder = resolve(named, cache=settings.home / "models") if named else champion.folder
    check = PromptCheck.of(folder)

    def generate(texts: list[str]) -> list[str]:
        return greedy_answers(
            folder,
            check,
            texts,
            chat=False,
            max_new_tokens=LONGEST,
            progress=lambda done, total: progress(done, total, "rewording"),
        )

    return generate
