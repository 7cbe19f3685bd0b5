"""Processes that are fresh but for their imports: forked from one that has imported what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
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


def measure_in_a_fork(request_file: Path, _: object) -> None:
    """In place of `tasks.validate._in_fresh_process`, which starts an interpreter anew."""
    process = forked(_measure, request_file)
    process.join()
    assert process.exitcode == 0


def _measure(request_file: Path) -> None:
    from tasks import validate

    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    validate._measure(request_file)
