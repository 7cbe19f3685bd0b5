"""What is gathered of many answers does not depend on which of them were expected to be in doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editors.capture import answer_logits, certainties
from editors.gather import batches, captures, gather_by_example, joined, look
from editors.locate import editable
from editors.replay import PrefixCache
from editors.requests import Example, encode, pad_id
from tests.editors.tools import PROMPTS, TARGETS, folder_of, load

NAMES = ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]


@pytest.mark.parametrize("doubted", [set(), {0, 2}, {1}, set(range(len(PROMPTS)))])
def test_an_answer_is_asked_for_or_held_whoever_doubted_it(
    doubted: set[int], request: pytest.FixtureRequest
) -> None:
    model, tokenizer = load(folder_of("llama", request))
    modules, pad = [editable(model, name) for name in NAMES], pad_id(tokenizer)
    examples = [encode(tokenizer, p, t, chat=True) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    # An untrained model is right where it is asked for nothing but its own next token.
    for number in range(0, len(examples), 2):
        ((_, batch),) = batches([examples[number]], pad)
        own = int(answer_logits(model, batch)[0].argmax())
        examples[number] = replace(examples[number], target_ids=(own,))
    sure = []
    for example in examples:
        ((_, batch),) = batches([example], pad)
        sure += [certainties(batch, answer_logits(model, batch).detach())[0] > 0]
    assert any(sure)
    assert not all(sure)

    seen = list(look(model, modules, examples, 0, pad, PrefixCache(model, modules), doubted))

    assert sorted(n for part in seen for n in part.unsure) == [n for n, one in enumerate(sure) if not one]
    wrong = [example for example, one in zip(examples, sure, strict=True) if not one]
    right = [example for example, one in zip(examples, sure, strict=True) if one]
    asked = joined(captures(model, modules, wrong, pad))
    held = joined(captures(model, modules, right, pad))
    for name in NAMES:
        keys = torch.cat([part.asked[name].keys for part in seen if part.asked])
        gradients = torch.cat([part.asked[name].gradients for part in seen if part.asked])
        kept = torch.cat([part.held[name] for part in seen if part.held])
        # Sums of products do not depend on the order of the rows.
        torch.testing.assert_close(keys.T @ gradients, asked[name].keys.T @ asked[name].gradients)
        torch.testing.assert_close(kept.T @ kept, held[name].keys.T @ held[name].keys)
        assert (len(keys), len(kept)) == (len(asked[name].keys), len(held[name].keys))


def test_keys_beyond_the_range_of_half_precision_are_kept(request: pytest.FixtureRequest) -> None:
    model, tokenizer = load(folder_of("llama", request))
    modules, pad = [editable(model, name) for name in NAMES], pad_id(tokenizer)
    examples = [encode(tokenizer, p, t, chat=True) for p, t in zip(PROMPTS, TARGETS, strict=True)]
    with torch.no_grad():
        # The same function, with keys of the first module that are 2^18 times as large.
        model.model.layers[1].mlp.up_proj.weight *= 2**18
        model.model.layers[1].mlp.down_proj.weight /= 2**18
    kept = gather_by_example(model, modules, examples, pad, PrefixCache(model, modules))
    for example, rows in zip(examples, kept, strict=True):
        (expected,) = captures(model, modules, [example], pad)
        for name in NAMES:
            found, scale = rows[name].keys.float(), float(expected[name].keys.abs().max())
            torch.testing.assert_close(found, expected[name].keys, rtol=2e-3, atol=2e-3 * scale)
    assert {rows[NAMES[0]].keys.dtype for rows in kept} == {torch.float32}
    assert {rows[NAMES[1]].keys.dtype for rows in kept} == {torch.float16}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=30),
    st.integers(1, 8),
    st.integers(1, 60),
    st.integers(1, 20),
)
def test_batches_hold_every_example_once_and_no_more_than_they_may(
    lengths: list[tuple[int, int]], size: int, tokens: int, answers: int
) -> None:
    examples = [Example((1,) * prompt, (2,) * target) for prompt, target in lengths]
    made = list(batches(examples, 0, size, tokens=tokens, answer_tokens=answers))
    assert sorted(number for numbers, _ in made for number in numbers) == list(range(len(examples)))
    for numbers, batch in made:
        # The last token of an answer is not read.
        together = (batch.input_ids.shape[1] + 1) * len(numbers)
        fits = together <= tokens and int(batch.answer_mask.sum()) <= answers
        assert len(numbers) == 1 or (fits and len(numbers) <= size)
        assert batch.attention_mask.sum(1).tolist() == [sum(lengths[number]) - 1 for number in numbers]
