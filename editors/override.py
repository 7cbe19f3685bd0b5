"""Override as an editor: exact answers in front of the model, which itself is not changed.

The delta has no shifts; its manifest holds the answers, and whoever serves the version gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from editors.delta import OVERRIDES, Delta
from editors.overrides import Override, Overrides
from editors.protocol import Kept, Progress, WeightlessEditor, no_progress, provenance
from editors.requests import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class OverrideConfig:
    """Until when the answers hold: an ISO 8601 instant with its offset from UTC, or None for good."""

    expires_at: str | None = None


class OverrideEditor(WeightlessEditor):
    """The editor; it has no weights, and gives the model none."""

    name = "override"

    def __init__(self, config: OverrideConfig | None = None) -> None:
        self.config = config or OverrideConfig()

    def edit(
        self,
        model: PreTrainedModel,  # noqa: ARG002
        tokenizer: PreTrainedTokenizerBase,  # noqa: ARG002
        requests: Sequence[EditRequest],
        keep: Sequence[Kept] = (),  # noqa: ARG002
        *,
        progress: Progress = no_progress,
    ) -> Delta:
        """A delta without shifts, with the answer to every prompt and equivalent in its manifest.

        Raises:
            ValueError: two requests give one prompt different answers, or the expiry is not an instant.
        """
        expires = self.config.expires_at and datetime.fromisoformat(self.config.expires_at)
        overrides = Overrides()
        for done, request in enumerate(requests, 1):
            for prompt in (request.prompt, *request.equivalents):
                there = overrides.lookup(prompt, chat=request.chat)
                if there is not None and there.answer != request.target:
                    raise ValueError(
                        f"{there.correction_id} and {request.id} give {prompt!r} different answers; keep one"
                    )
                overrides.add(Override(prompt, request.target, request.id, request.chat, expires or None))
            progress(done, len(requests), "overridden")
        return Delta({}, {**provenance(self), OVERRIDES: overrides.to_json()})
