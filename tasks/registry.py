"""What the registry holds: the versions of a model, their aliases and tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.records import UserError
from tasks.tracking import tracking

CHAMPION, CANDIDATE, PREVIOUS = "champion", "candidate", "previous"


@dataclass(frozen=True)
class Version:
    """One version of a registered model, as the registry has it."""

    number: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str
    created_at_ms: int


@dataclass(frozen=True)
class RegisteredModel:
    """A registered model: its versions, oldest first, and the version of every alias."""

    name: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[Version, ...] = ()

    @property
    def champion(self) -> str | None:
        """The version that serves."""
        return self.aliases.get(CHAMPION)

    @property
    def candidate(self) -> str | None:
        """The version that waits for its gates or its promotion."""
        return self.aliases.get(CANDIDATE)

    @property
    def previous(self) -> str | None:
        """The version that a rollback brings back."""
        return self.aliases.get(PREVIOUS)


def describe(name: str, *, tracking_uri: str | None = None) -> RegisteredModel:
    """Versions and aliases of a registered model; none of either if it is not registered."""
    with tracking(tracking_uri) as client:
        aliases = aliases_of(client, name)
        names: dict[str, list[str]] = {}
        for alias, number in aliases.items():
            names.setdefault(number, []).append(alias)
        versions = [
            Version(
                number=str(found.version),
                aliases=tuple(sorted(names.get(str(found.version), []))),
                tags=dict(found.tags),
                run_id=found.run_id or "",
                created_at_ms=int(found.creation_timestamp),
            )
            for found in all_versions(client, f"name = '{quotable(name)}'")
        ]
    return RegisteredModel(name, aliases, tuple(sorted(versions, key=lambda version: int(version.number))))


def tag_version(name: str, version: str, tags: dict[str, str], *, tracking_uri: str | None = None) -> None:
    """Write tags on a version, over those of the same keys."""
    with tracking(tracking_uri) as client:
        for key, value in tags.items():
            client.set_model_version_tag(name, version, key, value)


def version_of(name: str, alias: str, *, tracking_uri: str | None = None) -> str | None:
    """The version with this alias, or None."""
    with tracking(tracking_uri) as client:
        return aliases_of(client, name).get(alias)


def resolve_version(name: str, wanted: str, *, tracking_uri: str | None = None) -> str:
    """The version number that a user's word names: an alias (with or without `@`) or a number.

    Raises:
        UserError: there is no such version; the message lists what there is.
    """
    described = describe(name, tracking_uri=tracking_uri)
    number = described.aliases.get(wanted.removeprefix("@"), wanted)
    if number not in {version.number for version in described.versions}:
        there = ", ".join(f"{alias} = {found}" for alias, found in sorted(described.aliases.items()))
        newest = described.versions[-1].number if described.versions else "none"
        raise UserError(
            f"{name} has no version {wanted!r}; its aliases: {there or 'none'}; its newest version: {newest}"
        )
    return number


def aliases_of(client: Any, name: str) -> dict[str, str]:
    """Version number by alias, of a registered model or of one that is not."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    # SQLite stores give numbers, servers give text.
    return {alias: str(number) for alias, number in dict(found.aliases).items()}


def quotable(name: str) -> str:
    """The name, if it can stand in a search.

    Raises:
        UserError: it has a quote in it.
    """
    if "'" in name:
        raise UserError(f"the name {name!r} has a quote in it; choose another")
    return name


def all_versions(client: Any, query: str) -> list[Any]:
    """Every version that a search finds, over all its pages."""
    versions: list[Any] = []
    token: str | None = None
    while token != "":
        page = client.search_model_versions(query, page_token=token)
        versions.extend(page)
        token = page.token or ""
    return versions
