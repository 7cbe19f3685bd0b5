"""The records that stages hand to each other: an error report, a correction, and their states."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

# Two prompts that are the same complaint are the same to an override.
from editors.overrides import normalise_prompt as normalise_prompt


class State(StrEnum):
    """Where a correction stands. Every change of state is a row in the ledger, never an overwrite."""

    REPORTED = "reported"
    ACCEPTED = "accepted"
    ACTIVE = "active"
    RETIRED = "retired"
    DUPLICATE = "duplicate"
    CONFLICTING = "conflicting"
    ALREADY_CORRECT = "already_correct"
    NEEDS_ANSWER = "needs_answer"
    QUARANTINED = "quarantined"
    FAILED = "failed"


def _now() -> datetime:
    return datetime.now(UTC)


class ErrorReport(BaseModel):
    """One flagged production error: what was asked, what came back, what was wanted, who says so.

    Deliberately permissive about content: a bad report is quarantined with its reason, never refused at the
    door, so that nothing is lost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(description="what the model was asked")
    wrong_output: str = Field(default="", description="what it answered")
    desired_output: str | None = Field(default=None, description="what it should have answered, if known")
    answerer: str = Field(
        default="", description="the program that gave the desired output; empty where a person did"
    )
    source: str = Field(description="trace id, or file and line, or row key: where the report came from")
    reporter: str = Field(default="unknown")
    reported_at: datetime = Field(default_factory=_now)
    model_name: str = Field(description="registered model name")
    model_version: str = Field(default="")
    chat: bool = Field(default=True, description="a chat turn; false for raw text")
    subject: str | None = None
    severity: str = "normal"
    suppress: bool = Field(
        default=False, description="the wrong output is offensive or private and must never appear again"
    )
    equivalents: tuple[str, ...] = Field(default=(), description="other phrasings the reporter gave")
    locality: tuple[str, ...] = Field(default=(), description="prompts the reporter says must not change")


class Correction(BaseModel):
    """A deduplicated report in the ledger; `id` digests task, normalised prompt and desired output."""

    model_config = ConfigDict(frozen=True)

    id: str
    model_name: str
    prompt: str
    wrong_output: str
    desired_output: str | None
    chat: bool
    subject: str | None = None
    severity: str = "normal"
    equivalents: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()
    refused: tuple[str, ...] = Field(
        default=(), description="rewordings that a reviewer says mean something else"
    )
    state: State
    reason: str = ""
    reports: int = Field(default=1, description="how many times the same complaint came in")
    sources: tuple[str, ...] = ()
    reporters: tuple[str, ...] = ()
    approved_at: datetime | None = Field(default=None, description="when a named person chose it")
    answerer: str = Field(
        default="", description="the program that gave the desired output, where no person has vouched for it"
    )
    answered: bool = Field(
        default=False, description="a person who did not report it gave its desired output"
    )
    suppressed: tuple[str, ...] = Field(default=(), description="outputs that must never appear again")
    first_reported_at: datetime
    model_version: str = ""


class TrafficRecord(BaseModel):
    """One production request that nobody flagged: material for locality and for replay."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    output: str
    chat: bool = True
    confirmed: bool = Field(default=False, description="a user or a check said the answer was right")
    gold: str | None = Field(default=None, description="what a right answer has to say, if a user told")
    model_version: str = Field(default="", description="the version that answered, if it is known")
    greedy: bool = Field(default=True, description="no answer was drawn by lot")
    whole: bool = Field(default=True, description="the answer came to its natural end")
    source: str = ""


def correction_id(prompt: str, desired_output: str | None, *, chat: bool) -> str:
    """Identity of a correction: SHA-256 of task, normalised prompt and desired output (16 hex digits)."""
    task = "chat" if chat else "text"
    parts = [task, normalise_prompt(prompt)]
    if desired_output is not None:  # wanting an answer that is not known differs from wanting an empty one
        parts.append(" ".join(desired_output.split()))
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


class UserError(ValueError):
    """A mistake the user can mend; the message names the item and the remedy, and no traceback is shown."""


class StoreFailedError(UserError):
    """A store cannot be used just now: nothing is known of what it holds, and nothing may be concluded."""


class CannotEditError(UserError):
    """A method cannot edit this base with these corrections; another one may."""


class Rejected(BaseModel):
    """Something collected that cannot even be read as a report: where it is, and why with the remedy."""

    model_config = ConfigDict(frozen=True)

    source: str
    reason: str


class Collected(BaseModel):
    """What a source of production data holds: flagged errors, unflagged traffic, and what is unreadable."""

    model_config = ConfigDict(frozen=True)

    reports: list[ErrorReport] = Field(default_factory=list)
    traffic: list[TrafficRecord] = Field(default_factory=list)
    rejected: list[Rejected] = Field(default_factory=list)
