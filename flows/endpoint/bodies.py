"""What may be sent: every field with its bounds, and nothing else."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from tasks.records import ErrorReport
from tasks.refusals import wanted
from tasks.reporters import ModelName

# No control characters but tabs and ends of lines: no text that people see has them.
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"

Prompt = Annotated[str, Field(min_length=1, max_length=8000, pattern=_TEXT)]
Answer = Annotated[str, Field(max_length=16000, pattern=_TEXT)]
Wanted = Annotated[str, Field(min_length=1, max_length=4000, pattern=_TEXT)]
Short = Annotated[str, Field(min_length=1, max_length=255, pattern=_TEXT)]
Prompts = Annotated[tuple[Prompt, ...], Field(max_length=20)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: ModelName = Field(description="Registered model name.")
    model_version: Annotated[str, Field(max_length=64, pattern="^[0-9]*$")] = Field(
        default="", description="The version that answered, if it is known."
    )
    prompt: Prompt = Field(description="What the model was asked.")
    chat: bool = Field(default=True, description="A chat turn; false for raw text.")
    subject: Short | None = Field(default=None, description="What the prompt is about, as it stands in it.")
    rephrases: Prompts = Field(default=(), description="Other ways to ask the same.")
    locality: Prompts = Field(default=(), description="Prompts whose answers must not change.")

    def _report(
        self, output: str, wanted: str | None, *, reporter: str, source: str, suppress: bool = False
    ) -> ErrorReport:
        return ErrorReport(
            prompt=self.prompt,
            wrong_output=output,
            desired_output=wanted,
            source=source,
            reporter=reporter,
            model_name=self.model,
            model_version=self.model_version,
            chat=self.chat,
            subject=self.subject,
            suppress=suppress,
            equivalents=self.rephrases,
            locality=self.locality,
        )


class ReportBody(_Body):
    """An answer that was wrong."""

    output: Answer = Field(default="", description="What the model answered.")
    target: Wanted | None = Field(
        default=None, description="What it should have answered; null where nobody knows."
    )
    suppress: bool = Field(
        default=False,
        description="`output` must never appear again; a refusal is wanted where `target` is null.",
    )

    def report(self, *, reporter: str, source: str) -> ErrorReport:
        """What the ledger takes."""
        target = wanted(self.target, suppress=self.suppress)
        return self._report(self.output, target, reporter=reporter, source=source, suppress=self.suppress)


class EditBody(_Body):
    """An answer that a user edited where it was shown."""

    output: Answer = Field(min_length=1, description="What the model answered.")
    edited: Wanted = Field(description="The answer as the user left it.")

    @model_validator(mode="after")
    def _is_an_edit(self) -> Self:
        if self.edited.split() == self.output.split():
            raise PydanticCustomError("no_edit", "the edited answer says what the output says")
        return self

    def report(self, *, reporter: str, source: str) -> ErrorReport:
        """What the ledger takes."""
        return self._report(self.output, self.edited, reporter=reporter, source=source)


class Taken(BaseModel):
    """What became of a report."""

    correction: str = Field(description="Id of the correction that the report counts for.")
    state: str = Field(description="Where that stands, as `mendflow corrections` shows it.")


class Health(BaseModel):
    """That the endpoint runs."""

    status: str = "ok"


class Refused(BaseModel):
    """Why a request was refused, in a sentence."""

    detail: str
