"""Edit a model from a file, outside any registry: corrections in, a full checkpoint out."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from editors.catalogue import entry, is_trained, listed
from editors.delta import OVERRIDES, Delta
from editors.generation import generate_greedy
from editors.overrides import Overrides
from editors.protocol import Kept
from editors.requests import EditRequest
from editors.subject import with_subjects
from editors.subject_editing import SubjectEditor
from flows.console import Narrator, ReportProgress
from flows.settings import CorrectSettings
from tasks.apply import Applied, apply, kind_warning, open_any_editor
from tasks.export import check_export, export_checkpoint
from tasks.formats import read_requests
from tasks.models import ModelFolder, load, resolve
from tasks.own_prompts import prompts_like
from tasks.placement import PLACEMENT, Placement
from tasks.prompt_check import PromptCheck, askable
from tasks.records import Rejected, UserError
from tasks.rephrase import rephrase, wording
from tasks.train import PRETRAINED, answers_to_keep, find_editor
from validation.matching import matches

LOCALITY_TOKENS = 12
OWN_PROMPTS = 32
CHECK_TOKENS = 48


@dataclass(frozen=True)
class Edited:
    """What was applied, what was left out, and how many corrections the written model answers.

    `overrides` is the number of answers written beside the checkpoint, which its weights do not hold,
    `own_prompts` that of the prompts which the model wrote itself because none was named that must stay,
    `guessed` that of the subjects which an editor that writes at subjects was not given.
    """

    applied: Applied
    rejected: list[Rejected]
    right: int
    overrides: int = 0
    editor: str = ""
    own_prompts: int = 0
    guessed: int = 0


def editor_for(name: str, base: ModelFolder, home: Path, *, chat: bool) -> str:
    """The folder of the editor for this base, where `name` is one that is trained; any other name as it is.

    Raises:
        UserError: no editor for this base is known.
    """
    if not is_trained(name):
        return name
    found = find_editor(base.digest, [home / "editors", PRETRAINED], chat=chat, name=name)
    if found is None:
        raise UserError(
            f"there is no {name} editor for {base.ref}: train one with `mendflow train-editor --model "
            f"{base.ref} --data FILE --editor {name} --out DIR` and name its folder, or name one of "
            f"{listed(trained=False)}, which need no training"
        )
    return str(found.folder)


def edit_file(
    settings: CorrectSettings,
    model: str,
    data: Path,
    out: Path,
    *,
    editor: str,
    n: int | None,
    chat: bool,
    own_prompts: int | None = None,
    modules: str | None = None,
    expires_at: str | None = None,
    at: Placement = PLACEMENT,
) -> Edited:
    """Apply the corrections of a file to a model in one solve, write it, and ask what was written.

    Where the file names no prompt that must stay, the model writes `own_prompts` like those of the file
    (`OWN_PROMPTS` of them unless a number is given), for an editor that takes notice of them.

    Args:
        settings: where the stores are.
        model: any reference that `tasks.models.resolve` knows.
        data: the corrections, in any format of `tasks.formats`.
        out: folder for the checkpoint, whose weights have the dtype of `at`.
        editor: a name, or the folder of a trained editor.
        n: use the first so many corrections.
        chat: whether prompts are chat turns.
        own_prompts: see above.
        modules: regular expression over the names of the modules to edit; None for the editor's own choice.
        expires_at: until when overrides hold, an ISO 8601 instant with its offset; None for good.
        at: where the model is put to be edited and asked.

    Raises:
        UserError: model, data or editor cannot be used, or the file holds no usable correction.
    """
    narrator = Narrator()
    check_export(out)
    requests, rejected = read_requests(data, chat=chat)
    requests = requests[:n]
    if not requests:
        raise UserError(
            f"{data} holds no usable correction: {rejected[0].reason if rejected else 'it is empty'}"
        )
    if any(request.chat != chat for request in requests):
        raise UserError(
            f"{data} holds {'raw text' if chat else 'chat turns'}; say {'--text' if chat else '--chat'}"
        )
    with narrator.stage("model", f"Find the model {model}"):
        base = resolve(model, cache=settings.home / "models", tracking_uri=settings.tracking)
        check = PromptCheck.of(base)
        if chat and not check.takes_chat:
            raise UserError(
                f"{model} has no chat template, so its prompts cannot be chat turns; leave out --chat"
            )
        if check.takes_chat and not chat:
            narrator.say("taught as raw text; --chat teaches turns of the model's chat template")
        requests, unaskable = askable(requests, check, data.name)
        rejected += unaskable
        if not requests:
            raise UserError(f"{data} holds no correction that {model} can be asked: {unaskable[0].reason}")
    with narrator.stage("editor", "Open the editor") as progress:
        named = editor_for(editor, base, settings.home, chat=chat)
        changes = {"modules": modules, "expires_at": expires_at}
        changes = {name: value for name, value in changes.items() if value is not None}
        opened = open_any_editor(named, base, settings.key_statistics, progress, at=at, settings=changes)
    guessed = 0
    if isinstance(opened, SubjectEditor):
        given = {request.id for request in requests if request.subject is not None}
        requests, nameless = with_subjects(requests)
        rejected += [
            Rejected(source=f"{data.name}, {request.prompt[:40]!r}", reason=fault)
            for request, fault in nameless
        ]
        if not requests:
            raise UserError(f"{opened.name} writes at subjects, and {data} has none: {nameless[0][1]}")
        guessed = sum(request.id not in given for request in requests)
    narrator.warn(kind_warning(opened, [request.chat for request in requests]))
    keep: list[Kept] = []
    own = 0
    if entry(opened.name).keeps:
        wanted = OWN_PROMPTS if own_prompts is None else own_prompts
        with narrator.stage("locality", "Ask the model what must stay") as progress:
            keep, own = _to_hold(base, requests, check, wanted, chat, progress, at)
    else:
        narrator.warn(_not_held(opened.name, len(_named(requests)), own_prompts))
    with tempfile.TemporaryDirectory(prefix="mendflow-") as scratch:
        with narrator.stage("apply", f"Apply {len(requests)} corrections in one solve") as progress:
            folder = Path(scratch) / "delta"
            source = {"source": data.name}
            applied = apply(base, opened, requests, keep, folder, manifest=source, progress=progress, at=at)
        with narrator.stage("write", "Write the checkpoint and load it again"):
            delta = Delta.load(folder)
            export_checkpoint(base, delta, out, dtype=at.dtype)
            overrides = Overrides.from_json(delta.manifest.get(OVERRIDES, []))
    with narrator.stage("check", "Ask the written model") as progress:
        written, tokenizer = load(resolve(str(out), cache=settings.home / "models"), at.dtype, at.device)

        def generate(prompts: list[str]) -> list[str]:
            return generate_greedy(
                written,
                tokenizer,
                prompts,
                chat=chat,
                max_new_tokens=CHECK_TOKENS,
                progress=lambda done, total: progress(done, total, ""),
            )

        outputs = overrides.answer([request.prompt for request in requests], generate, chat=chat)
    right = sum(matches(o, r.target, chat=chat) for o, r in zip(outputs, requests, strict=True))
    return Edited(applied, rejected, right, len(overrides), opened.name, own, guessed)


def _to_hold(
    base: ModelFolder,
    requests: Sequence[EditRequest],
    check: PromptCheck,
    own_prompts: int,
    chat: bool,
    progress: ReportProgress,
    at: Placement,
) -> tuple[list[Kept], int]:
    """The prompts that must stay with the base's answers, and how many of them the model wrote itself.

    It writes as many as are wanted, or as it can think of, where the requests name none.
    """
    stay = _named(requests)
    if not stay and not own_prompts:
        return [], 0
    own = 0
    loaded, tokenizer = load(base, at.dtype, at.device)
    if not stay:
        written = prompts_like(
            loaded,
            tokenizer,
            [request.prompt for request in requests],
            own_prompts,
            # Held still, another wording of a correction would hold the answer that is wrong.
            barred={wording(p.text) for r in requests for p in rephrase(r.prompt, chat=chat)},
            restating=[text for request in requests for text in (request.prompt, *request.equivalents)],
            progress=progress,
        )
        stay = [prompt for prompt in written if not check.fault(prompt, chat=chat)]
        own = len(stay)
    keep = answers_to_keep(loaded, tokenizer, stay, chat=chat, tokens=LOCALITY_TOKENS, progress=progress)
    return keep, own


def _named(requests: Sequence[EditRequest]) -> list[str]:
    """The prompts that the requests name as ones that must stay."""
    return list(dict.fromkeys(prompt for request in requests for prompt in request.locality))


def _not_held(editor: str, named: int, own_prompts: int | None) -> str:
    """That the editor does nothing with what the user asked to be held; empty where nobody asked."""
    asked = [f"the {named} of the column `locality`"] if named else []
    asked += ["what --own-prompts asks for"] if own_prompts else []
    if not asked:
        return ""
    return (
        f"{editor} takes no notice of prompts that must stay, so {' and '.join(asked)} "
        "did nothing: name another editor to have them held"
    )
