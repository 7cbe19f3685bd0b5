"""Trying the candidate beside the champion while it serves: in shadow, as a canary, or both."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.live_answer import Answer, Asked, Turns
from tasks.live_canary import Canary
from tasks.live_candidate import Candidate, Trial
from tasks.live_shadow import Shadow
from tasks.live_version import LiveVersion, told

_log = logging.getLogger("mendflow.serve")
_LONGEST_STOP = 30.0


@dataclass(frozen=True)
class Dealt:
    """Which version answers a request, in which trial, if in any, and what its trace says of it."""

    version: LiveVersion
    trial: Trial | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def to_canary(self) -> bool:
        """Whether the candidate answers."""
        return self.trial is not None and self.version is self.trial.version


class Rollout:
    """Follows the candidate in a thread of its own, so that no champion waits for it."""

    def __init__(
        self,
        candidate: Candidate,
        *,
        shadow: Shadow | None,
        canary: Canary | None,
        poll_seconds: float,
        report_seconds: float,
    ) -> None:
        self.candidate, self.shadow, self.canary = candidate, shadow, canary
        self._faults: dict[str, str] = {}
        self._poll, self._report = poll_seconds, report_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mendflow-candidate", daemon=True)

    def start(self) -> None:
        """Begin to follow the candidate."""
        if self.shadow is not None:
            self.shadow.start()
        self._thread.start()

    def stop(self) -> None:
        """End, and log what was compared; a store that hangs is not waited for."""
        self._stop.set()
        if self.shadow is not None:
            self.shadow.stop()
        self._thread.join(_LONGEST_STOP)

    def deal(self, champion: LiveVersion, user: str, trace_id: str) -> Dealt:
        """Who answers a request of this user ("" for nobody in particular)."""
        trial = self.candidate.of(champion)
        if trial is None:
            return Dealt(champion)
        if self.canary is None:
            return Dealt(champion, trial)
        # Both arms' traces are marked, or neither.
        tags = self.canary.tags(trial, user)
        taken = bool(tags) and self.canary.takes(trial, user, trace_id)
        return Dealt(trial.version if taken else champion, trial, tags)

    def failed(self, dealt: Dealt, error: Exception) -> None:
        """The canary failed to answer."""
        if self.canary is not None and dealt.trial is not None:
            self.canary.failed(dealt.trial, error)

    def answered(self, dealt: Dealt, answer: Answer) -> None:
        """The champion's answer was sent; the candidate may be asked now."""
        if self.shadow is not None and dealt.trial is not None and answer.version is not dealt.trial.version:
            self.shadow.offer(dealt.trial, answer)

    def look(self) -> None:
        """Look up the candidate, and leave word of a canary that was withdrawn."""
        self._each(
            "the candidate is not followed, or its withdrawal not told",
            self.candidate.look,
            *([self.canary.carry_out] if self.canary else []),
        )

    def report(self) -> None:
        """Read the feedback, and log what was compared."""
        trial = self.candidate.current
        steps: list[Callable[[], object]] = [self.shadow.write] if self.shadow else []
        if self.canary is not None and trial is not None and not self.canary.is_out(trial):
            canary = self.canary
            steps += [lambda: canary.judge(trial), canary.carry_out]
        self._each("feedback is not read, or what was compared is not logged", *steps)

    def health(self) -> dict[str, Any]:
        """What is tried now, what is to be as soon as a version waits, and what hinders it."""
        trial, fault = self.candidate.current, self.candidate.fault
        canary = self.canary is not None and trial is not None and not self.canary.is_out(trial)
        return {
            "version": trial and trial.version.number,
            "shadow": self.shadow.share if self.shadow and trial else 0.0,
            "compared": self.shadow.compared if self.shadow else 0,
            "canary": self.canary.share if self.canary and canary else 0.0,
            "asked": {
                "shadow": self.shadow.share if self.shadow else 0.0,
                "canary": self.canary.share if self.canary else 0.0,
            },
            "fault": fault.reason if fault else next(iter(self._faults.values()), None),
        }

    def _each(self, what: str, *steps: Callable[[], object]) -> None:
        """Do every step, whichever fails; a failure is kept, and logged once as long as it is the same."""
        faults = []
        for step in steps:
            try:
                step()
            except Exception as error:
                faults.append(told(error))
        known = self._faults.pop(what, "")
        if faults:
            self._faults[what] = faults[0]
            if faults[0] != known:
                _log.error("%s: %s", what, faults[0])

    def _follow(self) -> None:
        reported = time.monotonic()
        self.look()
        while not self._stop.wait(self._poll):
            self.look()
            if time.monotonic() - reported >= self._report:
                self.report()
                reported = time.monotonic()
        self.report()


@dataclass(frozen=True)
class Begun:
    """A request and who answers it: where the canary fails before anything is shown, the champion does."""

    champion: LiveVersion
    dealt: Dealt
    rollout: Rollout | None
    turns: Turns
    limit: int

    def answer(self, asked: Asked, trace_id: str) -> Answer:
        """The answer, its prompt read.

        Raises:
            ApiError: the model cannot be asked this.
        """
        return Answer(self.dealt.version, asked, self.limit, trace_id=trace_id, tags=self.dealt.tags)

    def whole(self, answer: Answer) -> Answer:
        """The answer, made."""
        try:
            _exhaust(answer.pieces(self.turns.turn))
        except Exception as error:
            if not self.dealt.to_canary:
                raise
            answer = answer.instead_by(self.champion)
            _exhaust(answer.pieces(self.turns.turn))
            self.failed(error)
        return answer

    def streamed(self, answer: Answer) -> tuple[Answer, Iterator[str]]:
        """The answer and its pieces; of the canary's the first is made, which the champion could replace."""
        pieces = answer.pieces(self.turns.turn)
        if not self.dealt.to_canary:
            return answer, pieces
        try:
            first = next(pieces, None)
        except Exception as error:
            answer = answer.instead_by(self.champion)
            pieces = answer.pieces(self.turns.turn)
            first = next(pieces, None)
            self.failed(error)
        return answer, _again(first, pieces)

    def failed(self, error: Exception) -> None:
        """An answer failed: if the canary gives it, that is the end of the canary."""
        if self.dealt.to_canary and self.rollout is not None:
            _log.error("the canary failed to answer", exc_info=error)
            self.rollout.failed(self.dealt, error)


def _exhaust(pieces: Iterator[str]) -> None:
    for _ in pieces:
        pass


def _again(first: str | None, pieces: Iterator[str]) -> Iterator[str]:
    """All pieces, though the first was taken already; None where there was none."""
    if first is not None:
        yield first
    yield from pieces
