"""Key statistics of a base, gathered once and kept, for editors that write at subjects."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from editors.key_statistics import KeyStatistics, own_writing
from editors.protocol import Progress, no_progress
from tasks.models import ModelFolder, load
from tasks.placement import PLACEMENT, Placement

if TYPE_CHECKING:
    from editors.subject_editing import SubjectEditor

# Of the model's own writing: some thousands of tokens, more than a layer has inputs.
PASSAGES, TOKENS = 64, 128


def key_statistics(
    base: ModelFolder,
    editor: SubjectEditor,
    cache: Path,
    progress: Progress = no_progress,
    at: Placement = PLACEMENT,
) -> KeyStatistics:
    """Statistics of the modules that the editor changes; read from `cache`, or gathered and kept there.

    They are of what the base reads where it is put, `at`. Another process that wants the same ones waits for
    them.

    Raises:
        UserError: the base cannot be loaded.
        ValueError: it is not finite, or has no module that the editor can change.
    """
    model, tokenizer = load(base, at.dtype, at.device)
    modules = editor.modules(model)
    # All that the statistics follow from.
    inputs = [f"{PASSAGES} passages of {TOKENS} tokens", *(module.name for module in modules)]
    if at.dtype != torch.float32:
        inputs.append(str(at.dtype))
    digest = hashlib.sha256("\n".join(inputs).encode()).hexdigest()
    file = cache / f"{base.digest[:16]}-{digest[:16]}.safetensors"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if file.is_file():
            # What a full disk left of it is gathered again.
            with suppress(ValueError):
                return KeyStatistics.load(file)
        started = time.perf_counter()
        progress(0, 2, "key statistics: the model writes text")
        text = own_writing(model, tokenizer, passages=PASSAGES, tokens=TOKENS)
        progress(1, 2, "key statistics: reading it")
        gathered = KeyStatistics.gather(model, tokenizer, modules, text)
        statistics = replace(gathered, seconds=time.perf_counter() - started)
        # Of one name for all, so that what a kill left is written over.
        partial = file.with_suffix(".partial")
        statistics.save(partial)
        os.replace(partial, file)
    progress(2, 2, "key statistics gathered")
    return statistics
