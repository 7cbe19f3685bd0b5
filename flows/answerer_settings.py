"""Who answers reports that came without an answer: what a user may set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableSettings(_Settings):
    """A file of prompts and right answers."""

    kind: Literal["table"] = "table"
    file: Path = Field(description=".jsonl, .csv or .parquet with the columns prompt and target")


class FunctionSettings(_Settings):
    """A Python function: reports in, one answer (or None) each out."""

    kind: Literal["function"] = "function"
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="`module:function`")
    folder: Path = Field(default=Path(), description="where the module is looked for first")


class ModelSettings(_Settings):
    """A language model: a majority over samples, where enough of them agree."""

    kind: Literal["model"] = "model"
    model: str = Field(min_length=1, description="a model, any reference; one larger than the corrected one")
    samples: int = Field(default=9, ge=3, le=101, description="answers sampled for each report")
    # Above a half, so that no other answer can have as many.
    agreement: float = Field(default=0.7, gt=0.5, le=1, description="share of the samples that has to agree")
    temperature: float = Field(default=0.7, gt=0, le=2, description="of the samples")
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto for CUDA where there is one")


_SHORT = {"table": "file", "function": "function", "model": "model"}
_FORMS = "table:FILE, function:MODULE:FUNCTION, model:REF, or {kind: model, model: REF, samples: 15, ...}"


def _read(given: Any) -> Any:
    """The long form of the one that a command line is given."""
    if not isinstance(given, str):
        return given
    if given.lstrip().startswith("{"):
        try:
            return yaml.safe_load(given)
        except yaml.YAMLError as error:
            raise ValueError(
                f"not readable ({' '.join(str(error).split())[:100]}); write {_FORMS}"
            ) from error
    kind, _, what = given.partition(":")
    if kind not in _SHORT or not what:
        raise ValueError(f"{given!r} names no answerer; write {_FORMS}")
    return {"kind": kind, _SHORT[kind]: what}


AnswererSettings = Annotated[
    Annotated[TableSettings | FunctionSettings | ModelSettings, Field(discriminator="kind")],
    BeforeValidator(_read),
]
