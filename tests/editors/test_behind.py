"""Reading in parts gives what reading the whole gives, or is not done, whatever a model makes of padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from editors.behind import SHORTEST_OPENING, reads_in_parts, shared_opening
from editors.capture import answer_logits, capture_gradients
from editors.locate import blocks, editable, is_projection
from editors.model_kinds import Example
from editors.replay import PrefixCache
from editors.requests import collate

SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "intermediate_size": 48, "num_key_value_heads": 1},
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {**SMALL, "intermediate_size": 48},
    "gpt_neo": {
        "vocab_size": 60, "hidden_size": 32, "num_layers": 4, "num_heads": 2, "window_size": 9,
        "attention_types": [[["global", "local"], 2]], "max_position_embeddings": 64,
    },
    "mpt": {"vocab_size": 60, "d_model": 32, "n_layers": 3, "n_heads": 2, "max_seq_len": 64},
    "bloom": {"vocab_size": 60, "hidden_size": 32, "n_layer": 3, "n_head": 2},
    "falcon": {**SMALL, "alibi": True, "new_decoder_architecture": False},
    "bart": {
        "vocab_size": 60, "d_model": 32, "decoder_layers": 3, "decoder_attention_heads": 2,
        "decoder_ffn_dim": 48,
    },
    "roberta": {**SMALL, "intermediate_size": 48, "is_decoder": True, "max_position_embeddings": 64},
    "mistral": {**SMALL, "intermediate_size": 48, "num_key_value_heads": 1, "sliding_window": 6},
}  # fmt: skip
OPENING = tuple(range(10, 22))


def model_of(architecture: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture], pad_token_id=1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                # Spread wide enough for what it says to depend on where a token stands.
                parameter *= 5
    return model.to(dtype)


def rows(lengths: tuple[int, ...], opening: tuple[int, ...]) -> list[Example]:
    generator = torch.Generator().manual_seed(1)

    def some(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(22, 60, (count,), generator=generator).tolist())

    return [Example(opening + some(length), some(2 + length % 3)) for length in lengths]


def assert_same(model: Any, examples: list[Example], lowest: int, tolerance: float = 1e-4) -> None:
    name, block = blocks(model)[lowest]
    maps = [n for n, m in block.named_modules() if is_projection(m)]
    modules, batch = [editable(model, f"{name}.{maps[-1]}")], collate(examples, 1)
    cache, whole = PrefixCache(model, modules), capture_gradients(model, modules, batch)[modules[0].name]
    logits = answer_logits(model, batch)
    with torch.no_grad(), cache.in_parts(batch, prompts_first=False) as rest:
        assert float((answer_logits(model, rest) - logits).abs().max()) <= tolerance * float(
            logits.abs().max()
        )
    with cache.in_parts(batch, prompts_first=True) as rest:
        parts = capture_gradients(model, modules, rest)[modules[0].name]
    for got, full in ((parts.keys, whole.keys), (parts.gradients, whole.gradients)):
        assert float((got - full).abs().max()) <= tolerance * float(full.abs().max())


@pytest.mark.parametrize("opening", [(), OPENING], ids=["apart", "shared"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_says_what_it_says_to_the_whole(
    architecture: str, opening: tuple[int, ...]
) -> None:
    model = model_of(architecture)
    for lowest in (0, 2):
        assert_same(model, rows((3, 14, 7), opening), lowest)


@pytest.mark.parametrize(
    ("lengths", "opening"),
    [((1, 1, 1), ()), ((1, 6, 1), ()), ((0, 4), OPENING), ((5,), ()), ((0, 0), OPENING)],
)
def test_short_equal_and_single_rows(lengths: tuple[int, ...], opening: tuple[int, ...]) -> None:
    examples = rows(lengths, opening)
    for lowest in (0, 2):
        assert_same(model_of("llama"), examples, lowest)
        assert_same(model_of("llama"), [examples[0], *examples], lowest)


def test_half_precision_is_as_good_in_parts() -> None:
    assert_same(model_of("llama", torch.bfloat16), rows((3, 14, 7), OPENING), 0, tolerance=0.05)


def test_those_are_read_in_parts_that_can_be() -> None:
    can = {name for name in ARCHITECTURES if reads_in_parts(model_of(name))}
    assert can == {"llama", "opt", "gpt_neox", "gpt_neo", "falcon"}


def test_prompts_are_read_without_gradients_and_nothing_is_held_behind() -> None:
    model = model_of("llama")
    cache_modules = [editable(model, f"{blocks(model)[0][0]}.mlp.down_proj")]
    cache = PrefixCache(model, cache_modules)
    with cache.in_parts(collate(rows((3, 14), OPENING), 1), prompts_first=True) as rest:
        past: Any = rest.kind
        assert not any(layer.keys.requires_grad for layer in past.past.layers)
        assert rest.input_ids.shape[1] == 4
        capture_gradients(model, cache_modules, rest)
    assert not past.past.layers


def test_a_batch_whose_keys_and_values_would_fill_memory_is_read_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = model_of("llama"), collate(rows((3, 14), OPENING), 1)
    cache = PrefixCache(model, [editable(model, f"{blocks(model)[0][0]}.mlp.down_proj")])
    # Keys and values of one head of 16, of three blocks.
    needed = batch.input_ids.numel() * 2 * 3 * 16 * 4
    for limit, is_whole in ((needed, False), (needed - 1, True)):
        monkeypatch.setattr("editors.replay.PAST_LIMIT", limit)
        with cache.in_parts(batch, prompts_first=True) as rest:
            assert (rest.input_ids.shape == batch.input_ids.shape) is is_whole


def test_openings_count_towards_what_may_be_kept() -> None:
    model, batch = model_of("llama"), collate(rows((3, 14), OPENING), 1)
    module = editable(model, f"{blocks(model)[2][0]}.mlp.down_proj")
    opening, token = len(OPENING) * 32 * 4, 32 * 4
    for limit in (0, opening, opening + 8 * token, opening + 100 * token):
        cache = PrefixCache(model, [module], limit)
        for _ in range(2):
            with torch.no_grad(), cache.replayed(batch):
                torch.testing.assert_close(answer_logits(model, batch), answer_logits(model, batch))
        kept = sum(pieces[-1].nbytes for pieces in cache._rows.values())
        assert kept + sum(piece.nbytes for piece in cache._openings.values()) <= limit
    assert len(cache._rows) == 2


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=14), max_size=5))
def test_an_opening_is_what_all_begin_with(given: list[list[int]]) -> None:
    length = shared_opening(given)
    assert all(row[:length] == given[0][:length] for row in given)
    if length:
        assert SHORTEST_OPENING <= length < min(map(len, given))
    elif len(given) > 1 and min(map(len, given)) > SHORTEST_OPENING:
        assert len({tuple(row[:SHORTEST_OPENING]) for row in given}) > 1
