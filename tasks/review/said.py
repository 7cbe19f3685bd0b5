"""What reviewers said of one question, read out of the assessments that MLflow made of it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tasks.review.schemas import MEANING, RIGHT, WANTED


class Action(StrEnum):
    """What a person wants done with a correction."""

    APPROVE = "approve"
    REJECT = "reject"
    ANSWER = "answer"


@dataclass(frozen=True)
class Said:
    """What reviewers said, together; `refused` are numbers of rewordings, `differ` that they disagree."""

    who: str = ""
    action: Action | None = None
    text: str = ""
    why: str = ""
    refused: frozenset[int] = frozenset()
    refused_by: str = ""
    differ: str = ""

    @property
    def digest(self) -> str:
        """Tells what was carried out from what was said since."""
        said = [self.who, self.action, self.text, self.why, sorted(self.refused)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass
class _Person:
    right: bool | None = None
    why: str = ""
    wanted: str = ""
    refused: frozenset[int] = field(default_factory=frozenset)

    def decision(self, desired: str | None) -> tuple[Action | None, str]:
        """What this person wants done, and the answer if it is another one."""
        if self.wanted and self.wanted.split() != (desired or "").split():
            return Action.ANSWER, self.wanted
        if self.right is False and not self.wanted:
            return Action.REJECT, ""
        if desired is not None and (self.right or self.wanted):
            return Action.APPROVE, ""
        return None, ""


def read(assessments: Iterable[Any], desired: str | None) -> Said:
    """What people said of a correction with this desired output; of each the latest word counts.

    A rewording is refused where anybody refuses it. Judges that are programs do not count.
    """
    people: dict[str, _Person] = defaultdict(_Person)
    for one in sorted(assessments, key=lambda one: one.last_update_time_ms):
        source = one.source
        if one.name not in (RIGHT, WANTED, MEANING) or one.valid is False:
            continue
        if source is None or str(source.source_type) != "HUMAN":
            continue
        person = people[source.source_id or "unknown"]
        value = (one.feedback or one.expectation).value
        if one.name == RIGHT and (value is None or isinstance(value, bool)):
            person.right, person.why = value, (one.rationale or "").strip()
        elif one.name == WANTED:
            person.wanted = value.strip() if isinstance(value, str) else ""
        elif one.name == MEANING:
            person.refused = _numbers(value)
    refused = frozenset(number for person in people.values() for number in person.refused)
    refused_by = _listed(who for who, person in people.items() if person.refused)
    decided = {who: d for who, one in sorted(people.items()) if (d := one.decision(desired))[0]}
    if not decided:
        return Said(refused=refused, refused_by=refused_by)
    if len({(action, " ".join(text.split())) for action, text in decided.values()}) > 1:
        differ = f"{_listed(decided)} disagree; change or delete one of the answers"
        return Said(refused=refused, refused_by=refused_by, differ=differ)
    action, text = next(iter(decided.values()))
    why = "; ".join(people[who].why for who in decided if people[who].why)
    return Said(_listed(decided), action, text, why, refused, refused_by)


def _listed(who: Iterable[str]) -> str:
    return " and ".join(sorted(who))


def _numbers(value: Any) -> frozenset[int]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [value]
    given = value if isinstance(value, list) else [value]
    return frozenset(int(one) for one in given if str(one).isdecimal())
