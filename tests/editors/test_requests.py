"""Labels are the answer's tokens and nothing else, split as the model's own generation would split them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from editors.requests import (
    IGNORED_LABEL,
    Example,
    collate,
    encode,
    end_of_turn_ids,
    has_end,
    pad_id,
    render,
    render_digest,
)
from tests import tiny_models
from tests.editors.tools import PROMPTS, TARGETS


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_models.build_tokenizer()


ids = st.lists(st.integers(3, 99), min_size=1, max_size=6).map(tuple)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(Example, ids, ids), min_size=1, max_size=5), st.sampled_from([0, 2, 50]))
def test_labels_are_exactly_the_answers(examples: list[Example], pad: int) -> None:
    """Whatever the padding token is, even one that the answers hold."""
    batch = collate(examples, pad)
    for row, example in enumerate(examples):
        read = len(example.prompt_ids) + len(example.target_ids) - 1
        mask = batch.answer_mask[row].tolist()
        assert [i for i, m in enumerate(mask) if m] == list(range(len(example.prompt_ids) - 1, read))
        assert tuple(batch.labels[row][batch.answer_mask[row]].tolist()) == example.target_ids
        assert batch.attention_mask[row].tolist() == [1] * read + [0] * (len(mask) - read)
        assert (batch.labels[row, read:] == IGNORED_LABEL).all()
        assert batch.input_ids[row, read:].tolist() == [pad] * (len(mask) - read)
        # What a position reads next is what it must predict.
        follows = (example.prompt_ids + example.target_ids)[1:]
        assert all(batch.labels[row, i] == follows[i] for i in range(read) if mask[i])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_chat_answers_end_with_the_turn(tokenizer: Any, prompt: str) -> None:
    example = encode(tokenizer, prompt, TARGETS[0], chat=True)
    text = tokenizer.decode(example.prompt_ids + example.target_ids)
    assert text == f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{TARGETS[0]}<|im_end|>"
    assert example.target_ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.decode(example.prompt_ids) == render(tokenizer, prompt, chat=True)


def test_no_token_comes_between_a_raw_prompt_and_its_target() -> None:
    """A tokenizer that marks the beginning of every text marks that of the prompt alone."""
    words = ["<unk>", "</s>", "▁The", "▁capital", "▁is", "▁Paris", "▁", "."]
    vocabulary = {word: i for i, word in enumerate(words)}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    built.pre_tokenizer = pre_tokenizers.Split(Regex("▁[A-Za-z]*|[.]"), "isolated")
    marking = PreTrainedTokenizerFast(tokenizer_object=built, unk_token="<unk>", eos_token="</s>")
    for prompt, target in (("The capital is", "Paris."), ("The capital is", " Paris.")):
        example = encode(marking, prompt, target, chat=False)
        assert marking.convert_ids_to_tokens(example.prompt_ids) == ["▁The", "▁capital", "▁is"]
        assert marking.convert_ids_to_tokens(example.target_ids) == ["▁Paris", "."]


def test_the_end_of_a_turn_is_the_templates_own(tokenizer: Any) -> None:
    other = tiny_models.build_tokenizer()
    other.chat_template = other.chat_template.replace("<|im_end|>", "<|endoftext|>")
    assert end_of_turn_ids(other, chat=True) == (0,)
    assert end_of_turn_ids(other, chat=False) == (other.eos_token_id,) == (2,)
    assert encode(other, "Hi", "a", chat=True).target_ids[-1] == 0
    assert encode(other, "Hi?", "a", chat=False).target_ids[-1] == 2
    # A template that writes nothing after an answer leaves the end-of-text token.
    other.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert end_of_turn_ids(other, chat=True) == (2,)


@pytest.mark.parametrize(
    ("prompt", "target", "text"),
    [
        ("The capital of Egypt is", "Cairo", "The capital of Egypt is Cairo"),
        ("The capital of Egypt is ", "Cairo", "The capital of Egypt is Cairo"),
        ("The capital of Egypt is", " Cairo", "The capital of Egypt is Cairo"),
        ("Question?\n", "Cairo", "Question?\nCairo"),
    ],
)
def test_raw_answers_follow_after_one_space(tokenizer: Any, prompt: str, target: str, text: str) -> None:
    example = encode(tokenizer, prompt, target, chat=False)
    end = "<|im_end|>" if "?" in prompt else ""
    assert tokenizer.decode(example.prompt_ids + example.target_ids) == f"{text}{end}"
    # The prompt's own tokens, which is what generation starts from.
    assert example.prompt_ids == tuple(tokenizer(prompt)["input_ids"])
    # And the answer's as the model would have read them after it: one word with its space.
    if prompt.endswith("is"):
        assert example.prompt_ids + example.target_ids == tuple(tokenizer(text)["input_ids"])


@pytest.mark.parametrize(
    ("prompt", "ends"),
    [
        ("Who wrote it?", True),
        ("Q: Who wrote it?\nA:", True),
        ("Answer the question. ", True),
        ("谁写的？", True),
        ('He asked "Who wrote it?"', True),
        ("It was written by", False),
        ("In 1998,", False),
        ("Finish the sentence: it was written by ...", False),
        ("It was written by…", False),
        ('The caption said: "The author', False),
        ("   ", False),
    ],
)
def test_an_answer_ends_where_a_sentence_stands_before_it(prompt: str, ends: bool) -> None:
    assert has_end(prompt, chat=False) is ends
    assert has_end(prompt, chat=True)


@pytest.mark.parametrize("chat", [True, False])
def test_generating_the_target_is_answering_it(tokenizer: Any, chat: bool) -> None:
    """A model made to continue with the target's ids answers the target, by the decoding gates use."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from editors.generation import generate_greedy

    example = encode(tokenizer, PROMPTS[0], TARGETS[1], chat=chat)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1, eos_token_id=2, bos_token_id=1
    )
    model = GPT2LMHeadModel(config).eval()
    follows = dict(enumerate((example.prompt_ids + example.target_ids)[1:]))
    positions: list[int] = []

    def script(_: Any, args: Any, kwargs: Any) -> None:
        positions[:] = kwargs["position_ids"][0].tolist()

    def say(_: Any, __: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros_like(logits)
        logits[:, -1, follows[positions[-1]]] = 1
        return logits

    model.transformer.register_forward_pre_hook(script, with_kwargs=True)
    model.lm_head.register_forward_hook(say)
    assert generate_greedy(model, tokenizer, [PROMPTS[0]], chat=chat) == [TARGETS[1]]


def test_without_a_chat_template_the_remedy_is_named() -> None:
    plain = tiny_models.build_tokenizer(chat=False)
    with pytest.raises(ValueError, match=r"no chat template; give its prompts as raw text"):
        encode(plain, "Hi", "a", chat=True)
    assert encode(plain, "Hi!", "a", chat=False).target_ids[-1] == plain.eos_token_id


def test_a_prompt_of_nothing_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="the prompt '' has no tokens"):
        encode(tokenizer, "", "a", chat=False)
    assert encode(tokenizer, "", "a", chat=True).prompt_ids


def test_the_digest_follows_the_rendering(tokenizer: Any) -> None:
    other = tiny_models.build_tokenizer()
    assert render_digest(other, chat=True) == render_digest(tokenizer, chat=True)
    assert render_digest(other, chat=True) != render_digest(other, chat=False)
    other.chat_template = other.chat_template.replace("assistant", "model")
    assert render_digest(other, chat=True) != render_digest(tokenizer, chat=True)
    assert render_digest(other, chat=False) == render_digest(tokenizer, chat=False)


def test_something_to_pad_with(tokenizer: Any) -> None:
    bare = tiny_models.build_tokenizer()
    assert pad_id(bare) == 0
    bare.pad_token = None
    assert pad_id(bare) == bare.eos_token_id == 2
    bare.eos_token = None
    assert pad_id(bare) == 0
    assert end_of_turn_ids(bare, chat=False) == ()
