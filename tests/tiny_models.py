"""Tiny models with random weights and a real tokenizer, saved as Hugging Face folders, offline."""

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


# Of the tiny classifier, in their order.
CLASSES = ("supports", "refutes", "unknown")


def build(folder: Path, architecture: str, *, seed: int = 0, chat: bool = True, **settings: Any) -> Path:
    """Write a model of an architecture of `MODELS`, and its tokenizer, into `folder`.

    The weights are spread wide enough for answers to depend on the prompt. `settings` override the
    configuration; without `chat` the tokenizer has no chat template.
    """
    if architecture not in MODELS:
        raise ValueError(f"no tiny {architecture!r}; there are {', '.join(MODELS)}")
    tokenizer = build_tokenizer(chat=chat)
    special = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": 1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[architecture]({**special, **settings})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _llama(settings: dict[str, Any]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **settings}))


def _gpt2(settings: dict[str, Any]) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
    return GPT2LMHeadModel(GPT2Config(**{**sizes, **settings}))


def _opt(settings: dict[str, Any]) -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 48, "word_embed_proj_dim": 48, "ffn_dim": 96, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 256, "init_std": 0.2}
    return OPTForCausalLM(OPTConfig(**{**sizes, **settings}))


def _falcon(settings: dict[str, Any]) -> Any:
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.2}
    return FalconForCausalLM(FalconConfig(**{**sizes, **settings}))


def _bloom(settings: dict[str, Any]) -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    sizes = {"hidden_size": 48, "n_layer": 3, "n_head": 4, "initializer_range": 0.2}
    return BloomForCausalLM(BloomConfig(**{**sizes, **settings}))


def _mpt(settings: dict[str, Any]) -> Any:
    from transformers import MptConfig, MptForCausalLM

    sizes = {"d_model": 48, "n_layers": 3, "n_heads": 4, "max_seq_len": 256, "initializer_range": 0.2}
    return MptForCausalLM(MptConfig(**{**sizes, **settings}))


def _mistral(settings: dict[str, Any]) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "sliding_window": 8, "initializer_range": 0.2}
    return MistralForCausalLM(MistralConfig(**{**sizes, **settings}))


def _gemma3(settings: dict[str, Any]) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 12, "sliding_window": 8, "initializer_range": 0.2}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**{**sizes, "layer_types": kinds, **settings}))


def _mamba(settings: dict[str, Any]) -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "state_size": 8, "initializer_range": 0.5}
    return MambaForCausalLM(MambaConfig(**{**sizes, **settings}))


def _t5(settings: dict[str, Any]) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"d_model": 48, "d_kv": 12, "d_ff": 96, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(**{**sizes, "decoder_start_token_id": 0, **settings}))


def _bart(settings: dict[str, Any]) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {"d_model": 48, "max_position_embeddings": 128, "init_std": 0.2}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 2, f"{part}_attention_heads": 4, f"{part}_ffn_dim": 96}
    ids = {"decoder_start_token_id": 2, "forced_eos_token_id": None}
    return BartForConditionalGeneration(BartConfig(**{**sizes, **ids, **settings}))


def _bert(settings: dict[str, Any]) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
    }
    labels = dict(enumerate(CLASSES))
    return BertForSequenceClassification(BertConfig(**{**sizes, "id2label": labels, **settings}))


MODELS = {
    "llama": _llama,
    "gpt2": _gpt2,
    "opt": _opt,
    "falcon": _falcon,
    "bloom": _bloom,
    "mpt": _mpt,
    "mistral": _mistral,
    "gemma3": _gemma3,
    "mamba": _mamba,
    "t5": _t5,
    "bart": _bart,
    "bert": _bert,
}


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
