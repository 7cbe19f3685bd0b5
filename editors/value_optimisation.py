"""What a layer should say at a subject's last token: found by gradient descent on an added vector.

ROME (Meng et al. 2022, section 3.1) and MEMIT (Meng et al. 2023, section 4.2): a vector delta is added to one
hidden output at the subject's last token, the same over several contexts, until the model answers with the
target. Every size here is relative to the hidden output's own norm, so that the settings fit any model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editors.capture import OVERFLOWS, answer_logits, by_row, run_ends_at
from editors.gather import batches
from editors.key_statistics import own_writing
from editors.locate import EditableModule
from editors.replay import PrefixCache
from editors.requests import EditRequest, Example, TokenBatch, collate
from editors.subject import Placed, place

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PREFIX_OPENINGS = ("The", "Therefore", "Because", "I", "You")


@dataclass(frozen=True)
class ValueConfig:
    """How values are optimised.

    Attributes:
        steps: most steps of Adam.
        rate: most that a step moves the vector, as a share of the hidden output's norm.
        clamp: most that the vector's norm may be, as a share of the hidden output's.
        weight_decay: weight of the squared norm of the vector, as a share of the hidden output's squared.
        essence_weight: of the divergence on "{subject} is a", against the loss on the target.
        enough: loss in nats a token at which a request is left as it is.
        prefixes, prefix_tokens: number and length of sampled openings that a prompt is also read behind.
        chunk: requests optimised together; more are faster and take more memory.
    """

    steps: int = 20
    rate: float = 0.1
    clamp: float = 0.75
    weight_decay: float = 0.1
    essence_weight: float = 0.0625
    enough: float = 0.05
    prefixes: int = 4
    prefix_tokens: int = 8
    chunk: int = 16


@dataclass(frozen=True)
class Contexts:
    """One request as it is read: phrasings with their weights, which sum to one; and "{subject} is a".

    The first `bare` rows are the phrasings themselves, the others have a prefix before them.
    """

    rows: tuple[Placed, ...]
    weights: tuple[float, ...]
    essence: Placed
    bare: int
    subject: str


def read_contexts(
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    subjects: Sequence[str],
    prefixes: Sequence[str],
) -> list[Contexts]:
    """Each prompt bare, in its equivalents, and behind each prefix (within the user's turn, in a chat).

    The prefixes together weigh as much as the bare phrasings (MEMIT's code). An equivalent that does not name
    the subject is left out: it has no position to write at.
    """
    result = []
    for request, subject in zip(requests, subjects, strict=True):

        def placed(text: str, r: EditRequest = request, s: str = subject) -> Placed | None:
            return place(tokenizer, text, r.target, s, chat=r.chat)

        bare = [p for text in (request.prompt, *request.equivalents) if (p := placed(text))]
        behind = [p for prefix in prefixes if (p := placed(f"{prefix}. {request.prompt}"))]
        half = 0.5 if behind else 1.0
        weights = [half / len(bare)] * len(bare) + [half / len(behind) for _ in behind] if bare else []
        essence = placed(f"{subject} is a")
        if not bare or essence is None:
            raise ValueError(
                f"the subject {subject!r} is not in the prompt {request.prompt[:80]!r} as it is rendered"
            )
        # Only the next token counts there.
        essence = Placed(
            Example(essence.example.prompt_ids, essence.example.target_ids[:1]), essence.position
        )
        result.append(Contexts((*bare, *behind), tuple(weights), essence, len(bare), subject))
    return result


def sample_prefixes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: ValueConfig, seed: int
) -> list[str]:
    """Openings of the model's own writing, each once."""
    if not config.prefixes:
        return []
    written = own_writing(
        model,
        tokenizer,
        passages=config.prefixes,
        tokens=config.prefix_tokens,
        seed=seed,
        openings=PREFIX_OPENINGS,
    )
    return list(dict.fromkeys(" ".join(text.split()) for text in written))


def read_at_subjects(
    model: PreTrainedModel,
    modules: Sequence[EditableModule],
    site: str,
    contexts: Sequence[Contexts],
    pad: int,
    cache: PrefixCache,
) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of the modules by name (requests, d_in), and the site's output (requests, d), at the subjects.

    Averages over each request's contexts by their weights, in fp32 on the CPU. Nothing above the site is run.
    """
    rows = [row for context in contexts for row in context.rows]
    weights = torch.tensor([weight for context in contexts for weight in context.weights])
    owner = torch.tensor([i for i, context in enumerate(contexts) for _ in context.rows])
    body = getattr(model, "base_model", model)
    sums: dict[str, Tensor] = {}
    for numbers, batch in batches([row.example for row in rows], pad):
        batch, where = batch.to(model.device), _positions([rows[i] for i in numbers], model.device)
        with (
            torch.no_grad(),
            cache.replayed(batch),
            _read_to(model, modules, site, batch, where) as seen,
            run_ends_at(model, site),
        ):
            body(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        for name, values in seen.items():
            total = sums.setdefault(name, torch.zeros(len(contexts), values.shape[1]))
            total.index_add_(0, owner[numbers], weights[numbers, None] * values.float().cpu())
    return {m.name: sums[m.name] for m in modules}, sums["output"]


def optimise_values(
    model: PreTrainedModel,
    site: str,
    contexts: Sequence[Contexts],
    config: ValueConfig,
    pad: int,
    cache: PrefixCache,
) -> Tensor:
    """The vectors delta (requests, d) to add to the output of `site`, fp32 on the CPU; none affects another.

    Loss of a request: mean over its contexts of the target's NLL a token, plus KL on "{subject} is a", plus
    weight decay; the vector with the least is taken. No parameter of the model may require a gradient.

    Raises:
        ValueError: the loss is not finite.
    """
    device = model.device
    rows = [(i, row, False) for i, c in enumerate(contexts) for row in c.rows]
    rows += [(i, c.essence, True) for i, c in enumerate(contexts)]
    with torch.no_grad():
        said, outputs = _run(model, site, [row for _, row, _ in rows], None, pad, cache)
    essence = {i: log_p for (i, _, is_essence), log_p in zip(rows, said, strict=True) if is_essence}
    del said
    width = outputs.shape[1]
    owners = torch.tensor([-1 if is_essence else i for i, _, is_essence in rows], device=device)
    # The median: a first token can be a hundred times as long as any other.
    scale = torch.stack([outputs[owners == i].norm(dim=1).median() for i in range(len(contexts))])
    # A vector of ones in these units is as long as the hidden output.
    part = (scale.clamp_min(1e-6) / width**0.5)[:, None]
    vector = torch.zeros(len(contexts), width, device=device, requires_grad=True)
    optimiser = torch.optim.Adam([vector], config.rate)
    best, least = vector.detach().clone(), [math.inf] * len(contexts)
    active = set(range(len(contexts)))
    for step in range(config.steps + 1):
        now = [row for row in rows if row[0] in active]
        with torch.enable_grad():
            added = (vector * part)[torch.tensor([i for i, _, _ in now], device=device)]
            said, _ = _run(model, site, [row for _, row, _ in now], added, pad, cache)
            decay = config.weight_decay * vector.square().mean(1)
            losses = {i: decay[i] for i in sorted(active)}
            wrong = dict.fromkeys(active, 0.0)
            for (i, row, is_essence), log_p in zip(now, said, strict=True):
                if is_essence:
                    share = config.essence_weight * (essence[i].exp() * (essence[i] - log_p)).sum()
                else:
                    target = torch.tensor(row.example.target_ids, device=device)
                    share = nn.functional.nll_loss(log_p, target) / len(contexts[i].rows)
                    wrong[i] += share.item()
                losses[i] = losses[i] + share
            loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise ValueError(f"the loss of an edit is not finite: {OVERFLOWS}")
        for i, value in losses.items():
            if value.item() < least[i] or wrong[i] <= config.enough:
                best[i], least[i] = vector[i].detach(), value.item()
        active = {i for i in active if wrong[i] > config.enough}
        if not active or step == config.steps:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            norm = vector.square().mean(1, keepdim=True).sqrt()
            vector.mul_((config.clamp / norm.clamp_min(1e-12)).clamp_max(1.0))
    return (best * part).detach().cpu()


def _run(
    model: PreTrainedModel,
    site: str,
    rows: Sequence[Placed],
    added: Tensor | None,
    pad: int,
    cache: PrefixCache,
) -> tuple[Sequence[Tensor], Tensor]:
    """Log-probabilities (answer tokens, vocabulary) of each row, and the site's outputs (rows, d), fp32.

    `added` (rows, d) goes onto the site's output at each row's subject.
    """
    batch = collate([row.example for row in rows], pad).to(model.device)
    where, seen = _positions(rows, model.device), []

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        said = output[0] if isinstance(output, tuple) else output
        hidden = by_row(said, batch)
        seen.append(hidden[where].detach().float())
        if added is None:
            return None
        moved = hidden.index_put(where, added.to(hidden.dtype), accumulate=True).view(said.shape)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    handle = model.get_submodule(site).register_forward_hook(hook)
    try:
        with cache.replayed(batch):
            log_p = answer_logits(model, batch).log_softmax(-1)
    finally:
        handle.remove()
    return log_p.split([len(row.example.target_ids) for row in rows]), seen[-1]


@contextmanager
def _read_to(
    model: nn.Module,
    modules: Sequence[EditableModule],
    site: str,
    batch: TokenBatch,
    where: tuple[Tensor, Tensor],
) -> Iterator[dict[str, Tensor]]:
    """Within, inputs of the modules and the site's `output` are kept."""
    seen: dict[str, Tensor] = {}

    def before(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            seen[name] = by_row(args[0], batch)[where]

        return hook

    def after(_: nn.Module, __: Any, output: Any) -> None:
        seen["output"] = by_row(output[0] if isinstance(output, tuple) else output, batch)[where]

    handles = [model.get_submodule(m.name).register_forward_pre_hook(before(m.name)) for m in modules]
    handles.append(model.get_submodule(site).register_forward_hook(after))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _positions(rows: Sequence[Placed], device: torch.device) -> tuple[Tensor, Tensor]:
    return (
        torch.arange(len(rows), device=device),
        torch.tensor([row.position for row in rows], device=device),
    )
