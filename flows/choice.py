"""The choice among methods: each is tried on the same dataset, and the first that passes is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editors.catalogue import is_trained
from flows.attempt import Attempt, Workshop, attempt, registered
from flows.settings import AUTO
from tasks.records import CannotEditError
from tasks.runs import end_run
from validation.outcomes import EDIT, EQUIVALENCE, LOCALITY
from validation.verdict import Verdict


@dataclass
class Choice:
    """What was tried, in order: judged attempts, and reasons why other methods could not make any."""

    judged: list[Attempt] = field(default_factory=list)
    cannot: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Attempt:
        """The one that was not refused; else the earliest of those with the fewest gates against them.

        One that was measured no further comes last: what else would refuse it is not known.
        """
        return min(self.judged, key=_against)

    def table(self) -> list[dict[str, Any]]:
        """One row a method, judged ones first: its verdict, what failed, its figures and its cost."""
        rows = []
        for one in self.judged:
            decision = one.judged.decision
            # A figure that was not measured is none, so that the table is plain JSON.
            values = {m.name: m.value for m in decision.metrics if math.isfinite(m.value)}
            rows.append(
                {
                    "method": one.method.name,
                    "taken": one is self.best,
                    "version": one.candidate,
                    "verdict": decision.verdict.value,
                    "failing": list(decision.failing),
                    "reason": decision.reason,
                    **{name: values.get(name) for name in (EDIT, EQUIVALENCE, LOCALITY)},
                    "seconds_per_edit": one.applied.seconds_per_edit,
                    "run_id": one.run_id,
                }
            )
        nothing = dict.fromkeys((EDIT, EQUIVALENCE, LOCALITY, "seconds_per_edit"))
        rows += [
            {
                "method": name,
                "taken": False,
                "version": "",
                "verdict": "none",
                "failing": [],
                "reason": reason,
                **nothing,
                "run_id": "",
            }
            for name, reason in self.cannot.items()
        ]
        return rows


def choose(shop: Workshop) -> Choice:
    """Try the methods that the settings name, in their order, until one is not refused.

    A verdict of INSUFFICIENT ends it too: another method would be asked as little. The alias `candidate`
    stands on the version of the best at the end.

    Raises:
        CannotEditError: no method can make these corrections, or not the one that was to be trained.
        UserError: see `attempt`.
    """
    settings, choice = shop.settings, Choice()
    built: Path | None = None
    for name in settings.tried:
        if settings.editor == AUTO:
            shop.narrator.say(f"try {name}")
        try:
            latest = attempt(shop, name, built)
        except CannotEditError as error:
            training = settings.retrain or settings.training_data is not None
            if settings.editor != AUTO or (training and is_trained(name)):
                raise
            choice.cannot[name] = str(error)
            shop.narrator.warn(f"{name} cannot make these corrections: {error}")
            continue
        choice.judged.append(latest)
        built = latest.folder
        if latest.judged.decision.verdict is not Verdict.REJECT:
            break
    if not choice.judged:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in choice.cannot.items())
        raise CannotEditError(f"no method can make these corrections ({reasons})")
    for other in choice.judged:
        if other is not choice.best:
            end_run(settings.tracking, other.run_id, verdict=other.judged.decision.verdict.value)
    if choice.best is not choice.judged[-1]:
        # Its alias went to those that were registered after it.
        registered(shop, choice.best.applied, choice.best.manifest, choice.best.run_id)
    return choice


def _against(one: Attempt) -> tuple[bool, bool, int]:
    decision = one.judged.decision
    return decision.verdict is Verdict.REJECT, one.judged.stopped is not None, len(decision.failing)
