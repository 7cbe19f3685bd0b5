"""A model that skips its unedited blocks says exactly what the whole model says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from editors.capture import answer_logits, answer_loss, capture_gradients
from editors.locate import editable
from editors.model_kinds import kind_of
from editors.replay import PrefixCache
from editors.requests import collate, encode, pad_id
from tests.editors.tools import PROMPTS, TARGETS, chain, folder_of, load, structure_of


@pytest.fixture(params=["llama", "gpt2"])
def case(request: pytest.FixtureRequest) -> Any:
    model, tokenizer = load(folder_of(request.param, request))
    name = {"llama": "model.layers.2.mlp.down_proj", "gpt2": "transformer.h.2.mlp.c_proj"}[request.param]
    examples = [encode(tokenizer, p, t, chat=True) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    return model, editable(model, name), examples, pad_id(tokenizer)


def calls(model: Any) -> list[int]:
    """Counts, from now on, the runs of every block."""
    blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
    counts = [0] * len(blocks)
    for number, block in enumerate(blocks):

        def count(*_: Any, number: int = number) -> None:
            counts[number] += 1

        block.register_forward_pre_hook(count)
    return counts


def test_a_replayed_run_is_the_full_run(case: Any) -> None:
    model, module, examples, pad = case
    cache = PrefixCache(model, [module])
    assert len(cache.below) == 2
    compositions = [[0, 1, 2, 3], [0, 1, 2, 3], [5, 1], [4, 5, 0, 2, 3, 1], [2], [2, 2]]
    counts = calls(model)
    for chosen in compositions:
        batch = collate([examples[i] for i in chosen], pad)
        with torch.no_grad():
            full = answer_logits(model, batch)
            before = list(counts)
            with cache.replayed(batch):
                replayed = answer_logits(model, batch)
        torch.testing.assert_close(replayed, full, rtol=1e-4, atol=1e-4)
        assert counts[2] == before[2] + 1
    # Six full runs, and new rows in the first, the third and the fourth batch.
    assert counts == [9, 9, 12]


@pytest.mark.parametrize("prompts_first", [False, True])
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("lowest", [0, 2])
def test_a_run_in_parts_is_the_whole_run(
    lowest: int, architecture: str, chat: bool, prompts_first: bool, request: pytest.FixtureRequest
) -> None:
    model, tokenizer = load(folder_of(architecture, request))
    name = {"llama": "model.layers.{}.mlp.down_proj", "gpt2": "transformer.h.{}.mlp.c_proj"}[architecture]
    modules = [editable(model, name.format(n)) for n in range(lowest, 3)]
    # What all begin with is long enough to be read once for all.
    prompts = [f"Answer what you are asked in one or two words. {prompt}" for prompt in PROMPTS]
    examples = [encode(tokenizer, p, t, chat=chat) for p, t in zip(prompts, TARGETS, strict=True)]
    batch, cache = collate(examples, pad_id(tokenizer)), PrefixCache(model, modules)
    whole = capture_gradients(model, modules, batch)
    for _ in range(2):
        with cache.in_parts(batch, prompts_first=prompts_first) as rest:
            assert rest.input_ids.shape[1] < batch.input_ids.shape[1] - 7
            with torch.no_grad():
                logits = answer_logits(model, rest)
        torch.testing.assert_close(logits, answer_logits(model, batch), rtol=1e-4, atol=1e-4)
        assert torch.equal(rest.labels[rest.answer_mask], batch.labels[batch.answer_mask])
    with cache.in_parts(batch, prompts_first=True) as rest:
        parts = capture_gradients(model, modules, rest)
    for module in modules:
        assert parts[module.name].counts == whole[module.name].counts
        for got, full in (
            (parts[module.name].keys, whole[module.name].keys),
            (parts[module.name].gradients, whole[module.name].gradients),
        ):
            torch.testing.assert_close(got, full, rtol=1e-3, atol=1e-4 * float(full.abs().max()))


def test_a_model_that_cannot_read_in_parts_reads_the_whole(request: pytest.FixtureRequest) -> None:
    """Mistral-like layers forget what is outside a window; a plain chain keeps nothing."""
    windowed, tokenizer = load(folder_of("llama", request))
    windowed.config.layer_types = ["sliding_attention"] * 3
    windowed.config.sliding_window = 4
    examples = [encode(tokenizer, p, t, chat=True) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    plain = [
        encode(tokenizer, p, t, chat=True, kind=kind_of(chain()))
        for p, t in zip(PROMPTS, TARGETS, strict=True)
    ]
    for model, rows in ((windowed, examples), (chain(), plain)):
        batch = collate(rows, pad_id(tokenizer))
        with PrefixCache(model, []).in_parts(batch, prompts_first=True) as rest:
            assert torch.equal(rest.input_ids, batch.input_ids)


def test_an_edit_above_is_seen_and_its_gradient_is_whole(case: Any) -> None:
    model, module, examples, pad = case
    cache, batch = PrefixCache(model, [module]), collate(examples, pad)
    weight = model.get_parameter(module.parameter)
    with torch.no_grad(), cache.replayed(batch):
        before = answer_logits(model, batch)
    with torch.no_grad():
        weight *= 1.5
    full = torch.autograd.grad(answer_loss(model, batch), weight)[0]
    with cache.replayed(batch):
        replayed = torch.autograd.grad(answer_loss(model, batch), weight)[0]
        after = answer_logits(model, batch)
    torch.testing.assert_close(replayed, full, rtol=1e-3, atol=1e-4 * float(full.abs().max()))
    torch.testing.assert_close(after, answer_logits(model, batch), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after, atol=1e-2)


def test_the_model_is_whole_again_whatever_happens(case: Any) -> None:
    model, module, examples, pad = case
    cache, structure = PrefixCache(model, [module]), structure_of(model)
    batch = collate(examples[:3], pad)
    with cache.replayed(batch):
        assert structure_of(model) != structure
    assert structure_of(model) == structure
    with pytest.raises(KeyError), cache.replayed(batch):
        raise KeyError("inside")
    assert structure_of(model) == structure
    too_large = collate(examples[3:4], pad)
    too_large.input_ids[0, 0] = 10_000
    with pytest.raises(IndexError), cache.replayed(too_large):
        pass
    assert structure_of(model) == structure
    with cache.replayed(batch), torch.no_grad():
        replayed = answer_logits(model, batch)
    with torch.no_grad():
        torch.testing.assert_close(replayed, answer_logits(model, batch), rtol=1e-4, atol=1e-4)


def test_nothing_is_skipped_below_an_edited_block(request: pytest.FixtureRequest) -> None:
    model, tokenizer = load(folder_of("llama", request))
    modules = [editable(model, f"model.layers.{n}.mlp.down_proj") for n in (2, 0)]
    cache = PrefixCache(model, modules)
    assert cache.below == []
    counts = calls(model)
    batch = collate([encode(tokenizer, PROMPTS[0], TARGETS[0], chat=True)], pad_id(tokenizer))
    with torch.no_grad(), cache.replayed(batch):
        answer_logits(model, batch)
    assert counts == [1, 1, 1]


def test_nothing_is_skipped_where_an_edited_parameter_is_used_below(request: pytest.FixtureRequest) -> None:
    """A tied output head is the input embeddings, and blocks may share their weights."""
    model, tokenizer = load(folder_of("llama", request))
    modules = [editable(model, name) for name in ("lm_head", "model.layers.2.mlp.down_proj")]
    cache = PrefixCache(model, modules)
    batch = collate([encode(tokenizer, PROMPTS[0], TARGETS[0], chat=True)], pad_id(tokenizer))
    with torch.no_grad():
        with cache.replayed(batch):
            answer_logits(model, batch)
        model.lm_head.weight *= 1.5
        with cache.replayed(batch):
            replayed = answer_logits(model, batch)
        torch.testing.assert_close(replayed, answer_logits(model, batch), rtol=1e-4, atol=1e-4)
    model.model.layers[1].mlp.down_proj.weight = model.model.layers[2].mlp.down_proj.weight
    assert len(PrefixCache(model, modules[1:]).below) == 1


def test_two_models_have_caches_of_their_own(request: pytest.FixtureRequest) -> None:
    (first, tokenizer), (second, _) = (load(folder_of("llama", request, seed=s)) for s in (0, 1))
    batch = collate([encode(tokenizer, PROMPTS[0], TARGETS[0], chat=True)], pad_id(tokenizer))
    caches = [PrefixCache(m, [editable(m, "model.layers.2.mlp.down_proj")]) for m in (first, second)]
    with torch.no_grad(), caches[0].replayed(batch), caches[1].replayed(batch):
        replayed = [answer_logits(first, batch), answer_logits(second, batch)]
    with torch.no_grad():
        for model, logits in zip((first, second), replayed, strict=True):
            torch.testing.assert_close(logits, answer_logits(model, batch), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(*replayed, atol=1e-2)


@pytest.mark.parametrize("limit", [0, 5000, 2**20])
def test_a_bounded_cache_gives_the_full_run_and_keeps_no_more(case: Any, limit: int) -> None:
    model, module, examples, pad = case
    cache = PrefixCache(model, [module], limit)
    for chosen in ([0, 1, 2, 3], [4, 5, 0, 2, 3, 1], [2, 2]):
        batch = collate([examples[i] for i in chosen], pad)
        with torch.no_grad():
            full = answer_logits(model, batch)
            with cache.replayed(batch):
                replayed = answer_logits(model, batch)
        torch.testing.assert_close(replayed, full, rtol=1e-4, atol=1e-4)
    kept = sum(rows[-1].nbytes for rows in cache._rows.values())
    assert kept <= limit
    assert (kept > 0) == (limit > 0)
