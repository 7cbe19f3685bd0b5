"""Answers given in front of a model: exact match of a normalised prompt, with expiry and deletion.

Nothing here needs a model. It is for what must be right at once or word for word, or only for a while.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

OVERRIDES_FILE = "overrides.json"
_FORMAT = 1


def normalise_prompt(prompt: str) -> str:
    """The form under which two prompts are the same: NFKC, case-folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


@dataclass(frozen=True)
class Override:
    """One prompt, the answer it gets, the correction that says so, and until when (None: for good).

    Raises:
        ValueError: the expiry has no time zone, or the prompt has no content.
    """

    prompt: str
    answer: str
    correction_id: str
    chat: bool = True
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not normalise_prompt(self.prompt):
            raise ValueError(f"the override of correction {self.correction_id} has an empty prompt")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError(
                f"the override of {self.prompt!r} expires at {self.expires_at}, in no time zone; give one"
            )

    def holds(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


class Overrides:
    """Overrides by prompt; where several match, the one added last that has not expired."""

    def __init__(self, entries: Iterable[Override] = ()) -> None:
        self._by_prompt: dict[tuple[bool, str], list[Override]] = {}
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self.entries())

    def entries(self) -> list[Override]:
        """All of them, expired ones too."""
        return [entry for entries in self._by_prompt.values() for entry in entries]

    def add(self, entry: Override) -> None:
        """Add one; it takes the place of an earlier one of the same correction for the same prompt."""
        entries = self._by_prompt.setdefault((entry.chat, normalise_prompt(entry.prompt)), [])
        entries[:] = [e for e in entries if e.correction_id != entry.correction_id]
        entries.append(entry)

    def lookup(self, prompt: str, *, chat: bool, now: datetime | None = None) -> Override | None:
        """The override that answers a prompt at `now` (by default this moment), if any does."""
        moment = now or datetime.now(UTC)
        matching = self._by_prompt.get((chat, normalise_prompt(prompt)), [])
        return next((entry for entry in reversed(matching) if entry.holds(moment)), None)

    def answer(
        self, prompts: Sequence[str], generate: Callable[[list[str]], list[str]], *, chat: bool
    ) -> list[str]:
        """Answers to all prompts: overrides for those that have one, `generate` for the rest together."""
        found = [self.lookup(prompt, chat=chat) for prompt in prompts]
        rest = [prompt for prompt, override in zip(prompts, found, strict=True) if override is None]
        generated = iter(generate(rest) if rest else [])
        return [next(generated) if override is None else override.answer for override in found]

    def delete(self, correction_id: str) -> int:
        """Delete all overrides of one correction; how many there were.

        Raises:
            ValueError: there are none.
        """
        before = len(self)
        for key, entries in list(self._by_prompt.items()):
            left = [entry for entry in entries if entry.correction_id != correction_id]
            if left:
                self._by_prompt[key] = left
            else:
                del self._by_prompt[key]
        if len(self) == before:
            raise ValueError(f"there is no override of a correction {correction_id!r}; see the entries")
        return before - len(self)

    def to_json(self) -> list[dict[str, Any]]:
        """Plain JSON values, in the order of addition for each prompt."""
        return [
            {**asdict(entry), "expires_at": entry.expires_at and entry.expires_at.isoformat()}
            for entry in self.entries()
        ]

    @classmethod
    def from_json(cls, values: Sequence[dict[str, Any]]) -> Overrides:
        """What `to_json` gave.

        Raises:
            ValueError: a value is not that of an override.
        """
        result = cls()
        for number, value in enumerate(values, 1):
            try:
                expires = value["expires_at"]
                moment = None if expires is None else datetime.fromisoformat(expires)
                result.add(Override(**{**value, "expires_at": moment}))
            except (TypeError, KeyError, AttributeError, ValueError) as error:
                raise ValueError(f"override {number} is not one that mendflow wrote: {error}") from error
        return result

    def save(self, path: Path) -> None:
        """Write a JSON file, at once or not at all."""
        written = path.with_name(f"{path.name}.new")
        text = json.dumps({"format": _FORMAT, "overrides": self.to_json()}, indent=2, ensure_ascii=False)
        written.write_text(text + "\n", encoding="utf-8")
        os.replace(written, path)

    @classmethod
    def load(cls, path: Path) -> Overrides:
        """Read a file written by `save`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}); write the overrides again") from error
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise ValueError(f"{path} does not hold overrides in format {_FORMAT}")
        try:
            return cls.from_json(about["overrides"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
