"""Exporting: a version as files that other servers load, a full checkpoint or an adapter beside its base."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from editors.delta import OVERRIDES, Delta, add_in_place, model_digest
from editors.overrides import OVERRIDES_FILE, Overrides
from tasks import models
from tasks.models import ModelFolder
from tasks.records import UserError
from tasks.weights import save_whole

EXPORT_FILE = "mendflow-export.json"


def check_export(out: Path, *, replace_earlier: bool = True) -> None:
    """Refuse a place that an export would refuse, before the work that leads to it.

    Raises:
        UserError: `out` is neither new, nor an empty folder, nor an earlier export that may be replaced.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / EXPORT_FILE).is_file()):
        raise UserError(f"{out} holds files that are not an earlier export; name a new or an empty folder")
    if not replace_earlier and (out / EXPORT_FILE).is_file():
        raise UserError(f"{out} holds an earlier export; say --replace to replace it, or name a new folder")
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"{out} cannot be made, because {parent} is not a folder to write to; name another")


@contextmanager
def placed(out: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `out` at the end: `out` is never half written.

    What fails or is killed inside leaves `out` as it was.

    Raises:
        UserError: `out` holds something that is not an earlier export.
    """
    check_export(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        written = Path(scratch) / out.name
        written.mkdir()
        yield written
        earlier = Path(scratch) / "earlier"
        if out.exists():
            out.rename(earlier)
        try:
            written.rename(out)
        except BaseException:
            if earlier.exists():
                earlier.rename(out)
            raise


def export_checkpoint(
    folder: ModelFolder, delta: Delta | None, out: Path, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write the corrected model as a full Hugging Face checkpoint with its tokenizer; `out`.

    The delta and its manifest stand beside the weights in `out/delta`, and overrides, which weights cannot
    hold, in a file of their own. The checkpoint is written elsewhere, loaded again and compared bit for bit
    before it takes its place.

    Args:
        folder: the base; its own delta is left out.
        delta: what to add to it; None for `folder` as it is, with its own delta.
        out: a new or empty folder, or an earlier export, which is replaced.
        dtype: of the weights written; fp32 keeps the correction exactly as it was gated.

    Raises:
        UserError: `out` holds something else, or the base or the delta cannot be used.
    """
    if delta is None and folder.delta is not None:
        delta = models.load_delta(folder.delta, folder)
    if delta is not None:
        models.check_base(delta.manifest, folder)
    out = out.absolute()
    with placed(out) as written:
        model, tokenizer = models.load(replace(folder, delta=None), dtype)
        if delta is not None:
            add_in_place(model, delta)
            delta.save(written / models.DELTA_FOLDER)
            overrides = Overrides.from_json(delta.manifest.get(OVERRIDES, []))
            if len(overrides):
                overrides.save(written / OVERRIDES_FILE)
        digest = model_digest(model)
        save_whole(model, tokenizer, written)
        del model
        reloaded, _ = models.load(ModelFolder(written, digest, str(out)), dtype)
        if model_digest(reloaded) != digest:
            raise RuntimeError(
                f"the checkpoint for {out} does not load as it was saved; see the disk it is on"
            )
        about = {"base": folder.ref, "base_digest": folder.digest, "digest": digest}
        (written / EXPORT_FILE).write_text(json.dumps(about, indent=2))
    return out
