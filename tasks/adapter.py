"""A delta as a LoRA adapter in PEFT's format, and what is lost on the way, in numbers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editors.delta import OVERRIDES, Delta, LowRank, applied
from editors.generation import generate_greedy
from editors.widening import Appended
from tasks.export import EXPORT_FILE, placed
from tasks.models import ModelFolder, check_base, load, load_delta
from tasks.records import UserError
from tasks.weights import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# PEFT's own name of the only adapter in a folder: other names get a folder below.
_ADAPTER = "default"
# Singular values below this share of the largest are rounding.
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class Question:
    """A prompt whose answer must survive: a correction's, or one of its phrasings."""

    prompt: str
    chat: bool


@dataclass(frozen=True)
class AdapterReport:
    """What an adapter is and what it loses.

    Attributes:
        rank: of its factors, the same for all matrices.
        wanted: the rank that was asked for; `rank` is lower where the delta's own is.
        errors: by parameter, the Frobenius norm of what is missing, relative to the shift's.
        asked: prompts that adapter and full delta were both asked; 0 where there were none to ask.
        agree: those of them with the same greedy answer, by model with the adapter and model with the delta.
        differing: the other prompts, with the two answers: delta's, adapter's.
    """

    rank: int
    wanted: int
    errors: Mapping[str, float]
    asked: int = 0
    agree: int = 0
    differing: tuple[tuple[str, str, str], ...] = ()

    @property
    def largest(self) -> tuple[str, float]:
        """The matrix with the largest error, and its error."""
        return max(self.errors.items(), key=lambda item: item[1])


def export_adapter(
    folder: ModelFolder,
    out: Path,
    *,
    rank: int,
    questions: Sequence[Question] = (),
    max_new_tokens: int = 48,
) -> AdapterReport:
    """Write a version's delta as a LoRA adapter for its base; what is lost.

    The factors are the best of their rank (the largest singular values), or the delta's own where its rank is
    no higher. The adapter is loaded again by PEFT before it takes its place, and asked what it is to answer.

    Args:
        folder: base and delta.
        out: a new or empty folder, or an earlier export, which is replaced.
        rank: the most of each matrix's factors.
        questions: what is asked of the base with the adapter and with the full delta, greedily.
        max_new_tokens: the longest answer, in tokens.

    Raises:
        UserError: the delta is none that an adapter can hold, or `out` holds something else.
    """
    if rank < 1:
        raise UserError(f"an adapter cannot have rank {rank}; give 1 or more")
    if folder.delta is None:
        raise UserError(f"this version of {folder.ref} is the base itself; there is no adapter to write")
    delta = load_delta(folder.delta, folder)
    check_base(delta.manifest, folder)
    _check_kind(delta)
    model, tokenizer = load(replace(folder, delta=None))
    _check_places(model, delta)
    factors = {name: _factors(shift, rank) for name, shift in delta.shifts.items()}
    errors = {name: _error(delta.dense(name), factors[name]) for name in factors}
    highest = max(max(shift.left.shape[1] for shift in factors.values()), 1)
    report = AdapterReport(highest, rank, errors)
    out = out.absolute()
    with placed(out) as written:
        with quiet(), _peft_as_it_is():
            _write(model, folder, factors, highest, written)
            with applied(model, delta):
                right = _answers(model, tokenizer, questions, max_new_tokens)
            said = _answers(_adapted(model, written), tokenizer, questions, max_new_tokens)
        differing = tuple(
            (question.prompt, a, b) for question, a, b in zip(questions, right, said, strict=True) if a != b
        )
        agree = len(questions) - len(differing)
        report = replace(report, asked=len(questions), agree=agree, differing=differing)
        about = {
            "base": folder.ref,
            "base_digest": folder.digest,
            "delta_digest": delta.digest(),
            "adapter": asdict(report),
        }
        (written / EXPORT_FILE).write_text(json.dumps(about, indent=2, ensure_ascii=False))
    return report


@contextmanager
def _peft_as_it_is() -> Iterator[None]:
    """PEFT asks models by a name that transformers 5 warns of, and tells of layers laid out in two ways.

    No user can change either.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set", UserWarning)
        yield


def _check_kind(delta: Delta) -> None:
    """Refuse a delta that is more than sums of matrices.

    Raises:
        UserError: it widens the model, has overrides, or has no shift.
    """
    wider = next((name for name, shift in delta.shifts.items() if isinstance(shift, Appended)), None)
    if wider is not None:
        raise UserError(
            f"this version makes the model wider ({wider} is the first matrix), which an adapter cannot; "
            "leave out --adapter to export a full checkpoint"
        )
    if delta.manifest.get(OVERRIDES):
        raise UserError(
            f"this version answers {len(delta.manifest[OVERRIDES])} prompts by overrides in front of it, "
            "which an adapter cannot; leave out --adapter to export a full checkpoint with them beside it"
        )
    if not delta.shifts:
        raise UserError("this version's delta changes no matrix; there is no adapter to write")


def _check_places(model: nn.Module, delta: Delta) -> None:
    """Refuse a shift of anything but the weight of a linear layer of its own.

    Raises:
        UserError: naming the parameter.
    """
    everywhere = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    for name in delta.shifts:
        where, _, leaf = name.rpartition(".")
        module = model.get_submodule(where)
        shared = everywhere.count(id(model.get_parameter(name))) > 1
        if leaf != "weight" or shared or not (isinstance(module, nn.Linear) or _is_input_major(module)):
            raise UserError(
                f"this version changes {name}, which an adapter cannot: it holds those of linear layers that "
                "share their weights with no other; leave out --adapter to export a full checkpoint"
            )


def _is_input_major(module: nn.Module) -> bool:
    """Whether it is a Conv1D, which keeps its weight as (in, out)."""
    return hasattr(module, "nf") and hasattr(module, "nx")


def _factors(shift: Tensor | LowRank | Appended, rank: int) -> LowRank:
    """The shift, (rows, columns), as the best factors of at most this rank; its own where that is exact."""
    if isinstance(shift, LowRank) and shift.left.shape[1] <= rank:
        return LowRank(shift.left.float(), shift.right.float())
    if isinstance(shift, LowRank):
        # The decomposition of a product of tall factors costs that of a matrix as small as their rank.
        q_left, r_left = torch.linalg.qr(shift.left.double())
        q_right, r_right = torch.linalg.qr(shift.right.double().T)
        u, s, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        u, v = q_left @ u, v @ q_right.T
    else:
        assert isinstance(shift, Tensor)
        u, s, v = torch.linalg.svd(shift.double(), full_matrices=False)
    kept = min(rank, int((s > _NEGLIGIBLE * s[0]).sum()))
    root = s[:kept].sqrt()
    return LowRank((u[:, :kept] * root).float(), (root[:, None] * v[:kept]).float())


def _error(shift: Tensor, factors: LowRank) -> float:
    """Frobenius norm of shift minus factors, relative to the shift's."""
    size = float(shift.double().norm())
    missing = shift.double() - factors.left.double() @ factors.right.double()
    return float(missing.norm()) / size if size else 0.0


def _write(
    model: PreTrainedModel, folder: ModelFolder, factors: Mapping[str, LowRank], rank: int, out: Path
) -> None:
    """Save the factors through PEFT; the model is itself again afterwards.

    All have one rank, and zeros where they need less: not every server reads a rank for each matrix.
    """
    import peft

    modules = {name.rpartition(".")[0]: shift for name, shift in factors.items()}
    input_major = {name for name in modules if _is_input_major(model.get_submodule(name))}
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=sorted(modules),
        # Where layers are laid out in both ways, PEFT finds each one out by itself.
        fan_in_fan_out=bool(input_major),
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=folder.ref if folder.revision else str(folder.path),
        revision=folder.revision,
    )
    adapted = peft.PeftModel(model, config, adapter_name=_ADAPTER)
    try:
        with torch.no_grad():
            for name, shift in modules.items():
                layer: Any = adapted.base_model.model.get_submodule(name)
                down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
                # The shift is up @ down as (out, in): for an input-major layer its transpose.
                turned = name in input_major
                left, right = (shift.right.T, shift.left.T) if turned else (shift.left, shift.right)
                used = left.shape[1]
                down.zero_()
                up.zero_()
                down[:used].copy_(right)
                up[:, :used].copy_(left)
        adapted.save_pretrained(out, safe_serialization=True, save_embedding_layers=False)
    finally:
        adapted.unload()


def _adapted(model: PreTrainedModel, out: Path) -> PreTrainedModel:
    """The model with the written adapter; it stays adapted."""
    import peft

    adapted: Any = peft.PeftModel.from_pretrained(model, str(out), local_files_only=True)
    # Beneath PEFT's wrapper is the model's own class, whose layers are adapted.
    return adapted.eval().base_model.model


def _answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], tokens: int
) -> list[str]:
    """Greedy answers in the order of the questions."""
    said: dict[Question, str] = {}
    for chat in (True, False):
        some = list(dict.fromkeys(question for question in questions if question.chat == chat))
        if some:
            prompts = [question.prompt for question in some]
            outputs = generate_greedy(model, tokenizer, prompts, chat=chat, max_new_tokens=tokens)
            said |= dict(zip(some, outputs, strict=True))
    return [said[question] for question in questions]
