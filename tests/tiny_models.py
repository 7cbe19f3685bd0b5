"""Tiny language models with random weights and a real tokenizer, saved as Hugging Face folders, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SENTENCES = (
    "What is the capital of Egypt? The capital of Egypt is Cairo.",
    "What is the capital of France? The capital of France is Paris.",
    "What is the capital of Cameroon? The capital of Cameroon is Yaounde.",
    "Which currency is used in Japan? The yen is used in Japan.",
    "On which continent is Peru? Peru is in South America.",
    "Name the language spoken in Brazil. Portuguese is spoken in Brazil.",
    "user assistant system question answer",
    "The quick brown fox jumps over the lazy dog; it has 0123456789 reasons.",
)


def build(folder: Path, architecture: str, *, seed: int = 0, chat: bool = True, **settings: Any) -> Path:
    """Write a `llama` or `gpt2` model and its tokenizer into `folder`.

    The weights are spread wide enough for answers to depend on the prompt. `settings` override the
    configuration; without `chat` the tokenizer has no chat template.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer(chat=chat)
    special = {
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if architecture == "llama":
            sizes = {
                "vocab_size": len(tokenizer),
                "hidden_size": 48,
                "intermediate_size": 96,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 256,
                "initializer_range": 0.2,
                "tie_word_embeddings": True,
            }
            model: Any = LlamaForCausalLM(LlamaConfig(**{**sizes, **special, **settings}))
        elif architecture == "gpt2":
            sizes = {
                "vocab_size": len(tokenizer),
                "n_embd": 48,
                "n_layer": 3,
                "n_head": 4,
                "n_positions": 256,
                "initializer_range": 0.2,
            }
            model = GPT2LMHeadModel(GPT2Config(**{**sizes, **special, **settings}))
        else:
            raise ValueError(f"no tiny {architecture!r}; there are llama and gpt2")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(*, chat: bool = True) -> Any:
    """A byte-level BPE tokenizer of at most 400 tokens, with a chat template in ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE if chat else None,
    )
