"""Train an editor unattended: mixed batch sizes, no second-order graph, memory flat in the batch.

The two-stage gradient of MALMEN (section 4): a step has the editor propose shifts for captured keys and
gradients, runs the shifted model on equivalents and on prompts that must stay, keeps only dL/dW of the edited
matrices, and hands it to the proposal, which carries it to the editor's parameters in closed form.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editors.capture import answer_labels, answer_logits, editing, frozen
from editors.catalogue import entry
from editors.delta import Delta, applied
from editors.gather import answered_exactly, restored, set_weight
from editors.hypereditor import HyperConfig, HyperEditor, batch_feature
from editors.model_kinds import CAUSAL, ModelKind, kind_of
from editors.objective import Weighted, log_probabilities, weighted_backward
from editors.protocol import Kept, Progress, no_progress
from editors.requests import EditRequest, Example, collate, pad_id
from editors.solve import UnsolvableError
from editors.training_cases import Cases
from editors.training_state import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# Corrections whose captured rows are looked at together.
OBSERVED = 16
# Corrections made together when the rate for several is looked for.
RATES_FOUND_AT = 16


@dataclass(frozen=True)
class TrainingConfig:
    """How long and on what a training runs; the defaults need no tuning.

    Attributes:
        steps: most steps; the learning rate falls to zero over them.
        minutes: most wall-clock minutes, those before the first step included, or None for a run that depends
            on nothing but its inputs.
        learning_rate: of Adam, for the networks and the scalars alike.
        locality_weight: of the divergence on prompts that must stay, against the loss on corrections.
        batch_sizes: numbers of corrections in a step, one drawn anew each step.
        validate_every: steps between validations, each of which also writes a checkpoint.
        patience: validations without a better score before training stops.
        seed: of everything drawn.
    """

    steps: int = 240
    minutes: float | None = None
    learning_rate: float = 1e-3
    locality_weight: float = 4.0
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    validate_every: int = 30
    patience: int = 4
    seed: int = 0


@dataclass
class TrainingResult:
    """The best editor seen, and how validation went: one row a validation, the first one untrained."""

    editor: HyperEditor
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def learned(self) -> bool:
        """Whether training improved on the untrained editor."""
        return len(self.history) > 1 and max(r["score"] for r in self.history[1:]) > self.history[0]["score"]

    @property
    def statement(self) -> str:
        """One plain sentence on what was learned."""
        if not self.history:
            return "nothing was validated"
        first, best = self.history[0]["score"], max(r["score"] for r in self.history)
        if self.learned:
            return f"training raised the validation score from {first:.3f} to {best:.3f}"
        return (
            f"training learned nothing: the untrained editor's validation score, {first:.3f}, was not beaten"
        )


def fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    keep: Sequence[Kept],
    text: Sequence[str],
    *,
    editor: str = "malmen",
    config: HyperConfig | None = None,
    training: TrainingConfig | None = None,
    checkpoint: Path | None = None,
    progress: Progress = no_progress,
) -> TrainingResult:
    """Train an editor for `model`.

    Args:
        model: the base; left as it was.
        tokenizer: its tokenizer.
        requests: corrections to practise on; a sixth is kept for validation.
        keep: prompts with the model's present answers, which must stay.
        text: ordinary prose, for the second moment of the layers' inputs.
        editor: name of the editor.
        config: of the editor, of its own kind.
        training: of the training.
        checkpoint: a folder to resume from and to write to at every validation.
        progress: called with (step, steps, note).

    Raises:
        ValueError: too few requests or kept prompts, or a base whose loss is not sane.
    """
    training = training or TrainingConfig()
    if len(requests) < 12 or len(keep) < 12:
        raise ValueError(
            f"{len(requests)} corrections and {len(keep)} prompts to keep are too few to train on; "
            "give at least 12 of each"
        )
    started = time.monotonic()
    made: HyperEditor = entry(editor).editor_class().untrained(model, config)
    with editing(model):
        _check_base(model, tokenizer, text)
        cases = Cases(model, tokenizer, made, requests, keep, training.seed, progress)
        for start in range(0, len(cases.training), OBSERVED):
            given = {case: len(cases.phrasings[case]) for case in cases.training[start : start + OBSERVED]}
            for captured in cases.rows(given)():
                made.observe(captured)
            progress(start + len(given), len(cases.training), "observing")
        made.study(model, _prose(tokenizer, text, kind_of(model)), cases.kept_known, cases.pad)
        return _descend(cases, training, checkpoint, progress, started)


def _descend(
    cases: Cases, training: TrainingConfig, checkpoint: Path | None, progress: Progress, started: float
) -> TrainingResult:
    """The steps of a training that began, by the monotonic clock, at `started`."""
    editor, result = cases.editor, TrainingResult(cases.editor)
    optimiser = torch.optim.Adam(
        [{"params": list(group), "lr": 0.0, "factor": factor} for factor, group in editor.parameter_groups()]
    )
    best = {name: tensor.clone() for name, tensor in editor.state_dict().items()}
    first, spent = 0, 0.0
    if checkpoint:
        first, spent = load_checkpoint(checkpoint, editor, optimiser, best, result.history)
    started -= spent
    note = ""
    for step in range(first, training.steps + 1):
        late = training.minutes is not None and time.monotonic() - started > 60 * training.minutes
        if step % training.validate_every == 0 or step == training.steps or late:
            # A resumed run begins at a step that was validated, but not yet taken.
            if not result.history or result.history[-1]["step"] != step:
                try:
                    row = {"step": step, **_validate(cases)}
                except UnsolvableError:
                    if not result.history:
                        raise
                    # Its steps have led nowhere: the best editor so far is what there is.
                    break
                if not result.history or row["score"] > max(r["score"] for r in result.history):
                    best = {name: tensor.clone() for name, tensor in editor.state_dict().items()}
                result.history.append(row)
                if checkpoint:
                    seconds = time.monotonic() - started
                    save_checkpoint(checkpoint, editor, optimiser, best, result.history, step, seconds)
            row = result.history[-1]
            note = "  ".join(f"{k} {row[k]:.2f}" for k in ("edit", "equivalence", "locality"))
            scores = [r["score"] for r in result.history]
            if late or len(scores) - 1 - scores.index(max(scores)) >= training.patience:
                break
        if step == training.steps:
            break
        if step == 0 and len(editor.rates_tried) > 1:
            _find_rates(cases, training, progress)
        share = step / training.steps
        if training.minutes is not None:
            share = max(share, (time.monotonic() - started) / (60 * training.minutes))
        for group in optimiser.param_groups:
            schedule = min((step + 1) / 10, 0.5 * (1 + math.cos(math.pi * share)))
            group["lr"] = training.learning_rate * group["factor"] * schedule
        rng = random.Random(f"{training.seed}-{step}")
        n = min(rng.choice(training.batch_sizes), len(cases.training))
        try:
            loss = _step(cases, training, n, rng)
        except UnsolvableError:
            break
        nn.utils.clip_grad_norm_(editor.parameters(), 1.0)
        if all(p.grad is None or torch.isfinite(p.grad).all() for p in editor.parameters()):
            optimiser.step()
        optimiser.zero_grad()
        progress(step + 1, training.steps, f"loss {loss:.2f}  {note}")
    editor.load_state_dict(best)
    return result


def _find_rates(cases: Cases, training: TrainingConfig, progress: Progress) -> None:
    """Begin with the rates, for one correction and for several, at which the meta-loss is least.

    What a sum of rank-one products does to a model depends on how alike its keys are, which no width tells.
    Adam would take hundreds of steps to mend a rate that is wrong by orders of magnitude.
    """
    editor, several = cases.editor, min(RATES_FOUND_AT, len(cases.training))
    tried = [(n, factor) for n in (1, several) for factor in editor.rates_tried]
    losses: dict[tuple[int, float], float] = {}
    with torch.no_grad():
        start = editor.log_rate.clone()
    for done, (n, factor) in enumerate(tried, 1):
        with torch.no_grad():
            editor.log_rate.copy_(start + math.log(factor))
        draws = [random.Random(f"{training.seed}-rate-{i}") for i in range(max(several // (4 * n), 1))]
        loss = sum(_step(cases, training, n, rng) for rng in draws) / len(draws)
        losses[n, factor] = loss if math.isfinite(loss) else math.inf
        progress(done, len(tried), f"finding rates, loss {loss:.2f}")
    editor.zero_grad()
    one, many = (min(editor.rates_tried, key=lambda factor: losses[n, factor]) for n in (1, several))
    with torch.no_grad():
        editor.log_rate.copy_(start + math.log(one))
        if several > 1:
            editor.rate_slope.add_(math.log(many / one) / batch_feature(several))


def _step(cases: Cases, training: TrainingConfig, n: int, rng: random.Random) -> float:
    """Accumulate the gradient of the meta-loss of `n` corrections in the editor's parameters; the loss."""
    editor, model = cases.editor, cases.model
    chosen = rng.sample(cases.training, n)
    # Sometimes only the prompt is given, sometimes equivalents with it; one phrasing is always kept unseen.
    given = {c: rng.randint(1, max(len(cases.phrasings[c]) - 1, 1)) for c in chosen}
    unseen = [rng.choice(cases.phrasings[c][given[c] :] or cases.phrasings[c]) for c in chosen]
    stay = rng.sample(cases.kept_unseen, min(max(n, 8), len(cases.kept_unseen)))
    proposal = editor.propose(cases.rows(given), n)
    gradients: dict[str, Tensor] = {}
    with restored(model, editor.modules_edited) as originals, frozen(model):
        references = log_probabilities(model, stay, cases.pad, cases.cache)
        weighted: list[Weighted] = [(e, 1.0 / n, None) for e in unseen]
        weighted += [(e, training.locality_weight / len(stay), references[e]) for e in stay]
        for module in editor.modules_edited:
            shift = module.shift_for_weight(proposal.shifts[module.name])
            set_weight(model, module.parameter, originals[module.parameter], shift)
            model.get_parameter(module.parameter).requires_grad_(True)
        loss = weighted_backward(model, weighted, cases.pad, cases.cache)
        for module in editor.modules_edited:
            parameter = model.get_parameter(module.parameter)
            if parameter.grad is not None:
                gradients[module.name] = module.shift_from_weight(parameter.grad).float()
            parameter.grad = None
    proposal.backward(gradients)
    return loss


def _validate(cases: Cases) -> dict[str, float]:
    """Exact greedy success on validation corrections at several batch sizes, one solve each."""
    rates: dict[str, list[float]] = {"edit": [], "equivalence": [], "locality": []}
    count = len(cases.validation)
    for n in sorted({1, min(8, count), count}):
        groups_of_n = max(1, min(4, 16 // n, count // n))
        # By turns with the prompt alone, as users may give it, and with other phrasings.
        for turn in range(max(groups_of_n, 2)):
            start = turn % groups_of_n * n
            chosen = cases.validation[start : start + n]
            given = {c: 1 if turn % 2 else max(len(cases.phrasings[c]) - 1, 1) for c in chosen}
            proposal = cases.editor.propose(cases.rows(given), n)
            shifts = {
                module.parameter: module.shift_for_weight(proposal.shifts[module.name])
                for module in cases.editor.modules_edited
            }
            with applied(cases.model, Delta(shifts)):
                groups = {
                    "edit": [cases.phrasings[c][0] for c in chosen],
                    "equivalence": [cases.phrasings[c][-1] for c in chosen],
                    "locality": cases.kept_validation,
                }
                for name, examples in groups.items():
                    right = answered_exactly(cases.model, examples, cases.pad, cases.cache)
                    rates[name].append(sum(right) / len(right))
    row = {name: sum(values) / len(values) for name, values in rates.items()}
    row["score"] = 3 / sum(1 / max(value, 1e-3) for value in row.values())
    return row


def _prose(
    tokenizer: PreTrainedTokenizerBase, text: Sequence[str], kind: ModelKind = CAUSAL, longest: int = 128
) -> list[Example]:
    encoded = [tuple(tokenizer(t)["input_ids"][:longest]) for t in text]
    return [kind.reading(ids) for ids in encoded if len(ids) > 2]


def _check_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: Sequence[str]) -> None:
    """Refuse a base that does not read prose: training an editor for it would only learn its damage."""
    kind = kind_of(model)
    examples = _prose(tokenizer, text, kind)[:8]
    if not examples:
        raise ValueError("no prose was given to take the second moment of the layers' inputs from")
    batch = collate(examples, pad_id(tokenizer))
    with torch.no_grad():
        logits = answer_logits(model, batch)
    nll = float(nn.functional.cross_entropy(logits, answer_labels(batch, logits)))
    # A language model that knows nothing is at log(vocabulary); a broken one is above. Other kinds were never
    # taught to go on with a text.
    if not math.isfinite(nll) or (kind == CAUSAL and nll > math.log(logits.shape[-1]) + 1):
        raise ValueError(
            f"the base's loss on ordinary prose is {nll:.1f} nats a token, more than guessing would give: "
            "is it the right checkpoint, loaded with its own tokenizer?"
        )
