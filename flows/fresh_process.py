"""A trial in a process of its own: its peak memory is its own, and so is its death."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
import traceback
from typing import Any

import torch

from flows.console import ReportProgress
from tasks.records import UserError
from tasks.trial import Trial, measure

MEASURED, OVER_BUDGET, CANNOT, FAILED = "measured", "over budget", "cannot", "failed"
# Imported once, in the process that all others are forked from; it computes nothing.
_PRELOADED = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "scipy.stats",
    __name__,
)


def run_trial(trial: Trial, *, minutes: float, report: ReportProgress) -> dict[str, Any]:
    """Measure in a fresh process, for so many minutes at most.

    Returns:
        `status` and, by status: the figures of `tasks.trial.measure`; the `minutes` that were not enough; the
        `reason` why the method cannot; `reason` and `traceback` of a failure.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(trial, torch.get_num_threads(), sender), daemon=True)
    deadline = time.monotonic() + 60 * minutes
    process.start()
    sender.close()
    try:
        while receiver.poll(max(deadline - time.monotonic(), 0.0)):
            kind, *content = receiver.recv()
            if kind == "outcome":
                return dict(content[0])
            report(*content)
        return {"status": OVER_BUDGET, "minutes": minutes}
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        hint = ", as it is when memory runs out" if code == -signal.SIGKILL else ""
        return {"status": FAILED, "reason": f"its process {how}{hint}", "traceback": ""}
    finally:
        receiver.close()
        if process.is_alive():
            process.kill()
        process.join()


def _measure(trial: Trial, threads: int, sender: multiprocessing.connection.Connection) -> None:
    # As many as the process has that tells of it.
    torch.set_num_threads(threads)
    # Whoever interrupts the bench ends this process through it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(done: int, total: int, note: str) -> None:
        sender.send(("progress", done, total, note))

    try:
        outcome = {"status": MEASURED, **measure(trial, report)}
    except UserError as error:
        outcome = {"status": CANNOT, "reason": str(error)}
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        outcome = {"status": FAILED, "reason": told, "traceback": traceback.format_exc()}
    sender.send(("outcome", outcome))


def _end_with_parent() -> None:
    """A bench that was killed leaves nothing running beside the next one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
