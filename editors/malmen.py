"""MALMEN: a hypernetwork proposes value changes, one least-squares solve makes them a shift of the weights.

Tan, Zhang and Fu, "Massive Editing for Large Language Models via Meta Learning" (ICLR 2024), on the gradient
decomposition of MEND (Mitchell et al. 2022), with two changes. The ridge term is the second moment of inputs
whose outputs must stay, so that locality is part of the solve and not only of the training. And the network
starts as the identity on the gradient itself, which makes the untrained editor a usable one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from editors.capture import Captured, evaluating
from editors.delta import Delta
from editors.gather import answered_exactly, encode_requests, gather, gather_keys, restored
from editors.hypernetwork import HyperNetwork
from editors.locate import EditableModule, default_modules
from editors.normaliser import RunningMoments
from editors.protocol import (
    EDITOR_FILE,
    WEIGHTS_FILE,
    EditorMismatchError,
    Kept,
    Progress,
    configuration_digest,
    no_progress,
    read_manifest,
)
from editors.replay import PrefixCache
from editors.requests import EditRequest, Example, encode, pad_id
from editors.second_moment import compress, expand, second_moment
from editors.solve import Regulariser, RidgeSolution, ridge_solve

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Tokens of an answer that must stay which are put back where they moved: enough to hold what it says.
OPENING = 12


@dataclass(frozen=True)
class MalmenConfig:
    """How a MALMEN editor is built.

    Attributes:
        modules: regular expression over module names; by default MLP outputs of late blocks.
        rank: of the hypernetwork's low-rank maps.
        depth: its number of blocks.
        passes: captures and solves per edit; a later one sees only what the earlier left undone.
        share: of the learned step that each pass takes; small steps disturb less.
        rate: initial size of a value change, as a share of what the matrices write together.
        strength: initial weight of the regulariser against the edits.
        kept_weight: weight of keys whose answers must stay, against ordinary text.
        text_rank, kept_rank: eigenvectors kept of the stored second moments.
        seed: of the initial weights.
    """

    modules: str | None = None
    rank: int = 256
    depth: int = 2
    passes: int = 4
    share: float = 0.6
    rate: float = 0.08
    strength: float = 1.0
    kept_weight: float = 30.0
    text_rank: int = 48
    kept_rank: int = 144
    seed: int = 0


class Malmen(nn.Module):
    """The editor: hypernetworks by shape of matrix, and a rate and a strength for every matrix."""

    name = "malmen"

    def __init__(self, config: MalmenConfig, modules: Sequence[EditableModule]) -> None:
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
        self.log_strength = nn.Parameter(torch.full((count,), config.strength).log())
        # How rate and strength change with the logarithm of the number of corrections.
        self.rate_slope = nn.Parameter(torch.zeros(count))
        self.strength_slope = nn.Parameter(torch.zeros(count))
        self.output_scale = nn.Buffer(torch.ones(count))
        for index, module in enumerate(modules):
            for kind, rank in (("text", config.text_rank), ("kept", config.kept_rank)):
                self.register_buffer(
                    f"{kind}_factors_{index}", torch.zeros(module.d_in, min(rank, module.d_in))
                )
                self.register_buffer(f"{kind}_rest_{index}", torch.ones(()))

    @classmethod
    def untrained(cls, model: PreTrainedModel, config: MalmenConfig | None = None) -> Malmen:
        """An editor for `model` at its initialisation."""
        config = config or MalmenConfig()
        editor = cls(config, default_modules(model, config.modules))
        for index, module in enumerate(editor.modules_edited):
            editor.output_scale[index] = model.get_parameter(module.parameter).detach().float().norm()
        return editor

    def rate(self, name: str, n: int) -> Tensor:
        """Size of the value changes of one module when `n` corrections are made together."""
        index = self._index[name]
        exponent = self.log_rate[index] + self.rate_slope[index] * _batch_feature(n)
        return exponent.exp() * self.output_scale[index] / len(self.modules_edited)

    def log_strength_for(self, name: str, n: int) -> Tensor:
        """Logarithm of the weight of one module's regulariser when `n` corrections are made together."""
        index = self._index[name]
        return self.log_strength[index] + self.strength_slope[index] * _batch_feature(n)

    def values(self, module: EditableModule, captured: Captured, n: int) -> Tensor:
        """Wanted output changes V (tokens, d_out) for captured keys and gradients.

        v_i = -rate * (1 + z_u . (u~ - z_u) / d_in) * (d_i / |d| + (d~ - z_d) / sqrt(d_out)), where (z_u, z_d)
        are the normalised key and gradient, (u~, d~) the network's answer and |d| the typical gradient norm:
        MALMEN's -rate * (u . u~) * d~, written so that an identity network gives -rate * d_i / |d|.
        """
        key = _shape_key(module.d_in, module.d_out)
        key_moments, moments = self._moments(key)
        norm = (moments.deviation.square() + moments.mean.square()).sum().sqrt().float()
        normalised = torch.cat([key_moments(captured.keys), moments(captured.gradients)], dim=1)
        pseudo_keys, pseudo_gradients = self.networks[key](normalised, self._member[module.name])
        z_keys, z_gradients = normalised[:, : module.d_in], normalised[:, module.d_in :]
        weight = 1 + (z_keys * (pseudo_keys - z_keys)).mean(1, keepdim=True)
        direction = captured.gradients / norm + (pseudo_gradients - z_gradients) / module.d_out**0.5
        return -self.rate(module.name, n) * weight * direction

    def regularisers(self, kept_keys: Mapping[str, Tensor] | None = None) -> dict[str, Regulariser]:
        """What must not move, by module name: ordinary text, the editor's stored keys, and `kept_keys`."""
        result = {}
        for index, module in enumerate(self.modules_edited):
            stored = {
                kind: expand(
                    self.get_buffer(f"{kind}_factors_{index}"), self.get_buffer(f"{kind}_rest_{index}")
                )
                for kind in ("text", "kept")
            }
            matrix = stored["text"] + self.config.kept_weight * stored["kept"]
            if kept_keys is not None and len(kept_keys[module.name]):
                matrix = matrix + self.config.kept_weight * second_moment(kept_keys[module.name])
            result[module.name] = Regulariser.damped(matrix)
        return result

    def solve(
        self, captured: Mapping[str, Captured], n: int, regularisers: Mapping[str, Regulariser]
    ) -> Iterator[tuple[EditableModule, RidgeSolution]]:
        """One least-squares step for every module in turn."""
        for module in self.modules_edited:
            with torch.no_grad():
                values = self.values(module, captured[module.name], n)
                strength = self.log_strength_for(module.name, n).exp()
                keys = captured[module.name].keys
                yield module, ridge_solve(keys, values, regularisers[module.name], strength)

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
        if not requests:
            return Delta({}, {"editor": self.name, "editor_digest": self.digest()})
        pad = pad_id(tokenizer)
        examples = encode_requests(tokenizer, requests)
        kept = [encode(tokenizer, k.prompt, k.answer, chat=k.chat) for k in keep]
        cache = PrefixCache(model, self.modules_edited)
        shifts: dict[str, Tensor] = {}
        with evaluating(model), restored(model, self.modules_edited) as originals:
            kept_keys = gather_keys(model, self.modules_edited, kept, pad) if kept else None
            regularisers = self.regularisers(kept_keys)
            for number in range(self.config.passes):
                rows = examples + (_moved(model, kept, pad, cache) if number else [])
                captured = gather(model, self.modules_edited, rows, pad, cache)
                for module, solution in self.solve(captured, len(requests), regularisers):
                    shift = module.shift_for_weight(self.config.share * solution.shift)
                    shifts[module.parameter] = shifts.get(module.parameter, 0) + shift
                    set_weight(model, module.parameter, originals[module.parameter], shifts[module.parameter])
                progress(number + 1, self.config.passes, "solved")
        delta = Delta(
            {name: shift.contiguous() for name, shift in shifts.items()},
            {
                "editor": self.name,
                "editor_digest": self.digest(),
                "editor_configuration": self.configuration(),
            },
        )
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

    def observe(self, captured: Mapping[str, Captured]) -> None:
        """Merge captured rows into the normalisers."""
        for module in self.modules_edited:
            key_moments, gradient_moments = self._moments(_shape_key(module.d_in, module.d_out))
            key_moments.update(captured[module.name].keys)
            gradient_moments.update(captured[module.name].gradients)

    def parameter_groups(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Parameters with the factor on their learning rate: scalars have further to go than weights."""
        scalars = [self.log_rate, self.log_strength, self.rate_slope, self.strength_slope]
        return [(1.0, list(self.networks.parameters())), (10.0, scalars)]

    def _moments(self, key: str) -> tuple[RunningMoments, RunningMoments]:
        keys, gradients = self.key_moments[key], self.gradient_moments[key]
        assert isinstance(keys, RunningMoments)
        assert isinstance(gradients, RunningMoments)
        return keys, gradients

    def store_moments(self, text_keys: Mapping[str, Tensor], kept_keys: Mapping[str, Tensor]) -> None:
        """Keep, compressed, the second moments of keys of ordinary text and of answers that must stay."""
        for index, module in enumerate(self.modules_edited):
            for kind, keys in (("text", text_keys), ("kept", kept_keys)):
                factors, rest = compress(
                    second_moment(keys[module.name]), self.get_buffer(f"{kind}_factors_{index}").shape[1]
                )
                self.get_buffer(f"{kind}_factors_{index}").copy_(factors)
                self.get_buffer(f"{kind}_rest_{index}").copy_(rest)

    def rounded(self) -> Malmen:
        """This editor with its weights rounded to fp16, as on disk; statistics stay as they are."""
        with torch.no_grad():
            for name, tensor in self.state_dict().items():
                if _kept_in_half(name):
                    tensor.copy_(tensor.half())
        return self

    def save(self, folder: Path) -> None:
        """Write weights (fp16), statistics and manifest into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.rounded()
        state = {
            name: (tensor.half() if _kept_in_half(name) else tensor).contiguous()
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
        # The manifest comes last: without it there is no editor, so a kill leaves no half of one.
        os.replace(weights_file, folder / WEIGHTS_FILE)
        os.replace(manifest_file, folder / EDITOR_FILE)

    @classmethod
    def load(cls, folder: Path) -> Malmen:
        """Read an editor written by `save`.

        Raises:
            ValueError: the weights are not those the manifest was written for.
        """
        manifest = read_manifest(folder)
        try:
            modules = [EditableModule(name, *shape) for name, shape in manifest["modules"].items()]
            editor = cls(MalmenConfig(**manifest["config"]), modules)
            current = editor.state_dict()
            stored = load_file(folder / WEIGHTS_FILE)
            editor.load_state_dict({name: tensor.to(current[name].dtype) for name, tensor in stored.items()})
        except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"the editor in {folder} is damaged, train it again: {error}") from error
        editor.manifest = manifest
        if editor.digest() != manifest["editor_digest"]:
            raise ValueError(f"the editor in {folder} is damaged: its digest differs from its manifest's")
        return editor


def _moved(model: nn.Module, kept: Sequence[Example], pad: int, cache: PrefixCache) -> list[Example]:
    """Openings of the answers that must stay and no longer do: what a later pass has to put back."""
    openings = [Example(example.prompt_ids, example.target_ids[:OPENING]) for example in kept]
    still = answered_exactly(model, openings, pad, cache)
    return [opening for opening, stays in zip(openings, still, strict=True) if not stays]


def _batch_feature(n: int) -> float:
    return math.log(max(n, 1)) / math.log(64)


def _shape_key(d_in: int, d_out: int) -> str:
    return f"{d_in}x{d_out}"


def _kept_in_half(name: str) -> bool:
    return name.startswith("networks.") or "_factors_" in name


def set_weight(model: nn.Module, parameter: str, original: Tensor, shift: Tensor) -> None:
    """Make a parameter its original plus a shift, added in fp32."""
    with torch.no_grad():
        model.get_parameter(parameter).copy_(original.float() + shift)
