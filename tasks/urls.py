"""Addresses of stores as they may be shown to people."""

from __future__ import annotations

import re

# Greedy up to the last "@": an unescaped "@" or "/" in a password must not let its tail through.
_USER_AND_PASSWORD = re.compile(r"(://[^:/@\s]*):.*@")
_SECRET_PARAMETER = re.compile(r"([?&;](?:password|passwd|pwd|token|secret)=)[^&;\s]*", re.IGNORECASE)


def without_password(text: str) -> str:
    """The URL, or a message with a URL in it, with any password shown as `***`."""
    return _SECRET_PARAMETER.sub(r"\1***", _USER_AND_PASSWORD.sub(r"\1:***@", text))
