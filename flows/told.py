"""What `mendflow up` was last told, so that it goes on with it when it is told less."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.parts import PORTS, SERVE, Serving
from flows.settings import HOME_VARIABLE
from tasks.records import UserError
from tasks.tracking import ROOT_VARIABLE

TOLD_FILE = "told.json"


class Told(BaseModel):
    """All that holds; paths in it are the same from any folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    deployments: Path | None = None
    given: dict[str, Any] = {}
    ports: dict[str, int] = {}
    serving: Serving | None = None
    variables: tuple[str, ...] = ()

    def words(self) -> str:
        """All of it as a person reads it."""
        told = [f"--model {self.model}"] if self.model else []
        told += [f"--deployments {self.deployments}"] if self.deployments else []
        told += [f"{name}: {value}" for name, value in self.given.items()]
        told += [f"{name} on port {port}" for name, port in self.ports.items()]
        if self.serving:
            told.append(f"served on port {self.serving.port}")
            told += [f"{self.serving.shadow:g} in shadow"] if self.serving.shadow else []
            told += [f"{self.serving.canary:g} as canary"] if self.serving.canary else []
        return ", ".join(told)


@dataclass(frozen=True)
class Telling:
    """What one call says; None and nothing where it says nothing. A model "" is none."""

    model: str | None = None
    deployments: Path | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    serve: bool = False
    serve_port: int | None = None
    shadow: float | None = None
    canary: float | None = None


def and_now(last: Told, now: Telling) -> Told:
    """What holds after a call: all that held, and what it says besides; of a model that it names, that alone.

    Ports are the machine's, whatever the model.

    Raises:
        UserError: it is about the runs, or the serving, of no model.
    """
    goes_on = now.model is None
    before = last if goes_on else Told(model=now.model or "", ports=last.ports)
    given, serving = before.given | dict(now.given), before.serving
    if now.serve or (now.serve_port, now.shadow, now.canary) != (None, None, None):
        if not now.serve and serving is None:
            raise UserError("--serve-port, --shadow and --canary are of what is served; give --serve too")
        was = serving or Serving(PORTS[SERVE])
        serving = Serving(
            was.port if now.serve_port is None else now.serve_port,
            was.shadow if now.shadow is None else now.shadow,
            was.canary if now.canary is None else now.canary,
        )
    if serving and not before.model:
        raise UserError("--serve serves the model that --model names; name one")
    if given and not before.model:
        raise UserError(f"{', '.join(given)}: settings of the model that --model names; name one")
    return Told(
        model=before.model,
        deployments=now.deployments or before.deployments,
        given=given,
        ports=before.ports | dict(now.ports),
        serving=serving,
        variables=tuple(sorted(variables(os.environ))),
    )


def told_no_more(last: Told, told: Told) -> list[str]:
    """What held and holds no more: a sentence each."""
    left = []
    if last.model == told.model:
        left += [
            f"{name}: {value} is told no more: runs have what the deployments file says"
            for name, value in last.given.items()
            if name not in told.given
        ]
    if last.deployments and not told.deployments:
        left.append(f"--deployments {last.deployments} is told no more: mendflow's own are registered")
    if last.serving and not told.serving:
        left.append(
            f"--serve is told no more: {last.model} is served until `mendflow down`, and then no more"
        )
    return left


def variables(environment: Iterable[str]) -> set[str]:
    """Those by which a user tells all parts something; the home and the model are told by options."""
    ours = {name for name in environment if name.startswith("MENDFLOW_")} | {ROOT_VARIABLE}
    return ours.intersection(environment) - {HOME_VARIABLE, "MENDFLOW_MODEL"}


def require_variables(last: Told) -> None:
    """Refuse to go on where a part would be started without what it was told by a variable.

    Raises:
        UserError: a variable is not set any more.
    """
    missing = sorted(set(last.variables) - variables(os.environ))
    if missing:
        raise UserError(
            f"{', '.join(missing)}: set when `mendflow up` was last given, and not now; set it again, or "
            "name --model, and all else that it is to be told"
        )


def last_told(folder: Path) -> Told:
    """What was written into the folder; nothing if it holds none.

    Raises:
        UserError: it cannot be read.
    """
    file = folder / TOLD_FILE
    try:
        return Told.model_validate_json(file.read_text())
    except FileNotFoundError:
        return Told()
    except ValidationError as error:
        unusable = ", ".join(".".join(map(str, fault["loc"])) or fault["msg"] for fault in error.errors())
        raise _unreadable(file, unusable) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, type(error).__name__) from error


def _unreadable(file: Path, why: str) -> UserError:
    return UserError(
        f"{file} does not say what `mendflow up` was last told ({why}); name --model, and all else that it "
        "is to be told"
    )


def remember(folder: Path, told: Told) -> None:
    """Write it down for the next time."""
    unfinished = folder / f"new-{TOLD_FILE}"
    unfinished.write_text(told.model_dump_json(indent=2))
    os.replace(unfinished, folder / TOLD_FILE)
