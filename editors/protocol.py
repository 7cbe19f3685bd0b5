"""What every editor is: requests and a model in, a delta out; and how editors are named, saved and loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch

from editors.catalogue import entry, is_trained
from editors.delta import Delta
from editors.requests import EditRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EDITOR_FILE = "editor.json"
WEIGHTS_FILE = "editor.safetensors"

Progress = Callable[[int, int, str], None]


def no_progress(done: int, total: int, note: str) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class Kept:
    """A prompt whose present answer must stay: locality, as an editor sees it.

    `opening` is as much of the answer, from its beginning, as makes it a right one, where that is known.
    """

    prompt: str
    answer: str
    chat: bool = True
    opening: str | None = None


class Editor(Protocol):
    """An editor never changes the model it is given; it answers with a delta."""

    @property
    def name(self) -> str:
        """What the editor is called in the catalogue."""

    def edit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        keep: Sequence[Kept] = (),
        *,
        progress: Progress = no_progress,
    ) -> Delta:
        """One delta for all requests together; no requests give a delta without shifts."""

    def configuration(self) -> dict[str, Any]:
        """Everything that, with the weights, determines what `edit` does; plain JSON values."""

    def digest(self) -> str:
        """SHA-256 over configuration and weights."""


class WeightlessEditor:
    """What editors without weights share: they are what their name and configuration, a dataclass, say."""

    name: ClassVar[str]
    config: Any

    def configuration(self) -> dict[str, Any]:
        """The configuration."""
        return {"config": asdict(self.config)}

    def digest(self) -> str:
        """SHA-256 over the configuration."""
        return configuration_digest({"editor": self.name, **self.configuration()}, {})


class TrainableEditor(Editor, Protocol):
    """An editor that learns before it edits, and is kept as safetensors and JSON."""

    manifest: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write the editor and its manifest into `folder`."""

    def check_base(self, digest: str) -> None:
        """Raise EditorMismatchError unless the editor was trained on the base with this digest."""


class EditorMismatchError(ValueError):
    """The editor was trained for another base model."""


def provenance(editor: Editor) -> dict[str, Any]:
    """What a delta's manifest says of the editor that made it."""
    return {
        "editor": editor.name,
        "editor_digest": editor.digest(),
        "editor_configuration": editor.configuration(),
    }


def configuration_digest(configuration: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over a configuration and named tensors."""
    digest = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The JSON beside an editor's weights.

    Raises:
        FileNotFoundError: the folder holds no editor.
        ValueError: the manifest is damaged.
    """
    path = folder / EDITOR_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no editor: {EDITOR_FILE} is missing")
    try:
        manifest = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); train the editor again") from error
    if not isinstance(manifest, dict) or "editor" not in manifest:
        raise ValueError(f"{path} does not name its editor; train the editor again")
    return manifest


def load_editor(folder: Path) -> TrainableEditor:
    """Load a trained editor of any kind from its folder.

    Raises:
        FileNotFoundError, ValueError: there is none, it is damaged, or its kind is not known.
    """
    name = read_manifest(folder)["editor"]
    if not is_trained(name):
        raise ValueError(f"{folder} holds an editor of kind {name!r}, which this version does not know")
    editor: TrainableEditor = entry(name).editor_class().load(folder)
    return editor
