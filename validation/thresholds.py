"""The thresholds file: one gate a metric, versioned, and refused where it would not gate what it says."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from validation.metric_definitions import DEFINITIONS, DELTA_NORM, TEACHER_FORCED, Direction
from validation.metrics import Metric, Severity

NOTHING = "has nothing to ask"


class ChampionUnknownError(ValueError):
    """A bound is relative to the champion, whose value was not measured."""


# Settings of a gate that earlier versions did not have, or always had; each says nothing where it is empty.
_SAID_LATER = frozenset({"applies_from", "function", "task", "chat"})


class Gate(BaseModel):
    """What one metric has to satisfy."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min: float | None = Field(default=None, description="least value that passes")
    max: float | None = Field(default=None, description="greatest value that passes")
    max_worse_than_champion: float | None = Field(
        default=None, ge=0, description="how far behind the champion's value on the same rows still passes"
    )
    minimum_n: int = Field(ge=1, description="observations below which the metric decides nothing")
    severity: Severity = Field(description="critical refuses the candidate, warning is shown")
    may_be_empty: bool = Field(
        default=False, description="not applicable, instead of insufficient, where no rows were to be asked"
    )

    applies_from: int = Field(
        default=0,
        ge=0,
        description="observations below which the gate does not apply, instead of being insufficient",
    )

    @model_validator(mode="after")
    def _bounds_something(self) -> Gate:
        if self.min is None and self.max is None and self.max_worse_than_champion is None:
            raise ValueError("a gate needs min, max or max_worse_than_champion")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}: nothing can pass")
        return self

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As files and digests were before a gate could say more, where it says no more."""
        dumped: dict[str, Any] = dump(self)
        return {name: value for name, value in dumped.items() if value or name not in _SAID_LATER}

    def bounds(self, metric: Metric) -> tuple[float | None, float | None]:
        """(least, greatest) value that passes for this metric, absolute and relative bounds combined.

        Raises:
            ChampionUnknownError: the bound is relative and the champion's value is not known.
        """
        least, greatest = self.min, self.max
        if self.max_worse_than_champion is not None:
            if metric.champion is None:
                raise ChampionUnknownError(f"the champion's {metric.name} is not known; measure it too")
            # Rounded, so that 0.97 - 0.05 is the 0.92 that a reader of the file expects.
            if metric.direction == "higher":
                relative = round(metric.champion - self.max_worse_than_champion, 12)
                least = relative if least is None else max(least, relative)
            else:
                relative = round(metric.champion + self.max_worse_than_champion, 12)
                greatest = relative if greatest is None else min(greatest, relative)
        return least, greatest


class OwnGate(Gate):
    """A gate over what a function of the user's gives, or the share of a task's rows that are right."""

    function: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$",
        description="`module:function`; the module is a file beside the gate file, or installed",
    )
    task: str | None = Field(
        default=None,
        pattern=r"^\w[\w.-]*(/\w[\w.-]*)*\.ya?ml$",
        description="a task file of the lm-evaluation-harness, beside the gate file or in a folder there",
    )
    chat: bool = Field(default=False, description="whether a task's prompts are chat turns, else raw text")
    better: Direction = Field(description="which way is better")
    minimum_n: int = Field(default=1, ge=1, description="values below which the gate decides nothing")
    severity: Severity = Field(default=Severity.CRITICAL, description="critical refuses the candidate")
    may_be_empty: Literal[False] = Field(default=False, description="no values are never a pass")
    applies_from: Literal[0] = Field(default=0, description="few values are never a pass")

    @model_validator(mode="after")
    def _one_source(self) -> OwnGate:
        if (self.function is None) is (self.task is None):
            raise ValueError("a gate of your own has either function or task")
        if self.chat and self.task is None:
            raise ValueError("chat belongs to a task; a function says chat=True where it asks the model")
        return self


class GateFile(BaseModel):
    """All gates of a validation, with the version of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=1, description="raised on any change, and written into every verdict")
    gates: dict[str, Gate] = Field(min_length=1, description="metric name to gate")
    own: dict[str, OwnGate] = Field(default={}, description="the user's own, by the name of their metric")
    machine_answered: Literal["hold", "promote"] = Field(
        default="hold",
        description="whether new corrections that a program answered wait for a person once the gates pass",
    )

    @field_validator("gates")
    @classmethod
    def _gate_metrics(cls, gates: dict[str, Gate]) -> dict[str, Gate]:
        for name, gate in gates.items():
            if name not in DEFINITIONS:
                near = difflib.get_close_matches(name, DEFINITIONS, n=1)
                raise ValueError(
                    f"no metric is called {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                )
            if name == TEACHER_FORCED:
                raise ValueError(f"{name} is a diagnostic: teacher forcing overstates what users see")
            _check_guards(name, gate, DEFINITIONS[name].direction)
        if not any(gate.severity is Severity.CRITICAL for gate in gates.values()):
            raise ValueError("no gate is critical, so nothing would ever be refused")
        return gates

    @field_validator("own")
    @classmethod
    def _own_metrics(cls, own: dict[str, OwnGate]) -> dict[str, OwnGate]:
        for name, gate in own.items():
            if name in DEFINITIONS or not re.fullmatch(r"[A-Za-z_]\w*", name):
                why = "one of mendflow's" if name in DEFINITIONS else "no plain word"
                raise ValueError(f"the name {name!r} is {why}; give your metric another one")
            _check_guards(name, gate, gate.better)
        return own

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As files and verdicts were before they could say more, where they say no more."""
        dumped: dict[str, Any] = dump(self)
        if not self.own:
            dumped.pop("own", None)
        if self.machine_answered == "hold":
            dumped.pop("machine_answered", None)
        return dumped

    def digest(self) -> str:
        """SHA-256 over the version and every gate; comments and order do not count."""
        every = [*self.gates.items(), *self.own.items()]
        gates = sorted(f"{name}:{gate.model_dump_json()}" for name, gate in every)
        more = [] if self.machine_answered == "hold" else [f"machine_answered:{self.machine_answered}"]
        return hashlib.sha256("\n".join([str(self.version), *gates, *more]).encode()).hexdigest()


def _check_guards(name: str, gate: Gate, better: Direction) -> None:
    good, bad = ("min", "max") if better == "higher" else ("max", "min")
    if getattr(gate, bad) is not None and getattr(gate, good) is None:
        raise ValueError(f"of {name}, {good} is the bound that guards: better is {better}")


def not_applicable(metric: Metric, gate: Gate, asked: int | None = None) -> str:
    """Why a gate does not apply to what was measured, to be said of the metric; empty where it does.

    Args:
        metric: as measured.
        gate: its gate.
        asked: how many rows were to be asked for it; None where it rests on no rows of its own.
    """
    if metric.name == DELTA_NORM and metric.n == 0:
        return "says nothing: all that changed are new neurons, whose size does not tell what they do"
    if metric.n < gate.applies_from:
        return "has too few observations to be one" if metric.n else NOTHING
    return NOTHING if gate.may_be_empty and metric.n == asked == 0 else ""


class GateFileError(ValueError):
    """A thresholds file that cannot be used; the message names the key and what is wrong with it."""


def load_gates(path: Path | None = None) -> GateFile:
    """Read a thresholds file, or the one that comes with mendflow.

    Raises:
        GateFileError: unreadable, no text, not YAML, an unknown key or metric, or a gate that cannot refuse.
    """
    name = "validation/gates.yaml" if path is None else str(path)
    try:
        text = (files("validation") / "gates.yaml" if path is None else path).read_text(encoding="utf-8")
        return GateFile.model_validate(yaml.safe_load(text))
    except OSError as error:
        raise GateFileError(f"the gates file {name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise GateFileError(f"the gates file {name} is not text in UTF-8; save it as such") from error
    except yaml.YAMLError as error:
        raise GateFileError(f"the gates file {name} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        raise GateFileError(f"the gates file {name} is refused at {where}: {message}") from error


def write_gates(gates: GateFile, path: Path) -> None:
    """Write what `load_gates` reads as a gate file with the same digest."""
    text = yaml.safe_dump(gates.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    path.write_text(text, encoding="utf-8")


def describe(value: float) -> str:
    """A figure as the sentences of a verdict write it."""
    return "not a number" if math.isnan(value) else f"{value:.4g}".replace("inf", "infinite")
