"""Which process it was: told apart from others that get its number later, whatever becomes of the clock."""

from __future__ import annotations

import os
from pathlib import Path


def mark_of(number: int) -> str:
    """What tells a process from all others, ever: boot, namespace, number, start. Empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {number} {_start_of(number)}"
    except OSError:
        return ""


def has_ended(mark: str) -> bool:
    """Whether a process of this machine is known to be gone; False wherever that cannot be told."""
    ours = mark_of(os.getpid()).split()
    theirs = mark.split()
    if len(ours) != 4 or len(theirs) != 4 or ours[:2] != theirs[:2]:
        return False
    number = int(theirs[2])
    try:
        os.kill(number, 0)
        return _start_of(number) != theirs[3]
    except ProcessLookupError:
        return True
    except OSError:
        return False


def _start_of(number: int) -> str:
    """When a process started, in ticks since boot; `ended` for one that only waits to be buried."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]
