"""One trial: a method on given corrections, measured. What it fixed, what it moved, and what it cost."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from editors.capture import answer_loss
from editors.delta import OVERRIDES, Delta, add_in_place, applied
from editors.gather import encode_requests
from editors.generation import generate_greedy
from editors.overrides import Overrides
from editors.protocol import Editor, Progress, no_progress
from editors.requests import EditRequest, Example, collate, pad_id
from editors.subject import with_subjects
from editors.subject_editing import SubjectEditor
from tasks.apply import clock, open_any_editor, unit_seconds
from tasks.models import ModelFolder, load
from tasks.records import UserError
from validation.divergence import teacher_forced_success
from validation.matching import matches
from validation.metric_definitions import TEACHER_FORCED
from validation.outcomes import EDIT, EQUIVALENCE
from validation.statistics import wilson

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HARMONIC_MEAN = "harmonic_mean"
LOCALITY = "locality_agreement_five_tokens"
LOCALITY_TOKENS = 5
# Whoever is asked in a chat turn may lead up to the answer; a continuation begins with it, or is wrong.
CHAT_TOKENS = 48
# Room behind the longest target, to see that its last word ends there.
SLACK = 4
UNIT_PASSES = 3
UNIT_STEPS = 8


@dataclass(frozen=True)
class Case:
    """A correction as the method is given it, and what only its judge knows."""

    request: EditRequest
    held_out: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What is to be measured; each draw of corrections begins at the pristine base.

    Attributes:
        base: the model.
        editor: the name of an editor that is not trained, or the folder of one that is.
        draws: disjoint sets of corrections; what is measured is pooled over them.
        chained: whether a draw's corrections come one after another, each to the model the last one left,
            instead of all at once.
        device: where the model is put.
        cache: folder for key statistics of the base, which are gathered before anything is timed.
    """

    base: ModelFolder
    editor: str
    draws: tuple[tuple[Case, ...], ...]
    chained: bool = False
    device: str = "cpu"
    cache: Path | None = None


@dataclass
class _Tally:
    marks: dict[str, list[bool]] = field(default_factory=lambda: {EDIT: [], EQUIVALENCE: [], LOCALITY: []})
    forced: list[float] = field(default_factory=list)
    without_subject: int = 0
    seconds: float = 0.0
    unit_seconds: float = 0.0


@dataclass(frozen=True)
class _Subject:
    """The model under trial, loaded."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: bool

    def say(self, prompts: Sequence[str], tokens: int, overrides: Overrides | None = None) -> list[str]:
        def generate(asked: list[str]) -> list[str]:
            return generate_greedy(self.model, self.tokenizer, asked, chat=self.chat, max_new_tokens=tokens)

        return (overrides or Overrides()).answer(prompts, generate, chat=self.chat)


def measure(trial: Trial, progress: Progress = no_progress) -> dict[str, Any]:
    """Run a trial in this process and return its figures as plain JSON values.

    Success and locality are greedy, each with n and its 95 % interval; locality is the share of prompts whose
    first five greedy tokens are the base's. `seconds_per_edit` is wall-clock time inside the method,
    `unit_seconds` that of E for one correction: a forward and a backward pass over the tokens it was given,
    right beside. `peak_bytes` is the most memory during the first draw's edit above what the loaded model
    takes; it is honest only in a process that did nothing before.

    Raises:
        UserError: the method cannot edit this model with these corrections.
    """
    editor = open_any_editor(trial.editor, trial.base, trial.cache)
    chat = trial.draws[0][0].request.chat
    subject = _loaded(trial, chat)
    _warm_up(subject, trial.draws[0][0].request)
    tally, peak = _Tally(), 0
    for number, draw in enumerate(trial.draws):
        requests, without = _placed(editor, [case.request for case in draw])
        tally.without_subject += len(without)
        steps = [[request] for request in requests] if trial.chained else [requests]
        before = _start_of_peak(trial.device)
        started = clock(subject.model)
        delta, overrides = _edit(subject, editor, steps, progress, chained=trial.chained)
        tally.seconds += clock(subject.model) - started
        if not number:
            peak = max(_memory(trial.device)[1] - before, 0)
        encoded = [encode_requests(subject.tokenizer, step) for step in steps]
        tally.unit_seconds += _unit(subject, encoded)
        if trial.chained:
            _judge(subject, draw, overrides, _base_says(_loaded(trial, chat), draw), tally)
            if number + 1 < len(trial.draws):
                subject = _loaded(trial, chat)
            continue
        said = _base_says(subject, draw)
        try:
            with applied(subject.model, delta):
                _judge(subject, draw, overrides, said, tally)
        except ValueError as error:
            raise UserError(f"the edit cannot be applied: {error}") from error
        progress(number + 1, len(trial.draws), "draws judged")
    return _figures(tally, sum(len(draw) for draw in trial.draws), peak)


def _placed(
    editor: Editor, requests: Sequence[EditRequest]
) -> tuple[list[EditRequest], list[tuple[EditRequest, str]]]:
    """What the editor can be given of a draw, and what it cannot, with the reason; that counts as not made.

    Raises:
        UserError: there is nothing that it can be given.
    """
    if not isinstance(editor, SubjectEditor):
        return list(requests), []
    placed, without = with_subjects(requests)
    if not placed:
        raise UserError(without[0][1])
    return placed, without


def _edit(
    subject: _Subject,
    editor: Editor,
    steps: Sequence[Sequence[EditRequest]],
    progress: Progress,
    *,
    chained: bool,
) -> tuple[Delta, Overrides]:
    """The delta of the last step, and all overrides; chained, the model keeps every step's delta."""
    overrides, delta = Overrides(), Delta({})
    for done, step in enumerate(steps, 1):
        try:
            delta = editor.edit(
                subject.model, subject.tokenizer, step, progress=no_progress if chained else progress
            )
            for entry in Overrides.from_json(delta.manifest.get(OVERRIDES, [])).entries():
                overrides.add(entry)
            if chained:
                add_in_place(subject.model, delta)
        except ValueError as error:
            raise UserError(str(error)) from error
        if chained:
            progress(done, len(steps), "edits in sequence")
    return delta, overrides


def _judge(
    subject: _Subject, draw: Sequence[Case], overrides: Overrides, said: Sequence[str], tally: _Tally
) -> None:
    """Ask the edited model, and mark its answers."""
    asked = [(EDIT, case.request.prompt, case.request.target) for case in draw]
    asked += [(EQUIVALENCE, prompt, case.request.target) for case in draw for prompt in case.held_out]
    requests = [case.request for case in draw]
    longest = max(len(e.target_ids) for e in encode_requests(subject.tokenizer, requests)) + SLACK
    tokens = max(longest, CHAT_TOKENS) if subject.chat else longest
    outputs = subject.say([prompt for _, prompt, _ in asked], tokens, overrides)
    for (metric, _, target), output in zip(asked, outputs, strict=True):
        tally.marks[metric].append(matches(output, target, chat=subject.chat))
    now = subject.say(_locality(draw), LOCALITY_TOKENS, overrides)
    tally.marks[LOCALITY] += [ours == base for ours, base in zip(now, said, strict=True)]
    if not len(overrides):  # An answer in front of the model is nothing its weights could be asked for.
        prompts, targets = [r.prompt for r in requests], [r.target for r in requests]
        tally.forced += teacher_forced_success(
            subject.model, subject.tokenizer, prompts, targets, chat=subject.chat
        )


def _base_says(base: _Subject, draw: Sequence[Case]) -> list[str]:
    return base.say(_locality(draw), LOCALITY_TOKENS)


def _locality(draw: Sequence[Case]) -> list[str]:
    return list(dict.fromkeys(prompt for case in draw for prompt in case.locality))


def _figures(tally: _Tally, corrections: int, peak: int) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for metric, marks in tally.marks.items():
        interval = wilson(sum(marks), len(marks))
        figures[metric] = (
            {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}
            if marks
            else {"value": None, "low": None, "high": None, "n": 0}
        )
    values = [figures[metric]["value"] for metric in tally.marks]
    return figures | {
        HARMONIC_MEAN: None if None in values else statistics.harmonic_mean(values),
        TEACHER_FORCED: statistics.fmean(tally.forced) if tally.forced else None,
        "corrections": corrections,
        "without_subject": tally.without_subject,
        "seconds_per_edit": tally.seconds / corrections,
        "unit_seconds": tally.unit_seconds / corrections,
        "cost_in_units": tally.seconds / tally.unit_seconds,
        "peak_bytes": peak,
    }


def _loaded(trial: Trial, chat: bool) -> _Subject:
    model, tokenizer = load(trial.base, device=trial.device)
    return _Subject(model, tokenizer, chat)


def _warm_up(subject: _Subject, request: EditRequest) -> None:
    """Do once what is slow only the first time, and read every weight, which may lie in a mapped file."""
    examples = encode_requests(subject.tokenizer, [request])
    with torch.no_grad():
        answer_loss(subject.model, collate(examples, pad_id(subject.tokenizer)))
    if subject.model.device.type == "cuda":
        # Not on a CPU: the freed gradients would stay with the process, and hide as much of the peak.
        unit_seconds(subject.model, examples, pad_id(subject.tokenizer))


def _unit(subject: _Subject, steps: Sequence[Sequence[Example]]) -> float:
    """Seconds of E for all steps: the median of passes over some of them, for each in turn."""
    chosen = steps[:: max(len(steps) // UNIT_STEPS, 1)][:UNIT_STEPS]
    pad = pad_id(subject.tokenizer)
    seconds = [
        statistics.median(unit_seconds(subject.model, step, pad) for _ in range(UNIT_PASSES))
        for step in chosen
    ]
    return sum(seconds) * len(steps) / len(chosen)


def _start_of_peak(device: str) -> int:
    """Forget the peak so far; the bytes in use now."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Where this is not Linux, or not allowed, the peak of loading the model counts too.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return _memory(device)[0]


def _memory(device: str) -> tuple[int, int]:
    """Bytes in use now, and at the most."""
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        now, most = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return now, most
    except (OSError, KeyError):
        import resource
        import sys

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return most, most
