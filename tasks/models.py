"""The models a user may name, and loading them: base weights in safetensors, and a delta if there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from editors.delta import OVERRIDES, Delta, add_in_place
from editors.overrides import Overrides
from tasks.records import UserError
from tasks.tracking import store_failed, tracking
from tasks.weights import check_safetensors, converted, quiet, read_model, weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a registered version keeps of mendflow's: this folder in its artifacts.
VERSION_FOLDER = "mendflow"
VERSION_FILE = "version.json"
DELTA_FOLDER = "delta"
VERSION_FORMAT = 1
# What a served version does with a prompt unless the request says otherwise.
SERVING_DEFAULTS: dict[str, bool | int] = {"chat": True, "max_new_tokens": 48}

_REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
FORMS = (
    "a Hugging Face id, a folder, models:/NAME@ALIAS, models:/NAME/VERSION, gguf:PACKAGE, "
    "gguf:PACKAGE/FILE.gguf or a .gguf file"
)


class DamagedVersionError(UserError):
    """What a version consists of is not what was registered; to try again, or elsewhere, does not help."""


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine: base weights in safetensors, and the delta that corrects them if there is one.

    Attributes:
        path: Hugging Face folder with the base weights and the tokenizer.
        digest: `editors.delta.model_digest` of the base weights in fp32.
        ref: what names the base weights for another process: for a registered version, its base's reference.
        delta: folder of the delta, for a registered version that has one.
        revision: commit of a Hugging Face id.
    """

    path: Path
    digest: str
    ref: str
    delta: Path | None = None
    revision: str | None = None


def default_cache() -> Path:
    """Where converted models are kept: `models` in MENDFLOW_HOME, by default in `.mendflow`."""
    return Path(os.environ.get("MENDFLOW_HOME") or ".mendflow").expanduser().absolute() / "models"


def resolve(
    ref: str, *, cache: Path | None = None, tracking_uri: str | None = None, revision: str | None = None
) -> ModelFolder:
    """Find the model that `ref` names, fetching or converting it if need be; its files are verified.

    Args:
        ref: a Hugging Face id, a folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `gguf:PACKAGE` or
            `gguf:PACKAGE/FILE.gguf` (in an installed package), or the path of a GGUF file.
        cache: where conversions are kept; `default_cache()` if None.
        tracking_uri: the MLflow store of `models:/` references.
        revision: branch, tag or commit of a Hugging Face id.

    Raises:
        UserError: there is no such model, it cannot be read, or holds only pickled weights.
    """
    cache = cache or default_cache()
    if ref.startswith("models:"):
        return _registered(ref, cache, tracking_uri)
    if ref.startswith("gguf:"):
        file, ref = _packaged(ref)
        return _gguf(file, ref, cache)
    path = Path(ref).expanduser()
    if ref and path.is_dir():
        path = path.resolve()
        return ModelFolder(path, weights_digest(path, ref, cache), str(path))
    if ref.lower().endswith(".gguf"):
        if not path.is_file():
            raise UserError(f"there is no file {ref}; check the path")
        return _gguf(path.resolve(), str(path.resolve()), cache)
    if not _HUB.fullmatch(ref):
        raise UserError(f"there is no model {ref}: no such folder, and it is not {FORMS}")
    return _hub(ref, revision, cache)


def load(
    folder: ModelFolder, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in evaluation mode, its delta applied if there is one, and its tokenizer.

    Raises:
        UserError: the model or the delta cannot be read.
        DamagedVersionError: the delta is damaged, or for another base.
    """
    model, tokenizer = read_model(folder.path, folder.ref, dtype)
    if folder.delta is not None:
        delta = load_delta(folder.delta, folder)
        try:
            add_in_place(model, delta)
        except ValueError as error:
            raise DamagedVersionError(
                f"the delta in {folder.delta} cannot be applied to {folder.ref}: {error}; make it again"
            ) from error
    return model.to(torch.device(device)), tokenizer  # type: ignore[arg-type]


def load_delta(delta: Path, base: ModelFolder) -> Delta:
    """A delta from disk, once it is known to be whole and made for this base.

    Raises:
        UserError: it cannot be read.
        DamagedVersionError: it is missing or damaged, or its manifest names another base's digest.
    """
    try:
        loaded = Delta.load(delta)
    except Exception as error:
        # Not only OSError and ValueError: safetensors has its own class for a damaged header.
        raise _refusal(error)(f"the delta in {delta} cannot be read ({error}); make it again") from error
    check_base(loaded.manifest, base)
    return loaded


def load_overrides(folder: ModelFolder) -> Overrides:
    """What is answered in front of the model; nothing for a model without a delta.

    Raises:
        UserError: the delta cannot be read, or holds something else.
    """
    if folder.delta is None:
        return Overrides()
    try:
        return Overrides.from_json(load_delta(folder.delta, folder).manifest.get(OVERRIDES, []))
    except (TypeError, ValueError) as error:
        raise UserError(f"the delta in {folder.delta} cannot be used: {error}; make it again") from error


def check_base(manifest: Mapping[str, Any], base: ModelFolder) -> None:
    """Refuse a delta or an editor whose manifest names another base.

    Raises:
        DamagedVersionError: `base_digest` in the manifest is missing, or is not the base's.
    """
    wanted = manifest.get("base_digest")
    if wanted != base.digest:
        raise DamagedVersionError(
            f"this delta was made for a base with digest {_shown(wanted)}, but {base.ref} has "
            f"{_shown(base.digest)}; use the base it was made for, or make the delta again for this one"
        )


def read_version(folder: Path) -> dict[str, Any]:
    """What a registered version says of itself: format, base (ref, revision, digest), delta_digest.

    Raises:
        UserError: not a version that mendflow registered, or one of a newer format.
    """
    try:
        about: dict[str, Any] = json.loads((folder / VERSION_FILE).read_text())
        about["base"]["ref"], about["base"]["digest"], about["delta_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _refusal(error)(
            f"{folder} is not a model version that mendflow registered ({type(error).__name__}: {error}); "
            "register the model with mendflow first"
        ) from error
    if about.get("format") != VERSION_FORMAT:
        raise UserError(
            f"{folder} has format {about.get('format')}, not {VERSION_FORMAT}; use a newer mendflow"
        )
    return about


def version_model(folder: Path, cache: Path | None = None) -> ModelFolder:
    """The model of a registered version, from mendflow's folder in its artifacts; base and delta verified.

    Raises:
        UserError: the base cannot be found.
        DamagedVersionError: the base has another digest, or the delta is not the registered one.
    """
    about = read_version(folder)
    base = resolve(about["base"]["ref"], cache=cache, revision=about["base"].get("revision"))
    if base.delta is not None or base.digest != about["base"]["digest"]:
        raise DamagedVersionError(
            f"the base {base.ref} has digest {_shown(base.digest)}, not {_shown(about['base']['digest'])}, "
            "with which the version was registered; put its files back, or register one for the new base"
        )
    if about["delta_digest"] is None:
        return base
    delta = folder / DELTA_FOLDER
    if load_delta(delta, base).digest() != about["delta_digest"]:
        raise DamagedVersionError(
            f"the delta in {delta} is not the one that was registered; register the version again"
        )
    return ModelFolder(base.path, base.digest, base.ref, delta, base.revision)


def _registered(ref: str, cache: Path, tracking_uri: str | None) -> ModelFolder:
    match = _REGISTERED.fullmatch(ref)
    if match is None:
        raise UserError(
            f"{ref} is not a registered model's version; write models:/NAME@ALIAS or models:/NAME/3"
        )
    with tracking(tracking_uri) as client:
        import mlflow
        from mlflow.exceptions import MlflowException

        name, alias, number = match["name"], match["alias"], match["version"]
        try:
            if alias:
                number = client.get_model_version_by_alias(name, alias).version
            folder = mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{name}/{number}/artifacts/{VERSION_FOLDER}",
            )
        except (MlflowException, OSError) as error:
            if store_failed(error):
                raise
            raise UserError(
                f"there is no {ref} to load ({' '.join(str(error).split())[:200]}); see `mendflow status` "
                "for the versions and aliases there are"
            ) from error
    return version_model(Path(folder), cache)


def _packaged(ref: str) -> tuple[Path, str]:
    """The GGUF file inside an installed package, which is not imported, and its full reference."""
    package, _, inner = ref.removeprefix("gguf:").partition("/")
    package = package.replace("-", "_")
    parts = PurePosixPath(inner).parts
    if not package.isidentifier() or ".." in parts or inner.startswith("/") or "\\" in inner:
        raise UserError(
            f"{ref} does not name a file in a package; write gguf:PACKAGE or gguf:PACKAGE/FILE.gguf"
        )
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{ref} names a package that is not installed; install {package} with pip")
    roots = [Path(location) for location in spec.submodule_search_locations]
    found = sorted(
        (path, path.relative_to(root).as_posix()) for root in roots for path in root.rglob("*.gguf")
    )
    chosen = [(path, name) for path, name in found if inner in ("", name)]
    if len(chosen) != 1:
        names = ", ".join(name for _, name in found) or "none"
        raise UserError(
            f"{ref} names {len(chosen)} files; the package {package} holds these GGUF files: {names}"
        )
    path, name = chosen[0]
    return path, f"gguf:{package}/{name}"


def _gguf(file: Path, ref: str, cache: Path) -> ModelFolder:
    folder, digest = converted(file, ref, cache)
    return ModelFolder(folder, digest, ref)


def _hub(ref: str, revision: str | None, cache: Path) -> ModelFolder:
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            path = Path(snapshot_download(ref, revision=revision, allow_patterns=list(_HUB_FILES)))
    except Exception as error:
        raise UserError(
            f"there is no model {ref}: no such folder, and Hugging Face did not give it "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); check the name and the network"
        ) from error
    check_safetensors(path, ref)
    # A snapshot's folder is named by its commit, which pins a moving branch.
    return ModelFolder(path, weights_digest(path, ref, cache), ref, revision=path.name)


def _refusal(error: Exception) -> type[UserError]:
    """Whether a file's own content is at fault, or the machine that could not read it."""
    elsewhere = isinstance(error, (OSError, MemoryError)) and not isinstance(error, FileNotFoundError)
    return UserError if elsewhere else DamagedVersionError


def _shown(digest: object) -> str:
    return str(digest)[:12] if digest else "(none)"
