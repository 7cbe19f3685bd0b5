"""Processes that are fresh but for their imports: forked from one that has imported what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

IMPORTED = ["flows.correct", "mlflow", "great_expectations", "transformers.models.llama.modeling_llama"]


def forked(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start `work(*arguments)` in a process with this one's environment and number of threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    # Sums are rounded otherwise with another number of threads.
    process = context.Process(
        target=_run, args=(work, arguments, dict(os.environ), torch.get_num_threads()), daemon=False
    )
    process.start()
    return process


def _run(
    work: Callable[..., None], arguments: tuple[Any, ...], environment: dict[str, str], threads: int
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(threads)
    work(*arguments)
