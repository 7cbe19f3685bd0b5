"""What is wanted in place of an output that must never appear."""

from __future__ import annotations

import os

REFUSAL_VARIABLE = "MENDFLOW_REFUSAL"
REFUSAL = "I can't help with that."


def wanted(desired_output: str | None, *, suppress: bool) -> str | None:
    """The desired output; for an output that must never appear, where none was named, the refusal.

    `MENDFLOW_REFUSAL` names another one than mendflow's.
    """
    if suppress and desired_output is None:
        return os.environ.get(REFUSAL_VARIABLE, "").strip() or REFUSAL
    return desired_output
