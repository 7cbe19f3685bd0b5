"""Train an editor for a base model, or find one that was trained for it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import editors
from editors.catalogue import entry
from editors.generation import generate_greedy
from editors.hypereditor import HyperConfig
from editors.key_statistics import own_writing
from editors.protocol import Kept, Progress, TrainableEditor, load_editor, no_progress, read_manifest
from editors.requests import EditRequest, render_digest
from editors.training import TrainingConfig, fit
from tasks.models import ModelFolder, load
from tasks.placement import PLACEMENT, Placement
from tasks.prompt_check import PromptCheck, askable, askable_prompts
from tasks.records import CannotEditError, Rejected, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PRETRAINED = Path(editors.__file__).parent / "pretrained"
ANSWER_TOKENS = 24


@dataclass(frozen=True)
class TrainedEditor:
    """Where an editor is, its digest, and how it came to be there."""

    folder: Path
    digest: str
    origin: str
    statement: str


def find_editor(
    base_digest: str,
    places: Iterable[Path],
    *,
    chat: bool | None = None,
    name: str = "malmen",
    trained_on: str | None = None,
    split: Mapping[str, float] | None = None,
) -> TrainedEditor | None:
    """The first editor in `places` trained for this base, on chat turns or raw text if such a one is there.

    Its own digest is verified by loading it. `trained_on` is the `data_digest` that it must have; one whose
    manifest names another `split` than this, or a lower bound, has practised on what may be the gates' now,
    and is passed over.

    Raises:
        CannotEditError: the editor that fits is damaged.
    """
    found: list[tuple[bool, Path, str]] = []
    for place in places:
        for manifest_path in sorted(place.glob("*/editor.json")):
            folder = manifest_path.parent
            try:
                manifest = read_manifest(folder)
            except ValueError as error:
                raise CannotEditError(f"the editor in {folder} cannot be used: {error}") from error
            fits = manifest.get("base_digest") == base_digest and manifest["editor"] == name
            apart = _is_apart(manifest.get("split"), split)
            if fits and apart and trained_on in (None, manifest.get("data_digest")):
                other_kind = chat is not None and manifest.get("chat", chat) not in (chat, "both")
                found.append((other_kind, folder, manifest.get("statement", "")))
    if not found:
        return None
    _, folder, statement = min(found, key=lambda editor: editor[0])
    return TrainedEditor(folder, open_editor(folder).digest(), "reused", statement)


def _is_apart(practised: Mapping[str, float] | None, split: Mapping[str, float] | None) -> bool:
    """Whether what was kept for the gates in a training, where that is known, has all that is theirs now.

    The bound depends on the traffic, and rises where a prompt of the gates' leaves it.
    """
    if practised is None or split is None:
        return True
    before, now = dict(practised), dict(split)
    return before.pop("bound", math.inf) >= now.pop("bound", 0) and before == now


def open_editor(folder: Path) -> TrainableEditor:
    """Load an editor, telling a user plainly what is wrong with it.

    Raises:
        CannotEditError: there is no editor, or it is damaged.
    """
    try:
        return load_editor(folder)
    except (FileNotFoundError, ValueError, TypeError, KeyError, OSError) as error:
        told = str(folder) in str(error)
        raise CannotEditError(
            str(error) if told else f"the editor in {folder} cannot be used: {error}"
        ) from error


def train_editor(
    base: ModelFolder,
    requests: Sequence[EditRequest],
    stay: Sequence[str],
    out: Path,
    *,
    chat: bool,
    editor: str = "malmen",
    config: HyperConfig | None = None,
    training: TrainingConfig | None = None,
    checkpoint: Path | None = None,
    split: Mapping[str, float] | None = None,
    progress: Progress = no_progress,
    at: Placement = PLACEMENT,
    source: str = "training data",
    left_out: Callable[[Iterable[Rejected]], object] = list,
) -> TrainedEditor:
    """Train an editor on corrections and on prompts whose answers must stay; save it to `out`.

    Only the base's own answers are used for what must stay, and its own writing for ordinary text. What the
    base cannot be asked is left out, and `left_out` is told of it as a part of `source`. `split` says which
    prompts were kept from it for the gates, where that is known; its manifest has it.

    Raises:
        CannotEditError: there is too little to train on, or the base's loss is not sane.
        UserError: the base cannot be loaded or asked.
    """
    started = time.monotonic()
    config = config or entry(editor).editor_class().config_class()
    training = training or TrainingConfig()
    data = data_digest(requests, stay)
    determined = [editor, data, base.digest, asdict(config), asdict(training), chat, str(at.dtype)]
    inputs = json.dumps(determined, sort_keys=True)
    if checkpoint is not None:
        # A checkpoint is only ever resumed by the training that wrote it.
        checkpoint = checkpoint / hashlib.sha256(inputs.encode()).hexdigest()[:16]
    resumed = checkpoint is not None and checkpoint.exists()
    check = PromptCheck.of(base)
    requests, unaskable = askable(requests, check, source)
    stay, others = askable_prompts(stay, check, source, chat=chat)
    left_out([*unaskable, *others])
    model, tokenizer = load(base, at.dtype, at.device)
    try:
        text = own_writing(model, tokenizer, seed=training.seed)
        # Read again, what was decoded may be more tokens than it was written in.
        text = [passage for passage in text if passage and not check.fault(passage, chat=False)]
        keep = answers_to_keep(model, tokenizer, stay, chat=chat, progress=progress)
        result = fit(
            model,
            tokenizer,
            requests,
            keep,
            text,
            editor=editor,
            config=config,
            training=training,
            checkpoint=checkpoint,
            progress=progress,
        )
    except UserError:
        # Told while it went on, such as that another run has taken the lease.
        raise
    except ValueError as error:
        raise CannotEditError(f"no editor can be trained: {error}") from error
    result.editor.manifest = {
        "base_digest": base.digest,
        "base": base.ref if base.ref.startswith("gguf:") else base.path.name,
        "render_digest": render_digest(tokenizer, chat=chat),
        "chat": _practised(requests),
        "data_digest": data,
        **({} if split is None else {"split": dict(split)}),
        "corrections": len(requests),
        "kept_prompts": len(keep),
        "placement": at.described(),
        "training": asdict(training),
        # Not known of a training that was interrupted: this process saw only its end.
        "training_seconds": None if resumed else round(time.monotonic() - started, 1),
        "history": result.history,
        "learned": result.learned,
        "statement": result.statement,
        "versions": _versions(),
    }
    result.editor.save(out)
    if checkpoint is not None:
        shutil.rmtree(checkpoint, ignore_errors=True)
    return TrainedEditor(out, result.editor.digest(), "trained", result.statement)


def data_digest(requests: Sequence[EditRequest], stay: Sequence[str]) -> str:
    """SHA-256 over what an editor is trained on, as its manifest has it."""
    data = json.dumps([[asdict(request) for request in requests], list(stay)], sort_keys=True)
    return hashlib.sha256(data.encode()).hexdigest()


def _practised(requests: Sequence[EditRequest]) -> bool | Literal["both"]:
    """Whether what was practised on were chat turns."""
    chats = {request.chat for request in requests}
    return chats.pop() if len(chats) == 1 else "both"


def answers_to_keep(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    chat: bool,
    tokens: int = ANSWER_TOKENS,
    progress: Progress = no_progress,
) -> list[Kept]:
    """The model's own short answers to prompts that must keep them.

    Empty answers are left out, and those that the model's positions cut short of an end. Those of raw text
    have the white space that they begin with: without it they are not what the model says.
    """

    def report(done: int, total: int) -> None:
        progress(done, total, "answering what must stay")

    try:
        answers = generate_greedy(
            model, tokenizer, prompts, chat=chat, max_new_tokens=tokens, strip=chat, progress=report
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the model cannot be asked what must stay: {error}") from error
    check = PromptCheck(tokenizer, getattr(model.config.get_text_config(), "max_position_embeddings", None))
    return [
        Kept(prompt, answer, chat)
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer.strip() and not check.fault(prompt, answer, chat=chat)
    ]


def _versions() -> dict[str, Any]:
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}
