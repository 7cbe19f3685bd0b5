"""Answers that somebody wrote down: a file of prompts and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.answering.protocol import Answered, Progress
from tasks.records import Correction, UserError
from tasks.report_files import from_file
from validation.matching import normalise_answer

_NOT_THERE = Answered(note="the table does not have its prompt")


class LookupTable:
    """A .jsonl, .csv or .parquet file with the columns `prompt` and `target`, and `rephrases` if wanted.

    A prompt is found whatever its case, accents, articles and punctuation are.

    Raises:
        UserError: the file cannot be read, or one of its rows.
    """

    repeats = False

    def __init__(self, file: Path) -> None:
        self.name = f"table {file.name}"
        # As what its prompts were asked plays no part.
        table = from_file(file, "table", chat=True)
        if table.rejected:
            first = table.rejected[0]
            raise UserError(f"the table of answers has a bad row, {first.source}: {first.reason}")
        self._answers: dict[str, set[str]] = {}
        for row in table.reports:
            for prompt in (row.prompt, *row.equivalents):
                if row.desired_output and row.desired_output.strip():
                    self._answers.setdefault(_key(prompt), set()).add(row.desired_output.strip())

    def answer(self, waiting: Sequence[Correction], progress: Progress) -> list[Answered]:  # noqa: ARG002
        """What the table has for each prompt; nothing where it has several answers."""
        return [self._looked_up(one.prompt) for one in waiting]

    def _looked_up(self, prompt: str) -> Answered:
        found = self._answers.get(_key(prompt), set())
        if len(found) == 1:
            return Answered(*found)
        return Answered(note=f"the table has {len(found)} answers to its prompt") if found else _NOT_THERE


def _key(prompt: str) -> str:
    return normalise_answer(prompt) or prompt.strip()
