"""Who may report errors over HTTP: names with API keys, of which only digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tasks.records import UserError

# Names come into the ledger, into logs and into messages: nothing that a path, a pattern or a terminal reads.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9 ._@-]*$"
MODEL_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9 ._-]*$"
KEY_PREFIX = "mendflow_"
_KEY_BYTES = 32

ReporterName = Annotated[str, Field(max_length=64, pattern=NAME_PATTERN)]
ModelName = Annotated[str, Field(max_length=255, pattern=MODEL_PATTERN)]


class Reporter(BaseModel):
    """A name that reports errors, and the digest of the key that it shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ReporterName
    # Keys are random and long, so that a digest without salt or stretching cannot be turned back.
    key_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    models: tuple[ModelName, ...] = Field(default=(), description="that it may report about; empty for all")
    added_at: datetime


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    reporters: list[Reporter] = []


def read_reporters(path: Path) -> tuple[Reporter, ...]:
    """The reporters of a file; none where there is no file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return tuple(_File.model_validate_json(path.read_bytes()).reporters)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    except ValidationError as error:
        # What stands there is not shown: it may be a key that somebody wrote into the wrong place.
        raise UserError(
            f"{path} is not a file of reporters; put back the one that `mendflow add-reporter` wrote, or "
            "remove it and add them again"
        ) from error


def add_reporter(path: Path, name: str, models: Iterable[str] = ()) -> str:
    """Let a name report, about some models or all; its key, which is shown here and kept nowhere.

    Raises:
        UserError: the name is taken or unusable, or the file cannot be read or written.
    """
    key = f"{KEY_PREFIX}{secrets.token_urlsafe(_KEY_BYTES)}"
    _check(
        TypeAdapter(ReporterName), name, "a reporter's name: letters, digits, spaces and . _ @ -, up to 64"
    )
    allowed = tuple(dict.fromkeys(models))
    for model in allowed:
        _check(TypeAdapter(ModelName), model, "a model's name: letters, digits, spaces and . _ -, up to 255")
    new = Reporter(name=name, key_sha256=_digest(key), models=allowed, added_at=datetime.now(UTC))
    with _locked(path):
        present = read_reporters(path)
        if any(one.name == name for one in present):
            raise UserError(
                f"{name!r} has a key already; for a new one, remove it with `mendflow remove-reporter`"
            )
        _write(path, [*present, new])
    return key


def remove_reporter(path: Path, name: str) -> None:
    """Take a name's key back.

    Raises:
        UserError: there is no such reporter, or the file cannot be read or written.
    """
    with _locked(path):
        present = read_reporters(path)
        left = [one for one in present if one.name != name]
        if len(left) == len(present):
            names = ", ".join(one.name for one in present) or "there are none"
            raise UserError(f"no reporter {name!r} in {path} (reporters: {names})")
        _write(path, left)


def reporter_of(key: str, reporters: Sequence[Reporter]) -> Reporter | None:
    """Whose key it is; it takes the same time whoever it is, and if it is nobody's."""
    digest = _digest(key)
    found = None
    for one in reporters:
        if hmac.compare_digest(one.key_sha256, digest):
            found = one
    return found


class ReportersFile:
    """The reporters of a file as it is now, read again when it has changed.

    Raises:
        UserError: the file cannot be read (also later).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int] | None, tuple[Reporter, ...]] = (None, ())
        self.now()

    def now(self) -> tuple[Reporter, ...]:
        """The reporters; nobody while there is no file."""
        try:
            about = self.path.stat()
        except OSError:
            return read_reporters(self.path)
        version = (about.st_mtime_ns, about.st_size, about.st_ino)
        if self._read[0] != version:
            self._read = (version, read_reporters(self.path))
        return self._read[1]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _check(adapter: TypeAdapter[str], text: str, what: str) -> None:
    try:
        adapter.validate_python(text)
    except ValidationError as error:
        raise UserError(f"{text[:80]!r} is not {what} characters; choose another") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One change of the file at a time."""
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); check its permissions") from error
    try:
        yield
    finally:
        lock.release()


def _write(path: Path, reporters: Sequence[Reporter]) -> None:
    """Replace the file, readable by its owner alone."""
    unfinished = path.with_name(f"{path.name}.partial")
    try:
        unfinished.unlink(missing_ok=True)
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(_File(reporters=list(reporters)).model_dump_json(indent=2) + "\n")
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); check its permissions") from error
