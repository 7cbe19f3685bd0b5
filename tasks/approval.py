"""Versions that wait for a named person: the tag `approval`, which people may set in MLflow's page too."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tasks.registry import RegisteredModel, Version, describe, tag_version

TAG = "approval"
PENDING, SUPERSEDED, REFUSED = "pending", "superseded", "refused"
# The last decision that was carried out: what the tag says beyond it, a person has written since.
DECIDED_TAG = "mendflow.decided"
HOW = "write `approved by NAME: NOTE` or `rejected by NAME: NOTE`"
# MLflow lets anybody who reaches its page set a tag, and keeps no record of who it was.
UNVERIFIED = "the tag in MLflow says so; who set it is not known there"

_DECISION = re.compile(
    r"\s*(approved|rejected)\s+by\s+([^:]*[^:\s])\s*:\s*(\S.*?)\s*", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class Decision:
    """What a person decided about a version."""

    version: str
    approved: bool
    who: str
    note: str

    @property
    def text(self) -> str:
        """The value of the tag."""
        return f"{'approved' if self.approved else 'rejected'} by {self.who}: {self.note}"


def read_decision(version: str, value: str) -> Decision | None:
    """The decision that a tag's value says; None if it says none with a name and a note."""
    said = _DECISION.fullmatch(value)
    if said is None:
        return None
    return Decision(version, said[1].lower() == "approved", said[2].strip(), said[3])


def ask(name: str, version: str, *, tracking_uri: str) -> None:
    """Have a version wait for a person; earlier ones that wait still are superseded by it.

    A decision that was written and not yet carried out is left as it is.
    """
    for other in describe(name, tracking_uri=tracking_uri).versions:
        pends = waits(other.tags)
        if other.number == version:
            if not _undecided(other) and not (pends and not other.tags.get(DECIDED_TAG)):
                # In this order: an earlier decision that nothing says was carried out would be, once more.
                tag_version(name, version, {TAG: PENDING, DECIDED_TAG: ""}, tracking_uri=tracking_uri)
        elif pends:
            superseded = f"{SUPERSEDED} by version {version}"
            tag_version(name, other.number, {TAG: superseded}, tracking_uri=tracking_uri)


def waits(tags: Mapping[str, str]) -> bool:
    """Whether a version with these tags waits for a person."""
    return tags.get(TAG, "").startswith(PENDING)


def waiting(model: RegisteredModel) -> list[Version]:
    """The versions that wait for a person, oldest first."""
    return [version for version in model.versions if waits(version.tags)]


def undecided(model: RegisteredModel) -> list[Decision]:
    """Decisions that people wrote and nobody has carried out: rejections first, then the newest approval."""
    found = [decision for version in model.versions if (decision := _undecided(version))]
    return sorted(found, key=lambda decision: (decision.approved, -int(decision.version)))


def is_rejected(version: Version) -> bool:
    """Whether a rejection of this version was carried out to its end."""
    return version.tags.get(DECIDED_TAG, "").startswith("rejected")


def unreadable(model: RegisteredModel) -> list[Version]:
    """Versions whose tag says neither a decision nor anything of mendflow's own."""
    own = (PENDING, SUPERSEDED, REFUSED)
    return [
        version
        for version in model.versions
        if (value := version.tags.get(TAG, ""))
        and not value.startswith(own)
        and value != version.tags.get(DECIDED_TAG)
        and read_decision("", value) is None
    ]


def tags_of(decision: Decision) -> dict[str, str]:
    """What a version's tags say when a decision about it was carried out, in the order to write them in.

    Between the two the version has a decision, which may be carried out again.
    """
    return {TAG: decision.text, DECIDED_TAG: decision.text}


def carried_out(name: str, decision: Decision, *, tracking_uri: str) -> None:
    """Say on the version what was decided, and that it was done."""
    tag_version(name, decision.version, tags_of(decision), tracking_uri=tracking_uri)


def say(name: str, versions: Iterable[str], text: str, *, tracking_uri: str) -> None:
    """Write what a person who looks at these versions in MLflow has to know into the tag."""
    for version in versions:
        tag_version(name, version, {TAG: text}, tracking_uri=tracking_uri)


def _undecided(version: Version) -> Decision | None:
    value = version.tags.get(TAG, "")
    return None if value == version.tags.get(DECIDED_TAG) else read_decision(version.number, value)
