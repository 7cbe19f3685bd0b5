"""Make one delta over the pristine base from all corrections together."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from editors.capture import answer_loss, frozen
from editors.catalogue import EDITORS, is_trained, make, no_such
from editors.delta import MANIFEST_FILE, Delta
from editors.gather import batches, encode_requests
from editors.protocol import Editor, EditorMismatchError, Kept, Progress, no_progress
from editors.requests import EditRequest, Example, collate, pad_id, render_digest
from editors.subject_editing import SubjectEditor
from tasks.key_statistics import key_statistics
from tasks.models import ModelFolder, load
from tasks.placement import PLACEMENT, Placement
from tasks.records import CannotEditError, UserError
from tasks.train import open_editor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNIT_EXAMPLES = 16


@dataclass(frozen=True)
class Applied:
    """A delta on disk, and what it cost.

    `unit_seconds` is E for one correction: a forward and a backward pass over its tokens and those of its
    equivalents, weight gradients included, measured in the same process.
    """

    folder: Path
    digest: str
    corrections: int
    seconds: float
    unit_seconds: float

    @property
    def seconds_per_edit(self) -> float:
        """Wall-clock seconds for one correction."""
        return self.seconds / max(self.corrections, 1)

    @property
    def cost_in_units(self) -> float:
        """Seconds per edit as a multiple of E."""
        return self.seconds_per_edit / self.unit_seconds if self.unit_seconds else 0.0


def open_any_editor(
    name_or_path: str,
    base: ModelFolder,
    cache: Path | None = None,
    progress: Progress = no_progress,
    *,
    at: Placement = PLACEMENT,
    settings: Mapping[str, Any] | None = None,
) -> Editor:
    """The editor a user names: one that is not trained, or the folder of a trained one.

    Args:
        name_or_path: what the user named.
        base: what it is to edit.
        cache: a folder for the key statistics that some editors need of a base. They are gathered into it
            where they are missing; without it, such an editor gathers fewer of its own for every edit.
        progress: called with (steps done, steps, note) while they are gathered.
        at: where the base is put for them.
        settings: of the configuration of an editor that is not trained, in place of its defaults.

    Raises:
        CannotEditError: there is none of that name, or was trained for another base, or cannot edit this one.
        UserError: the editor has no such setting, or has them from its training.
    """
    if name_or_path in EDITORS and not is_trained(name_or_path):
        try:
            editor = make(name_or_path, **(settings or {}))
        except ValueError as error:
            raise UserError(str(error)) from error
        if cache is not None and isinstance(editor, SubjectEditor):
            try:
                editor.statistics = key_statistics(base, editor, cache, progress, at)
            except UserError:
                raise
            except ValueError as error:
                raise CannotEditError(f"{name_or_path} cannot edit {base.ref}: {error}") from error
        return editor
    folder = Path(name_or_path)
    if not folder.is_dir():
        raise CannotEditError(no_such(name_or_path))
    if settings:
        raise UserError(
            f"the editor in {folder} has its settings from its training, and takes no other "
            f"{', '.join(f'`{name}`' for name in settings)}: leave it out, or train another editor"
        )
    trained = open_editor(folder)
    try:
        trained.check_base(base.digest)
    except EditorMismatchError as error:
        raise CannotEditError(f"{folder}: {error}") from error
    return trained


def kind_warning(editor: Editor, chats: Collection[bool]) -> str:
    """Says that an editor was not trained on what it is given; empty where it was, or where nobody knows.

    Args:
        editor: any editor.
        chats: for each correction, whether its prompt is a chat turn.
    """
    trained_on = getattr(editor, "manifest", {}).get("chat")
    if not isinstance(trained_on, bool) or set(chats) <= {trained_on}:
        return ""
    known, new, option = (
        ("chat turns", "raw text", "text") if trained_on else ("raw text", "chat turns", "chat")
    )
    others = f"{sum(chat != trained_on for chat in chats)} of {len(chats)}"
    return (
        f"the {editor.name} editor was trained on {known}, and {others} corrections are {new}: "
        f"they may take less well than with one from `mendflow train-editor --{option}`"
    )


def apply(
    base: ModelFolder,
    editor: Editor,
    requests: Sequence[EditRequest],
    keep: Sequence[Kept],
    out: Path,
    *,
    manifest: Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
    at: Placement = PLACEMENT,
) -> Applied:
    """Solve all requests in one delta from the pristine base and write it to `out`.

    A delta that is already there for the same inputs is left as it is: what was interrupted is done again,
    what was done is not.

    Args:
        base: the pristine base; a folder with a delta is refused.
        editor: any editor.
        requests: all active corrections, equivalents included.
        keep: prompts whose answers must stay.
        out: folder to write.
        manifest: digests of ledger and data, ids, for the delta's manifest.
        progress: called with (passes done, passes, note).
        at: where the base is put, and in which dtype.

    Raises:
        CannotEditError: the editor cannot make these corrections, or the edit is not finite.
        UserError: the base is not pristine, or cannot be loaded.
    """
    if base.delta is not None:
        raise UserError(f"{base.ref} is a corrected version; corrections are applied to the pristine base")
    inputs = {
        **(manifest or {}),
        "base_digest": base.digest,
        "editor_digest": editor.digest(),
        "solved_digest": _solved_digest(requests, keep),
    }
    done = _finished(out, inputs)
    if done is not None:
        return done
    model, tokenizer = load(base, at.dtype, at.device)
    started = clock(model)
    try:
        delta = editor.edit(model, tokenizer, requests, keep, progress=progress)
    except UserError:
        # Told while it went on, such as that another run has taken the lease.
        raise
    except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
        said = str(error) or "there is not enough memory for them"
        raise CannotEditError(f"the corrections cannot be applied: {said}") from error
    seconds = clock(model) - started
    examples = encode_requests(tokenizer, requests)
    unit = unit_seconds(model, examples, pad_id(tokenizer)) / max(len(requests), 1)
    cost = {"seconds": seconds, "unit_seconds": unit, "corrections": len(requests)}
    renderings = sorted({r.chat for r in requests} | {k.chat for k in keep})
    full = {
        **delta.manifest,
        **inputs,
        "inputs": inputs,
        "cost": cost,
        "correction_ids": [request.id for request in requests],
        "render_digests": {
            "chat" if chat else "text": render_digest(tokenizer, chat=chat) for chat in renderings
        },
        "placement": at.described(),
        "versions": {"torch": torch.__version__},
    }
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    written = Delta(delta.shifts, full)
    written.save(partial)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(partial, out)
    return Applied(out, written.digest(), len(requests), seconds, unit)


def _solved_digest(requests: Sequence[EditRequest], keep: Sequence[Kept]) -> str:
    """SHA-256 over what is solved for: corrections and prompts that must stay, in their order."""
    solved = [[asdict(one) for one in many] for many in (requests, keep)]
    return hashlib.sha256(json.dumps(solved, sort_keys=True).encode()).hexdigest()


def _finished(out: Path, inputs: Mapping[str, Any]) -> Applied | None:
    if not (out / MANIFEST_FILE).is_file():
        return None
    manifest = json.loads((out / MANIFEST_FILE).read_text())
    if manifest.get("inputs") != json.loads(json.dumps(inputs)):
        return None
    cost = manifest["cost"]
    return Applied(out, manifest["delta_digest"], cost["corrections"], cost["seconds"], cost["unit_seconds"])


def clock(model: PreTrainedModel) -> float:
    """Seconds of a clock, once the model's device has done all that it was given."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()


def unit_seconds(model: PreTrainedModel, examples: Sequence[Example], pad: int) -> float:
    """Seconds of a plain forward and backward pass over all examples, in batches of like length.

    Scaled from a sample by what a model computes on: tokens, padding of the batches included.
    """
    if not examples:
        return 0.0
    stride = max(len(examples) // UNIT_EXAMPLES, 1)
    sample = collate(list(examples[::stride][:UNIT_EXAMPLES]), pad)
    with frozen(model):
        model.requires_grad_(True)
        started = clock(model)
        answer_loss(model, sample).backward()
        seconds = clock(model) - started
        model.zero_grad(set_to_none=True)
    # Examples of unlike length, as a sample has them, need more padding than the batches of an editor.
    computed = sum(batch.input_ids.numel() for _, batch in batches(examples, pad))
    return seconds * computed / sample.input_ids.numel()
