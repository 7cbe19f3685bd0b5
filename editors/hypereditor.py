"""What editors with a hypernetwork share: networks by shape of matrix, rates, statistics, and their file."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from editors.capture import Captured, device_of
from editors.delta import Delta
from editors.hypernetwork import HyperNetwork
from editors.locate import EditableModule
from editors.normaliser import RunningMoments
from editors.protocol import (
    EDITOR_FILE,
    WEIGHTS_FILE,
    EditorMismatchError,
    Kept,
    Progress,
    configuration_digest,
    no_progress,
    provenance,
    read_manifest,
)
from editors.requests import EditRequest, Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Captured rows by module name, batch after batch; they can be gone through more than once.
Rows = Callable[[], Iterator[Mapping[str, Captured]]]


@dataclass(frozen=True)
class HyperConfig:
    """What the configurations of editors with a hypernetwork have in common; see the editors' own."""

    modules: str | None = None
    rank: int = 256
    depth: int = 2
    rate: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Proposal:
    """Shifts (d_in, d_out) by module name, and the way back from them.

    `backward` takes dL/dS by module name and adds what follows from it to the editor's parameters' `.grad`.
    It goes through the captured rows again, on the model they were captured from, and so keeps no graph.
    """

    shifts: Mapping[str, Tensor]
    backward: Callable[[Mapping[str, Tensor]], None]


class HyperEditor(nn.Module, ABC):
    """Networks shared by matrices of one shape, and a rate for every matrix that depends on the batch."""

    name: ClassVar[str]
    config_class: ClassVar[type[HyperConfig]]
    # Parts of the names of tensors that are kept in fp16 on disk.
    fp16_parts: ClassVar[tuple[str, ...]] = ("networks.",)
    # Factors on the initial rate of which a training takes the best to begin with.
    rates_tried: ClassVar[tuple[float, ...]] = (1.0,)

    def __init__(self, config: HyperConfig, modules: Sequence[EditableModule]) -> None:
        super().__init__()
        self.config = config
        self.modules_edited = list(modules)
        self.manifest: dict[str, Any] = {}
        shapes = sorted({(m.d_in, m.d_out) for m in modules})
        members = {s: [m.name for m in modules if (m.d_in, m.d_out) == s] for s in shapes}
        self._member = {name: i for names in members.values() for i, name in enumerate(names)}
        self._index = {m.name: i for i, m in enumerate(modules)}
        self.networks, self.key_moments, self.gradient_moments = (nn.ModuleDict() for _ in range(3))
        for d_in, d_out in shapes:
            key, count = _shape_key(d_in, d_out), len(members[d_in, d_out])
            self.networks[key] = HyperNetwork(d_in, d_out, count, config.rank, config.depth, config.seed)
            self.key_moments[key] = RunningMoments(d_in)
            self.gradient_moments[key] = RunningMoments(d_out)
        count = len(modules)
        self.log_rate = nn.Parameter(torch.full((count,), config.rate).log())
        # How the rate changes with the logarithm of the number of corrections.
        self.rate_slope = nn.Parameter(torch.zeros(count))
        self.output_scale = nn.Buffer(torch.ones(count))

    @staticmethod
    @abstractmethod
    def modules_for(model: nn.Module, pattern: str | None) -> list[EditableModule]:
        """The matrices to edit: those whose name matches `pattern`, or the editor's default."""

    @abstractmethod
    def propose(self, rows: Rows, n: int) -> Proposal:
        """Shifts for the captured rows of `n` corrections."""

    @abstractmethod
    def edit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        keep: Sequence[Kept] = (),
        *,
        progress: Progress = no_progress,
    ) -> Delta:
        """One delta for all requests together, equivalents included; the model is left as it was."""

    @property
    def all_tokens(self) -> bool:
        """Whether rows are captured at every token, or only where a token of the answer is predicted."""
        return False

    # What is needed of prompts that must stay is taken before the first step of a training.
    def study(self, model: nn.Module, text: Sequence[Example], kept: Sequence[Example], pad: int) -> None:
        """Take what the editor keeps of ordinary text and of prompts that must stay; nothing by default."""

    @classmethod
    def untrained(cls, model: PreTrainedModel, config: HyperConfig | None = None) -> Self:
        """An editor for `model` at its initialisation."""
        config = config or cls.config_class()
        editor = cls(config, cls.modules_for(model, config.modules))
        for index, module in enumerate(editor.modules_edited):
            editor.output_scale[index] = model.get_parameter(module.parameter).detach().float().norm()
        return editor.to(device_of(model))

    def network(self, module: EditableModule) -> tuple[Callable[..., tuple[Tensor, Tensor]], int]:
        """The network of a module's shape, and the module's number in it."""
        return self.networks[_shape_key(module.d_in, module.d_out)], self._member[module.name]

    def moments(self, module: EditableModule) -> tuple[RunningMoments, RunningMoments]:
        """Statistics of the keys and of the gradients of a module's shape."""
        key = _shape_key(module.d_in, module.d_out)
        keys, gradients = self.key_moments[key], self.gradient_moments[key]
        assert isinstance(keys, RunningMoments)
        assert isinstance(gradients, RunningMoments)
        return keys, gradients

    def learned_rate(self, name: str, n: int) -> Tensor:
        """Learned rate of one module for `n` corrections together, in units of the norm of its weight."""
        index = self._index[name]
        exponent = self.log_rate[index] + self.rate_slope[index] * batch_feature(n)
        return exponent.exp() * self.output_scale[index]

    def observe(self, captured: Mapping[str, Captured]) -> None:
        """Merge captured rows into the normalisers."""
        for module in self.modules_edited:
            key_moments, gradient_moments = self.moments(module)
            key_moments.update(captured[module.name].keys)
            gradient_moments.update(captured[module.name].gradients)

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Parameters with the factor on their learning rate: scalars have further to go than weights."""
        return [(1.0, list(self.networks.parameters())), (10.0, list(self.parameters(recurse=False)))]

    def delta(self, shifts: Mapping[str, Tensor]) -> Delta:
        """A delta of shifts by parameter name, with this editor's part of the manifest.

        Raises:
            ValueError: a shift is not finite.
        """
        delta = Delta({name: shift.contiguous() for name, shift in shifts.items()}, provenance(self))
        delta.check_finite()
        return delta

    def configuration(self) -> dict[str, Any]:
        """The configuration and the edited modules."""
        return {"config": asdict(self.config), "modules": [m.name for m in self.modules_edited]}

    def digest(self) -> str:
        """SHA-256 over configuration and weights."""
        return configuration_digest({"editor": self.name, **self.configuration()}, dict(self.state_dict()))

    def check_base(self, digest: str) -> None:
        """Raise EditorMismatchError unless the editor was trained on the base with this digest."""
        trained_on = self.manifest.get("base_digest")
        if trained_on != digest:
            raise EditorMismatchError(
                f"this editor was trained on the base {str(trained_on)[:12]}, not on {digest[:12]}: "
                "train one for this base with `mendflow train-editor`"
            )

    def rounded(self) -> Self:
        """This editor with its weights rounded to fp16, as on disk; statistics stay as they are."""
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                if self._kept_in_half(name):
                    tensor.copy_(tensor.half())
        return self

    def save(self, folder: Path) -> None:
        """Write weights (fp16), statistics and manifest into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.rounded()
        state = {
            name: (tensor.half() if self._kept_in_half(name) else tensor).contiguous()
            for name, tensor in self.state_dict().items()
        }
        weights_file, manifest_file = folder / f"{WEIGHTS_FILE}.new", folder / f"{EDITOR_FILE}.new"
        save_file(state, weights_file)
        shapes = {m.name: [m.d_in, m.d_out, m.input_major] for m in self.modules_edited}
        manifest = {
            **self.manifest,
            "editor": self.name,
            "config": asdict(self.config),
            "modules": shapes,
            "editor_digest": self.digest(),
        }
        # Unsorted: as text block 10 comes before block 8, and the statistics go by the order of the modules.
        manifest_file.write_text(json.dumps(manifest, indent=2) + "\n")
        # The manifest goes first and comes last: without it there is no editor, so a kill leaves no half.
        (folder / EDITOR_FILE).unlink(missing_ok=True)
        os.replace(weights_file, folder / WEIGHTS_FILE)
        os.replace(manifest_file, folder / EDITOR_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an editor written by `save`.

        Raises:
            ValueError: the weights are not those the manifest was written for.
        """
        manifest = read_manifest(folder)
        try:
            modules = [EditableModule(name, *shape) for name, shape in manifest["modules"].items()]
            editor = cls(cls.config_class(**manifest["config"]), modules)
            current = editor.state_dict()
            stored = load_file(folder / WEIGHTS_FILE)
            editor.load_state_dict({name: tensor.to(current[name].dtype) for name, tensor in stored.items()})
        except (AttributeError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"the editor in {folder} is damaged, train it again: {error}") from error
        editor.manifest = manifest
        # As it was written: an earlier version knew nothing of some settings of this one.
        written = {"editor": cls.name, **editor.configuration(), "config": manifest["config"]}
        if configuration_digest(written, dict(editor.state_dict())) != manifest["editor_digest"]:
            raise ValueError(f"the editor in {folder} is damaged: its digest differs from its manifest's")
        return editor

    def _kept_in_half(self, name: str) -> bool:
        return any(part in name for part in self.fp16_parts)


def batch_feature(n: int) -> float:
    """The logarithm of the number of corrections, 1 at 64."""
    return math.log(max(n, 1)) / math.log(64)


def _shape_key(d_in: int, d_out: int) -> str:
    return f"{d_in}x{d_out}"
