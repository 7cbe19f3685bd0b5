"""The arithmetic of editors that write at the subject, against references: solves, values, statistics."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from editors.alphaedit import AlphaEdit, AlphaEditConfig, null_space
from editors.capture import answer_loss, evaluating, frozen
from editors.delta import Delta, applied
from editors.joint_memit import JointMemit, reader_of, written
from editors.key_statistics import KeyStatistics
from editors.locate import default_modules
from editors.memit import Memit, MemitConfig
from editors.replay import PrefixCache
from editors.requests import collate, encode, pad_id
from editors.subject_editing import block_of
from editors.value_optimisation import ValueConfig, optimise_values, read_at_subjects, read_contexts
from tests.editors.subject_cases import KEPT, MAKE, QUICK, REQUESTS, TWO_LAYERS


def random_moment(size: int, seed: int = 0) -> Tensor:
    rows = torch.randn(3 * size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.T @ (torch.logspace(0, -2, 3 * size, dtype=torch.float64)[:, None] * rows)


def random_rows(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("requests", [1, 5, 40])
def test_the_memit_solve_is_the_dense_one(requests: int) -> None:
    """R K' (c C + K K')^-1 with keys as columns, as the paper writes it."""
    keys, residual, moment = random_rows(requests, 24), random_rows(requests, 7, seed=2), random_moment(24)
    damped = moment + 0.2 * moment.diagonal().mean() * torch.eye(24, dtype=torch.float64)
    system = 0.5 * 24 * damped + keys.T @ keys
    expected = (residual.T @ keys @ torch.linalg.inv(system)).T
    shift = Memit(MemitConfig(strength=0.5, damping=0.2)).shift_for(keys, residual, moment)
    torch.testing.assert_close(shift, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("requests", [1, 5, 40])
def test_the_alphaedit_solve_is_the_dense_one_and_ordinary_keys_feel_little(requests: int) -> None:
    keys, residual, moment = random_rows(requests, 24), random_rows(requests, 7, seed=2), random_moment(24)
    basis, energy = null_space(moment, 0.2)
    projection = basis @ basis.T
    ridge = 0.5 * energy * torch.eye(24, dtype=torch.float64)
    expected = (residual.T @ keys @ projection @ torch.linalg.inv(keys.T @ keys @ projection + ridge)).T
    editor = AlphaEdit(AlphaEditConfig(null_share=0.2, strength=0.5))
    shift = editor.shift_for(keys, residual, moment)
    torch.testing.assert_close(shift, expected, rtol=1e-8, atol=1e-10)
    assert 0 < basis.shape[1] < 24
    assert float((projection * moment).sum()) <= 0.2 * float(moment.trace()) * 1.01
    # The scale of the inputs means nothing.
    scaled = editor.shift_for(1e3 * keys, residual, 1e6 * moment)
    torch.testing.assert_close(scaled, shift / 1e3, rtol=1e-6, atol=1e-12)


def test_one_direction_is_always_open() -> None:
    assert null_space(torch.eye(4, dtype=torch.float64), 0.0)[0].shape == (4, 1)


def test_contexts_name_the_subject(loaded: Any) -> None:
    _, tokenizer = loaded
    egypt, _, japan = read_contexts(tokenizer, REQUESTS, ["Egypt", "Peru", "Japan"], ["One two", "Egypt is"])
    # Of the two equivalents one does not name it.
    assert len(egypt.rows) == 4
    assert egypt.weights == (0.25, 0.25, 0.25, 0.25)
    assert japan.weights == (0.5, 0.25, 0.25)
    texts = [tokenizer.decode(row.example.prompt_ids) for row in egypt.rows]
    assert "<|im_start|>user\nEgypt is. What is the capital of Egypt?<|im_end|>" in texts[3]
    for context, name in ((egypt, "Egypt"), (japan, "Japan")):
        for row in (*context.rows, context.essence):
            assert tokenizer.decode(row.example.prompt_ids[: row.position + 1]).endswith(name)
    assert texts[0].count("Egypt") == 1
    # A turn ends, and a text that breaks off goes on.
    assert egypt.rows[0].example.target_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in japan.rows[0].example.target_ids


def test_a_value_makes_the_model_answer_and_requests_do_not_mix(loaded: Any) -> None:
    """The vectors of a batch are those that each request gets alone, and they do what they are for."""
    model, tokenizer = loaded
    module = default_modules(model, depth=(0.4, 0.4))[0]
    site, pad = block_of(model, module), pad_id(tokenizer)
    contexts = read_contexts(tokenizer, REQUESTS, ["Egypt", "Peru", "Japan"], [])
    cache = PrefixCache(model, [module])
    config = ValueConfig(steps=16, rate=0.3, clamp=3.0, weight_decay=0.0, prefixes=0)
    with evaluating(model), frozen(model):
        values = optimise_values(model, site, contexts, config, pad, cache)
        alone = [optimise_values(model, site, [c], config, pad, cache)[0] for c in contexts]
        _, outputs = read_at_subjects(model, [module], site, contexts[1:], pad, cache)
    torch.testing.assert_close(values, torch.stack(alone), rtol=0.02, atol=0.02 * float(values.abs().max()))
    assert bool((values[1:].norm(dim=1) <= 3.0001 * outputs.norm(dim=1)).all())

    request, row, value = REQUESTS[2], contexts[2].rows[0], values[2]
    batch = collate([encode(tokenizer, request.prompt, request.target, chat=False)], pad)
    before = float(answer_loss(model, batch).detach())

    def add(_: Any, __: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, row.position] += value
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = model.get_submodule(site).register_forward_hook(add)
    after = float(answer_loss(model, batch).detach())
    handle.remove()
    assert after < 0.9 * before


def test_rome_writes_its_values_exactly(loaded: Any, statistics: KeyStatistics) -> None:
    """Behind the shifted weight the averaged key gives the optimised value; also that of the last request."""
    model, tokenizer = loaded
    one_by_one, together = (
        MAKE["rome"](statistics, dataclasses.replace(QUICK, prefixes=0, chunk=chunk)) for chunk in (1, 2)
    )
    (module,) = together.modules(model)
    requests = REQUESTS[1:]
    pad, cache = pad_id(tokenizer), PrefixCache(model, [module])
    contexts = read_contexts(tokenizer, requests, ["Peru", "Japan"], [])
    with evaluating(model), frozen(model):
        first = optimise_values(model, module.name, contexts[:1], one_by_one.config.value, pad, cache)
        both = optimise_values(model, module.name, contexts, together.config.value, pad, cache)
    _, outputs = read_at_subjects(model, [module], module.name, contexts, pad, cache)
    for editor, count, values in ((one_by_one, 1, first), (together, 2, both)):
        delta = editor.edit(model, tokenizer, requests[:count])
        assert list(delta.manifest["subjects"].items()) == [("peru", "Peru"), ("japan", "Japan")][:count]
        with applied(model, delta):
            _, now = read_at_subjects(model, [module], module.name, contexts, pad, cache)
        torch.testing.assert_close((now - outputs)[count - 1], values[-1], rtol=1e-3, atol=1e-3)
        assert torch.linalg.matrix_rank(delta.dense(module.parameter), rtol=1e-4) == count


def test_memit_reaches_its_values_over_several_layers(
    loaded: Any, architecture: str, statistics: KeyStatistics
) -> None:
    """With next to no weight on ordinary text, the last edited block says what was wanted."""
    model, tokenizer = loaded
    value = dataclasses.replace(QUICK, prefixes=0)
    editor = MAKE["memit"](statistics, value, modules=TWO_LAYERS[architecture], strength=1e-6)
    modules = editor.modules(model)
    assert len(modules) == 2
    site, pad, cache = block_of(model, modules[-1]), pad_id(tokenizer), PrefixCache(model, modules)
    contexts = read_contexts(tokenizer, REQUESTS[1:], ["Peru", "Japan"], [])
    with evaluating(model), frozen(model):
        values = optimise_values(model, site, contexts, value, pad, cache)
    _, before = read_at_subjects(model, modules, site, contexts, pad, cache)
    delta = editor.edit(model, tokenizer, REQUESTS[1:])
    with applied(model, delta):
        _, after = read_at_subjects(model, modules, site, contexts, pad, PrefixCache(model, modules))
    # The second layer takes up what the first one left.
    torch.testing.assert_close(after - before, values, rtol=0.01, atol=0.01 * float(values.abs().max()))


def test_prompts_that_stay_hold_more_the_more_they_weigh(loaded: Any, statistics: KeyStatistics) -> None:
    model, tokenizer = loaded
    moved = []
    for weight in (0.0, 1e4):
        editor = MAKE["memit"](statistics, strength=1.0, kept_weight=weight)
        delta = editor.edit(model, tokenizer, REQUESTS, KEPT)
        batch = collate([encode(tokenizer, k.prompt, k.answer, chat=k.chat) for k in KEPT], pad_id(tokenizer))
        with torch.no_grad():
            before = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            with applied(model, delta):
                after = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        moved.append(float((after - before)[batch.answer_mask].square().mean()))
    assert moved[1] < 0.3 * moved[0]


def test_key_statistics_are_the_mean_over_all_tokens(loaded: Any) -> None:
    model, tokenizer = loaded
    modules = default_modules(model, depth=(0.4, 0.4))
    texts = ["What is the capital of Egypt?", "Peru is in South America."]
    inputs: list[Tensor] = []
    handle = model.get_submodule(modules[0].name).register_forward_pre_hook(
        lambda _, args: inputs.append(args[0][0])
    )
    with torch.no_grad():
        for text in texts:
            model(torch.tensor([tokenizer(text)["input_ids"]]))
    handle.remove()
    rows = torch.cat(inputs)
    statistics = KeyStatistics.gather(model, tokenizer, modules, texts)
    assert statistics.tokens == len(rows)
    expected = rows.T @ rows / len(rows)
    torch.testing.assert_close(statistics.of(modules[0]), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="need text"):
        KeyStatistics.gather(model, tokenizer, modules, [""])


def test_what_is_written_is_what_was_optimised(loaded: Any) -> None:
    """The shifted weights say what the model said while values were added to its outputs."""
    model, tokenizer = loaded
    module = default_modules(model, depth=JointMemit.depth)[0]
    losses = []
    keys, moment = random_rows(2, module.d_in), random_moment(module.d_in)
    reader = reader_of(keys, moment, strength=0.5, damping=0.1).float()
    values = random_rows(2, module.d_out, seed=3).float()
    batch = collate([encode(tokenizer, r.prompt, r.target, chat=r.chat) for r in REQUESTS], pad_id(tokenizer))
    with torch.no_grad():
        with written(model, {module.name: reader}, {module.name: values}):
            losses.append(answer_loss(model, batch))
        shift = module.shift_for_weight(reader @ values).contiguous()
        with applied(model, Delta({module.parameter: shift})):
            losses.append(answer_loss(model, batch))
    torch.testing.assert_close(losses[0], losses[1])
    assert abs(losses[0] - answer_loss(model, batch)) > 1e-3
