"""Encoder-decoders, classifiers and plain chains: the same losses, gradients and answers as their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from editors.capture import answer_logits, answer_loss, capture_gradients, capture_keys
from editors.catalogue import entry
from editors.delta import applied
from editors.gather import answered_exactly, gather_by_example, gather_keys
from editors.locate import default_modules, editable, mlp_matrices, stacks
from editors.model_kinds import CAUSAL, Classifier, EncoderDecoder, PlainModule, kind_of
from editors.objective import log_probabilities
from editors.protocol import Kept
from editors.replay import PrefixCache
from editors.requests import IGNORED_LABEL, EditRequest, collate, encode, pad_id
from editors.training import TrainingConfig, fit
from tests.editors.tools import PROMPTS, TARGETS, chain, folder_of, load, same_bits, snapshot
from tests.tiny_models import CLASSES, SENTENCES

# By architecture: modules of every part, in blocks that are skipped and in blocks that are not.
MODULES = {
    "t5": [
        "encoder.block.0.layer.1.DenseReluDense.wi",
        "encoder.block.1.layer.1.DenseReluDense.wo",
        "decoder.block.0.layer.2.DenseReluDense.wo",
        "decoder.block.1.layer.0.SelfAttention.v",
    ],
    "bart": ["model.encoder.layers.1.fc2", "model.decoder.layers.1.fc1"],
    "bert": ["bert.encoder.layer.1.intermediate.dense", "bert.encoder.layer.2.output.dense"],
}


@pytest.fixture(params=list(MODULES))
def case(request: pytest.FixtureRequest) -> Any:
    model, tokenizer = load(folder_of(request.param, request))
    targets = [CLASSES[i % 3] for i in range(len(PROMPTS))] if request.param == "bert" else TARGETS
    kind = kind_of(model)
    examples = [encode(tokenizer, p, t, chat=False, kind=kind) for p, t in zip(PROMPTS, targets, strict=True)]
    return model, [editable(model, name) for name in MODULES[request.param]], examples, pad_id(tokenizer)


def own_outputs(model: Any, batch: Any) -> Any:
    """The model's own output for the batch, with its own loss: a mean over what is labelled."""
    labels = batch.labels[:, 0] if isinstance(batch.kind, Classifier) else batch.labels
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels)


def test_loss_and_logits_are_the_models_own(case: Any) -> None:
    model, _, examples, pad = case
    batch = collate(examples, pad)
    assert int(batch.answer_mask.sum()) == sum(len(e.target_ids) for e in examples)
    with torch.no_grad():
        own = own_outputs(model, batch)
        logits, loss = answer_logits(model, batch), answer_loss(model, batch)
    torch.testing.assert_close(loss, own.loss * int(batch.answer_mask.sum()), rtol=1e-4, atol=1e-3)
    expected = own.logits if own.logits.dim() == 2 else own.logits[batch.answer_mask]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_captured_rows_are_what_the_weights_gradient_is_made_of(case: Any) -> None:
    """Every token that counts is captured, of encoder and decoder, and no padding."""
    model, modules, examples, pad = case
    batch = collate(examples, pad)
    captured = capture_gradients(model, modules, batch)
    weights = [model.get_parameter(module.parameter) for module in modules]
    gradients = torch.autograd.grad(answer_loss(model, batch), weights)
    for module, gradient in zip(modules, gradients, strict=True):
        rows = captured[module.name]
        made = module.shift_for_weight(rows.keys.T @ rows.gradients)
        torch.testing.assert_close(made, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
        assert sum(rows.counts) == len(rows.keys)
    keys = capture_keys(model, modules, batch)
    for module in modules:
        torch.testing.assert_close(keys[module.name], captured[module.name].keys, rtol=1e-4, atol=1e-5)


def test_an_example_is_the_same_in_any_batch(case: Any) -> None:
    model, modules, examples, pad = case
    cache = PrefixCache(model, modules)
    together = gather_by_example(model, modules, examples, pad, cache)
    references = log_probabilities(model, examples, pad, cache)
    for example, rows in zip(examples, together, strict=True):
        alone = collate([example], pad)
        captured = capture_gradients(model, modules, alone)
        for module in modules:
            expected, found = captured[module.name], rows[module.name]
            assert found.keys.shape == expected.keys.shape
            torch.testing.assert_close(found.keys.float(), expected.keys, rtol=2e-3, atol=2e-3)
            scale = float(expected.gradients.abs().max())
            difference = found.gradients.float() - expected.gradients
            assert float(difference.abs().max()) < 0.02 * scale
        with torch.no_grad():
            own = answer_logits(model, alone).log_softmax(-1)
        torch.testing.assert_close(references[example], own, rtol=1e-3, atol=1e-3)


def test_answered_exactly_is_what_the_model_says_by_itself(case: Any, request: Any) -> None:
    model, modules, examples, pad = case
    says, tokenizer = [], load(folder_of(request.node.callspec.params["case"], request))[1]
    for example in examples:
        ids = torch.tensor([example.prompt_ids])
        with torch.no_grad():
            if isinstance(example.kind, Classifier):
                says.append(model.config.id2label[int(model(input_ids=ids).logits.argmax())])
                continue
            said = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False, num_beams=1)[0, 1:]
        says.append(said.tolist())
    own = []
    for example, said in zip(examples, says, strict=True):
        if isinstance(said, str):
            own.append(encode(tokenizer, "x", said, chat=False, kind=example.kind).target_ids)
        else:
            own.append(tuple(said))
    cache = PrefixCache(model, modules)
    right = [type(e)(e.prompt_ids, ids, e.kind) for e, ids in zip(examples, own, strict=True)]
    wrong = [
        type(e)(e.prompt_ids, (*ids[:-1], (ids[-1] + 1) % 3), e.kind)
        for e, ids in zip(examples, own, strict=True)
    ]
    assert answered_exactly(model, [*right, *wrong], pad, cache) == [True] * 6 + [False] * 6


def test_what_a_classifier_skips_below_its_edits_changes_nothing(request: pytest.FixtureRequest) -> None:
    model, tokenizer = load(folder_of("bert", request))
    examples = [encode(tokenizer, p, "refutes", chat=False, kind=kind_of(model)) for p in PROMPTS]
    modules = default_modules(model)
    cache, runs = PrefixCache(model, modules), []
    model.bert.encoder.layer[0].register_forward_hook(lambda *_: runs.append(1))
    batch = collate(examples, pad_id(tokenizer))
    with torch.no_grad():
        whole = answer_logits(model, batch)
        for _ in range(3):
            with cache.replayed(batch):
                torch.testing.assert_close(answer_logits(model, batch), whole, rtol=1e-4, atol=1e-4)
    assert len(runs) == 2


def test_the_default_modules_lie_in_the_last_blocks_of_every_part(request: pytest.FixtureRequest) -> None:
    def names(architecture: str, **settings: Any) -> Any:
        model = load(folder_of(architecture, request, **settings))[0]
        return [m.name for m in default_modules(model)], [m.name for m in mlp_matrices(model)]

    outputs, matrices = names("t5", num_layers=6, hidden_size=16, d_ff=16)
    assert outputs == [
        *(f"encoder.block.{n}.layer.1.DenseReluDense.wo" for n in (4, 5)),
        *(f"decoder.block.{n}.layer.2.DenseReluDense.wo" for n in (4, 5)),
    ]
    assert len(matrices) == 8
    outputs, _ = names("bart")
    assert outputs == ["model.encoder.layers.1.fc2", "model.decoder.layers.1.fc2"]
    outputs, matrices = names("bert", num_hidden_layers=6, hidden_size=16)
    assert outputs == [f"bert.encoder.layer.{n}.output.dense" for n in (4, 5)]
    assert len(matrices) == 6
    assert [m.name for m in default_modules(chain())] == ["1", "3"]
    assert stacks(chain()) == []


def test_kinds_are_told_by_structure(request: pytest.FixtureRequest) -> None:
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        BertLMHeadModel,
        BertModel,
        GPT2Config,
        GPT2ForSequenceClassification,
    )

    kinds = {a: kind_of(load(folder_of(a, request))[0]) for a in ("llama", "gpt2", "t5", "bart", "bert")}
    assert kinds == {
        "llama": CAUSAL,
        "gpt2": CAUSAL,
        "t5": EncoderDecoder(0),
        "bart": EncoderDecoder(2),
        "bert": Classifier(CLASSES, takes_cache=False, pad=0),
    }
    assert kind_of(chain()) == PlainModule()
    sizes = {"vocab_size": 9, "n_embd": 8, "n_layer": 1, "n_head": 1, "eos_token_id": 1, "bos_token_id": 1}
    decoder = GPT2ForSequenceClassification(GPT2Config(**sizes))
    assert kind_of(decoder) == Classifier(("LABEL_0", "LABEL_1"), takes_cache=True)
    small = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with pytest.raises(ValueError, match="BertModel has neither an output vocabulary nor a head"):
        kind_of(BertModel(BertConfig(**small)))
    for both_ways in (BertForMaskedLM, BertLMHeadModel):
        with pytest.raises(ValueError, match="fills in tokens from both sides"):
            kind_of(both_ways(BertConfig(**small)))
    assert kind_of(BertLMHeadModel(BertConfig(**small, is_decoder=True))) == CAUSAL


def test_a_decoder_that_classifies_finds_its_last_token_behind_any_padding(
    request: pytest.FixtureRequest,
) -> None:
    """It knows padding by its configuration's token, whatever the tokenizer pads with."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    _, tokenizer = load(folder_of("gpt2", request))
    sizes = {"n_embd": 24, "n_layer": 2, "n_head": 2, "initializer_range": 0.2, "eos_token_id": 1}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=1, pad_token_id=2, **sizes)
    model = GPT2ForSequenceClassification(config).eval()
    assert pad_id(tokenizer) != 2
    examples = [encode(tokenizer, p, "0", chat=False, kind=kind_of(model)) for p in PROMPTS]
    with torch.no_grad():
        together = answer_logits(model, collate(examples, pad_id(tokenizer)))
        alone = [model(input_ids=torch.tensor([e.prompt_ids])).logits for e in examples]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_targets_of_each_kind(request: pytest.FixtureRequest) -> None:
    model, tokenizer = load(folder_of("bert", request))
    kind = kind_of(model)
    assert encode(tokenizer, "Hi", "unknown", chat=False, kind=kind).target_ids == (2,)
    assert encode(tokenizer, "Hi", "1", chat=False, kind=kind).target_ids == (1,)
    for wrong in ("3", "yes", "Unknown"):
        with pytest.raises(ValueError, match="not a class of this model; its classes are supports, refutes"):
            encode(tokenizer, "Hi", wrong, chat=False, kind=kind)
    example = encode(tokenizer, "Hi", "Cairo.", chat=False, kind=EncoderDecoder(0))
    assert tokenizer.decode(example.target_ids) == "Cairo.<|im_end|>"
    batch = collate([example, encode(tokenizer, PROMPTS[0], "a", chat=False, kind=EncoderDecoder(0))], 0)
    assert batch.decoder_input_ids is not None
    assert batch.decoder_input_ids[0].tolist() == [0, *example.target_ids[:-1]]
    assert batch.labels[1].tolist()[2:] == [IGNORED_LABEL] * (len(example.target_ids) - 2)


def test_a_module_over_other_rows_is_refused_by_name(request: pytest.FixtureRequest) -> None:
    """The keys of cross-attention are read from the encoder, though the module is the decoder's."""
    model, tokenizer = load(folder_of("t5", request))
    module = editable(model, "decoder.block.1.layer.1.EncDecAttention.v")
    batch = collate([encode(tokenizer, PROMPTS[0], "a", chat=False, kind=kind_of(model))], 0)
    with pytest.raises(ValueError, match=r"EncDecAttention\.v does not read the tokens"):
        capture_gradients(model, [module], batch)


def test_a_map_of_the_pooled_vector_has_one_row_an_example(request: pytest.FixtureRequest) -> None:
    model, tokenizer = load(folder_of("bert", request))
    examples = [encode(tokenizer, p, "refutes", chat=False, kind=kind_of(model)) for p in PROMPTS]
    module = editable(model, "bert.pooler.dense")
    captured = capture_gradients(model, [module], collate(examples, 0))[module.name]
    assert captured.counts == (1,) * len(PROMPTS)
    assert gather_keys(model, [module], examples, 0)[module.name].shape == (len(PROMPTS), 48)


def test_a_chain_is_asked_token_by_token(request: pytest.FixtureRequest) -> None:
    _, tokenizer = load(folder_of("llama", request))
    model: nn.Module = chain()
    example = encode(tokenizer, "Hi", "a", chat=False, kind=kind_of(model))
    batch = collate([example], 0)
    with torch.no_grad():
        expected = model(batch.input_ids)[0, len(example.prompt_ids) - 1 :]
        torch.testing.assert_close(answer_logits(model, batch), expected)


@pytest.mark.parametrize("editor", ["malmen", "mend"])
def test_an_editor_trains_for_a_classifier(editor: str, request: pytest.FixtureRequest) -> None:
    model, tokenizer = load(folder_of("bert", request))
    questions = [f"{prompt} {number}" for prompt in PROMPTS for number in range(6)]
    with torch.no_grad():
        says = [
            int(model(input_ids=torch.tensor([tokenizer(question)["input_ids"]])).logits.argmax())
            for question in questions
        ]
    requests = [
        EditRequest(q, q, CLASSES[(said + 1) % 3], (f"{q}?", f"So: {q}"), chat=False)
        for q, said in zip(questions[:18], says[:18], strict=True)
    ]
    keep = [Kept(q, CLASSES[said], chat=False) for q, said in zip(questions[18:], says[18:], strict=True)]
    before = snapshot(model)
    result = fit(
        model,
        tokenizer,
        requests,
        keep,
        SENTENCES,
        editor=editor,
        config=entry(editor).editor_class().config_class(rank=8),
        training=TrainingConfig(steps=3, validate_every=3),
    )
    assert same_bits(model, before)
    assert len(result.history) == 2
    delta = result.editor.edit(model, tokenizer, requests[:4], keep)
    with applied(model, delta):
        assert not same_bits(model, before)
