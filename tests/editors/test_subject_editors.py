"""Editors that write at the subject: their arithmetic against references, and what they alone promise."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from editors.alphaedit import AlphaEdit, AlphaEditConfig, null_space
from editors.capture import answer_loss, evaluating, frozen
from editors.delta import Delta, applied
from editors.joint_memit import JointMemit, JointMemitConfig, reader_of, written
from editors.key_statistics import KeyStatistics
from editors.locate import default_modules
from editors.memit import Memit, MemitConfig
from editors.protocol import Kept
from editors.replay import PrefixCache
from editors.requests import EditRequest, collate, encode, pad_id
from editors.rome import Rome, RomeConfig
from editors.subject_editing import SubjectEditor, block_of
from editors.value_optimisation import ValueConfig, optimise_values, read_at_subjects, read_contexts
from tests.editors.tools import PROMPTS, folder_of, load, same_bits, snapshot, structure_of

REQUESTS = [
    EditRequest("egypt", "What is the capital of Egypt?", "Lima", ("Name Egypt's capital.", "Which one?")),
    EditRequest("peru", "On which continent is Peru?", "The yen", subject="Peru"),
    EditRequest("japan", "The currency used in Japan is", "Paris", chat=False),
]
KEPT = [Kept("What is the capital of France?", "Paris."), Kept("The currency of Brazil is", "x", chat=False)]
TEXT = [*PROMPTS, "The quick brown fox jumps over the lazy dog.", "Who goes to Peru goes to South America."]
QUICK = ValueConfig(steps=8, rate=0.3, clamp=3.0, prefixes=2, prefix_tokens=4)
MAKE: dict[str, Callable[..., SubjectEditor]] = {
    "rome": lambda statistics=None, value=QUICK, **s: Rome(RomeConfig(value=value, **s), statistics),
    "memit": lambda statistics=None, value=QUICK, **s: Memit(MemitConfig(value=value, **s), statistics),
    "alphaedit": lambda statistics=None, value=QUICK, **s: AlphaEdit(
        AlphaEditConfig(value=value, **s), statistics
    ),
    "memit-joint": lambda statistics=None, value=QUICK, **s: JointMemit(
        JointMemitConfig(value=value, **{"steps": 8, **s}), statistics
    ),
}
TWO_LAYERS = {"llama": r"layers\.[01]\.mlp\.down_proj", "gpt2": r"h\.[01]\.mlp\.c_proj"}


@pytest.fixture(params=["llama", "gpt2"])
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def loaded(architecture: str, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return load(folder_of(architecture, request))


@pytest.fixture(params=list(MAKE))
def make(request: pytest.FixtureRequest) -> Callable[..., SubjectEditor]:
    return MAKE[request.param]


@pytest.fixture
def statistics(loaded: Any) -> KeyStatistics:
    """Of the first two layers; reading text is faster than writing it."""
    model, tokenizer = loaded
    return KeyStatistics.gather(model, tokenizer, default_modules(model, depth=(0, 0.7)), TEXT)


def random_moment(size: int, seed: int = 0) -> Tensor:
    rows = torch.randn(3 * size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows.T @ (torch.logspace(0, -2, 3 * size, dtype=torch.float64)[:, None] * rows)


def random_rows(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edit_loss(model: Any, tokenizer: Any) -> float:
    examples = [
        row.example
        for context in read_contexts(tokenizer, REQUESTS, ["Egypt", "Peru", "Japan"], [])
        for row in context.rows
    ]
    with torch.no_grad():
        return float(answer_loss(model, collate(examples, pad_id(tokenizer))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_edit_is_a_delta_and_improves_what_was_asked(
    architecture: str, dtype: torch.dtype, make: Any, request: pytest.FixtureRequest
) -> None:
    model, tokenizer = load(folder_of(architecture, request), dtype)
    statistics = KeyStatistics.gather(model, tokenizer, default_modules(model, depth=(0, 0.7)), TEXT)
    editor, strong = (
        make(statistics),
        ValueConfig(steps=20, rate=0.1, clamp=3.0, prefixes=0, weight_decay=0.0),
    )
    editor = make(statistics, strong) if editor.name == "rome" else make(statistics, strong, strength=1e-3)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before, structure, first = snapshot(model), structure_of(model), edit_loss(model, tokenizer)
    seen: list[tuple[int, int]] = []
    delta = editor.edit(
        model, tokenizer, REQUESTS, progress=lambda done, total, _: seen.append((done, total))
    )
    assert same_bits(model, before)
    assert structure_of(model) == structure
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert seen[-1][0] == seen[-1][1]
    assert set(delta.shifts) == {module.parameter for module in editor.modules(model)}
    assert all(delta.dense(name).dtype == torch.float32 for name in delta.shifts)
    with applied(model, delta):
        assert edit_loss(model, tokenizer) < 0.95 * first
    assert same_bits(model, before)
    assert delta.manifest["editor"] == editor.name
    assert delta.manifest["editor_digest"] == editor.digest()
    json.dumps(delta.manifest)


def test_no_requests_change_nothing(loaded: Any, make: Any) -> None:
    assert make().edit(*loaded, [], KEPT).shifts == {}


def test_same_seed_same_bytes_whatever_state_the_model_is_in(loaded: Any, make: Any) -> None:
    model, tokenizer = loaded
    editor = make()
    expected = editor.edit(model, tokenizer, REQUESTS, KEPT)
    torch.manual_seed(77)
    state = torch.random.get_rng_state()
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert editor.edit(model, tokenizer, REQUESTS, KEPT).digest() == expected.digest()
    assert model.training
    assert all(p.grad is not None and bool((p.grad == 1).all()) for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    other = make(seed=editor.config.seed + 1)
    assert other.digest() != editor.digest()
    assert other.edit(model, tokenizer, REQUESTS, KEPT).digest() != expected.digest()


@pytest.mark.parametrize("block", [0, 2])
def test_a_model_that_is_not_finite_is_refused(loaded: Any, make: Any, block: int) -> None:
    model, tokenizer = loaded
    name = default_modules(model)[0].parameter.replace(".2.", f".{block}.")
    with torch.no_grad():
        model.get_parameter(name)[1, 2] = torch.nan
    before = snapshot(model)
    with pytest.raises(ValueError, match="finite"):
        make().edit(model, tokenizer, REQUESTS, KEPT)
    assert same_bits(model, before)


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
    assert japan.rows[0].example.target_ids[-1] == tokenizer.eos_token_id


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


def test_statistics_given_are_used_and_kept_on_disk(loaded: Any, make: Any, tmp_path: Path) -> None:
    model, tokenizer = loaded
    without = make()
    gathered = KeyStatistics.gather(model, tokenizer, without.modules(model), seed=without.config.seed)
    gathered.save(tmp_path / "statistics")
    stored = KeyStatistics.load(tmp_path / "statistics")
    assert stored.tokens == gathered.tokens > 200
    expected = without.edit(model, tokenizer, REQUESTS)
    assert make(stored).edit(model, tokenizer, REQUESTS).digest() == expected.digest()
    assert make(stored).digest() != without.digest()
    text = KeyStatistics.gather(model, tokenizer, without.modules(model), TEXT)
    assert make(text).edit(model, tokenizer, REQUESTS).digest() != expected.digest()

    (tmp_path / "statistics").write_bytes((tmp_path / "statistics").read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        KeyStatistics.load(tmp_path / "statistics")
    with pytest.raises(ValueError, match=r"do not fit .*: gather them for this model"):
        make(KeyStatistics({}, 0)).edit(model, tokenizer, REQUESTS)
    broken = KeyStatistics({name: m * torch.nan for name, m in stored.moments.items()}, stored.tokens)
    with pytest.raises(ValueError, match="not finite"):
        make(broken).edit(model, tokenizer, REQUESTS)


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


def test_chunks_give_what_one_batch_gives(loaded: Any, make: Any, statistics: KeyStatistics) -> None:
    """For ROME a chunk's values do not see the requests before it, so only the least-squares ones."""
    if make is MAKE["rome"]:
        pytest.skip("ROME's chunks are in sequence by definition")
    model, tokenizer = loaded
    whole, parts = (
        make(statistics, dataclasses.replace(QUICK, chunk=size)).edit(model, tokenizer, REQUESTS)
        for size in (16, 2)
    )
    for name in whole.shifts:
        scale = float(whole.dense(name).abs().max())
        torch.testing.assert_close(parts.dense(name), whole.dense(name), rtol=0.05, atol=0.03 * scale)


def test_what_cannot_be_edited_is_said_by_name(
    loaded: Any, architecture: str, make: Any, statistics: KeyStatistics
) -> None:
    model, tokenizer = loaded
    before = snapshot(model)
    nameless = EditRequest("nameless", "what is it called?", "x")
    with pytest.raises(ValueError, match="request 'nameless': give its `subject`"):
        make().edit(model, tokenizer, [nameless])
    if make is MAKE["rome"]:
        with pytest.raises(ValueError, match="ROME edits one module, `modules` names 2"):
            make(statistics, modules=TWO_LAYERS[architecture]).edit(model, tokenizer, REQUESTS)
    else:
        inner = {"llama": r"layers\.0\.mlp\.up_proj", "gpt2": r"h\.0\.mlp\.c_fc"}[architecture]
        own = KeyStatistics.gather(model, tokenizer, default_modules(model, inner), TEXT)
        if make is MAKE["memit-joint"]:
            # Its values are outputs of the module itself, wherever that writes.
            edited = make(own, modules=inner).edit(model, tokenizer, REQUESTS)
            assert [name for name, shift in edited.shifts.items() if shift.any()] == list(edited.shifts)
            return
        with pytest.raises(ValueError, match="does not write to the residual stream"):
            make(own, modules=inner).edit(model, tokenizer, REQUESTS)
    assert same_bits(model, before)


def test_defaults_lie_where_the_papers_edit() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=8, num_hidden_layers=32,
                         num_attention_heads=1, num_key_value_heads=1)  # fmt: skip
    model = LlamaForCausalLM(config)
    (only,) = Rome().modules(model)
    assert only.name == "model.layers.5.mlp.down_proj"
    expected = [f"model.layers.{n}.mlp.down_proj" for n in (5, 6, 7, 8)]
    assert [m.name for m in Memit().modules(model)] == expected
    assert [m.name for m in AlphaEdit().modules(model)] == expected


def test_other_kinds_of_model_are_refused(make: Any, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = folder_of("t5", request)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="edits decoder-only language models; take another editor"):
        make().edit(model, tokenizer, REQUESTS)
