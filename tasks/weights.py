"""Model weights on disk: safetensors only, digested once, converted once from GGUF."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from editors.delta import model_digest
from editors.model_kinds import kind_of
from tasks.records import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONVERSION_FILE = "mendflow.json"
_OTHER_TASKS = (
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "SEQUENCE_CLASSIFICATION",
    "TOKEN_CLASSIFICATION",
    "QUESTION_ANSWERING",
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and advice from transformers and the hub; both are put back afterwards."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if hub_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()


def check_safetensors(folder: Path, ref: str) -> None:
    """Refuse a folder that is not a Hugging Face model in safetensors.

    Raises:
        UserError: no configuration, or no safetensors; pickled weights are never loaded.
    """
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{ref} is not a Hugging Face model: it has no config.json; give a model's own folder"
        )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        found = f"only {pickled[0]}, which is never unpickled" if pickled else "no weights"
        raise UserError(
            f"{ref} has {found}; save it as safetensors (as save_pretrained of transformers 5 does)"
        )


def read_model(folder: Path, ref: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in evaluation mode and its tokenizer, from safetensors and JSON only, without the network.

    Raises:
        UserError: files are missing or damaged, the weights are not all there, or they are no decoder-only
            language model's.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    check_safetensors(folder, ref)
    _check_kind(folder, ref)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model, found = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:
        raise UserError(
            f"{ref} cannot be loaded ({_short(error)}); check or fetch its files again"
        ) from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise UserError(
            f"{ref} lacks {len(missing)} of its weights ({missing[0]} is the first); they would be random: "
            "fetch its files again"
        )
    try:
        kind_of(model)
    except ValueError as error:
        raise UserError(f"{ref} cannot be edited: {error}") from error
    return model.eval(), tokenizer


def _check_kind(folder: Path, ref: str) -> None:
    """Refuse what was saved for another task: its weights may be whole, and still not be read here."""
    from transformers.models.auto import modeling_auto

    try:
        saved_as = json.loads((folder / "config.json").read_text()).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return  # Transformers says what is wrong with it.
    causal = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    for task in _OTHER_TASKS:
        others = set(getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").values()) - causal
        found = next((name for name in saved_as if name in others), None)
        if found:
            raise UserError(
                f"{ref} is a {found}; mendflow's commands edit decoder-only language models alone: "
                "name one of those"
            )


def weights_digest(folder: Path, ref: str, cache: Path) -> str:
    """`editors.delta.model_digest` of the folder's model in fp32, the same on every machine.

    It is computed once and kept in `cache` under a hash of the files, so a changed file is always noticed.
    """
    check_safetensors(folder, ref)
    known = cache / "digests" / hash_of_files(folder)
    if known.is_file():
        return known.read_text()
    model, _ = read_model(folder, ref, torch.float32)
    digest = model_digest(model)
    write_whole(known, digest)
    return digest


def converted(gguf: Path, ref: str, cache: Path) -> tuple[Path, str]:
    """The folder in `cache` with the GGUF file's model and tokenizer in fp32 safetensors, and its digest.

    It is converted on first use, and again if the folder is damaged; others wait meanwhile. A conversion
    that was killed leaves nothing that is ever used.

    Raises:
        UserError: the file is not a GGUF model that transformers knows.
    """
    from filelock import FileLock

    with gguf.open("rb") as file:
        source = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache / source
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{source}.lock"):
        digest = _digest_if_whole(folder)
        if digest is not None:
            return folder, digest
        unfinished = cache / f"{source}.unfinished"
        for leftover in (folder, unfinished):
            shutil.rmtree(leftover, ignore_errors=True)
        model, tokenizer = _read_gguf(gguf, ref)
        save_whole(model, tokenizer, unfinished)
        digest = model_digest(model)
        about = {"source": source, "files": hash_of_files(unfinished), "digest": digest}
        (unfinished / CONVERSION_FILE).write_text(json.dumps(about, indent=2))
        unfinished.rename(folder)
    return folder, digest


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights and tokenizer, for others to read as far as the configuration beside them is."""
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    # Those that write safetensors write for their owner alone.
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)


def hash_of_files(folder: Path) -> str:
    """SHA-256 over names and contents of the configuration and the weights."""
    total = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            total.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def _digest_if_whole(folder: Path) -> str | None:
    """The digest of a finished conversion whose files are as they were written, else None."""
    try:
        about = json.loads((folder / CONVERSION_FILE).read_text())
        return str(about["digest"]) if about["files"] == hash_of_files(folder) else None
    except (OSError, ValueError, KeyError):
        return None


def _read_gguf(gguf: Path, ref: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        with quiet(), _no_conversion_bar():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                # Otherwise the weights stay packed, or cannot be saved.
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
            )
    except Exception as error:
        raise UserError(
            f"{ref} cannot be read as a GGUF model ({_short(error)}); check that the file is whole, and that "
            "transformers supports its architecture"
        ) from error
    return model.eval(), tokenizer


@contextmanager
def _no_conversion_bar() -> Iterator[None]:
    """The dequantisation has a progress bar of its own, that no setting reaches."""
    from transformers import modeling_gguf_pytorch_utils as conversion

    bar = conversion.tqdm
    conversion.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        conversion.tqdm = bar


def write_whole(path: Path, text: str) -> None:
    """Write a small file at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        try:
            file.write(text)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
