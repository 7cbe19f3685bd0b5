"""What `mendflow up` was last told, so that it goes on with it when it is told less."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.parts import Serving
from tasks.records import UserError

TOLD_FILE = "told.json"


class Told(BaseModel):
    """The options of a call; paths in it are the same from any folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    deployments: Path | None = None
    given: dict[str, Any] = {}
    ports: dict[str, int] = {}
    serving: Serving | None = None

    def and_now(self, now: Told) -> Told:
        """What holds if it is told this next: what it was told before too, unless the model is named."""
        if now.model:
            return now
        return Told(
            model=self.model,
            deployments=now.deployments or self.deployments,
            given=self.given | now.given,
            ports=self.ports | now.ports,
            serving=now.serving or self.serving,
        )

    def left_out(self, now: Told) -> list[str]:
        """What was told of the same model's runs before, and is told no more: a sentence each."""
        if self.model != now.model:
            return []
        left = [
            f"{name}: {value} is told no more: runs have it as the deployments file says"
            for name, value in self.given.items()
            if name not in now.given
        ]
        if self.deployments and not now.deployments:
            left.append(f"--deployments {self.deployments} is told no more: mendflow's own are registered")
        return left

    def words(self) -> str:
        """The options as a person reads them."""
        told = [f"--model {self.model}"] if self.model else []
        told += [f"--deployments {self.deployments}"] if self.deployments else []
        told += [f"{name}: {value}" for name, value in self.given.items()]
        if self.serving:
            shares = (f"{self.serving.shadow:.0%} in shadow", f"{self.serving.canary:.0%} as canary")
            told.append(f"served on port {self.serving.port}, {', '.join(shares)}")
        return ", ".join(told)


def last_told(folder: Path) -> Told:
    """What was written into the folder; an empty one if nothing was.

    Raises:
        UserError: it cannot be read.
    """
    file = folder / TOLD_FILE
    try:
        return Told.model_validate_json(file.read_text())
    except FileNotFoundError:
        return Told()
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"{file} does not say what `mendflow up` was last told ({why}); remove it, and name the "
            "model and all settings of its runs again"
        ) from error


def remember(folder: Path, told: Told) -> None:
    """Write it down for the next time."""
    unfinished = folder / f"new-{TOLD_FILE}"
    unfinished.write_text(told.model_dump_json(indent=2))
    os.replace(unfinished, folder / TOLD_FILE)
