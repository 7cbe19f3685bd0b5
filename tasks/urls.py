"""Addresses of stores: as they may be shown to people, and the files that they name."""

from __future__ import annotations

import re
from pathlib import Path

# Greedy up to the last "@": an unescaped "@" or "/" in a password must not let its tail through.
_USER_AND_PASSWORD = re.compile(r"(://[^:/@\s]*):.*@")
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)")
_SECRET_PARAMETER = re.compile(r"([?&;](?:password|passwd|pwd|token|secret)=)[^&;\s]*", re.IGNORECASE)


def without_password(text: str) -> str:
    """The URL, or a message with a URL in it, with any password shown as `***`."""
    return _SECRET_PARAMETER.sub(r"\1***", _USER_AND_PASSWORD.sub(r"\1:***@", text))


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite store; None for another store, or one in memory."""
    found = _SQLITE.fullmatch(url)
    return Path(found[2]) if found and not found[2].startswith((":memory:", "file:")) else None


def from_any_folder(url: str) -> str:
    """The URL that names the same store in a process that runs in another folder."""
    file = sqlite_file(url)
    return url if file is None else _SQLITE.sub(lambda found: f"{found[1]}{file.absolute()}{found[3]}", url)
