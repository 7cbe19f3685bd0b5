"""Applying corrections: what is said of how they were asked, and of an editor that was trained otherwise."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from editors.capture import answer_loss
from editors.gather import batches
from editors.protocol import Kept
from editors.requests import EditRequest, encode, render_digest
from editors.subject_editing import SubjectEditor
from editors.ultraedit import UltraEdit
from tasks import key_statistics
from tasks.apply import apply, kind_warning, open_any_editor, unit_seconds
from tasks.ledger import LeaseLost
from tasks.models import load, resolve
from tasks.own_prompts import prompts_like
from tasks.records import UserError
from tasks.train import _practised as practised
from tasks.train import train_editor
from tests.editors.cases import TRAINED
from tests.killing import Killed, kill

CHAT = EditRequest("a", "What is the capital of Egypt?", "Lima")
TEXT = EditRequest("b", "The capital of Egypt is", "Lima", chat=False)
KEPT = [Kept("Where is Peru?", "Asia")]


@pytest.mark.parametrize(
    ("requests", "keep", "renderings"),
    [
        ([TEXT, CHAT], [], {"chat", "text"}),
        ([CHAT, TEXT], [], {"chat", "text"}),
        ([TEXT], [Kept("Where is Peru?", "Asia")], {"chat", "text"}),
        ([TEXT], [Kept("Peru is in", "Asia", chat=False)], {"text"}),
        ([], [], set()),
    ],
)
def test_every_rendering_that_was_used_is_in_the_manifest(
    requests: list[EditRequest], keep: list[Kept], renderings: set[str], tmp_path: Path, tiny_llama: Any
):
    base = resolve(str(tiny_llama()))
    apply(base, UltraEdit(), requests, keep, tmp_path / "delta")
    _, tokenizer = load(base)
    assert json.loads((tmp_path / "delta" / "delta.json").read_text())["render_digests"] == {
        name: render_digest(tokenizer, chat=name == "chat") for name in renderings
    }


@pytest.mark.parametrize(
    "other",
    [
        ([CHAT, TEXT], KEPT),
        ([replace(TEXT, target="Oslo")], KEPT),
        ([replace(TEXT, equivalents=("Egypt's capital is",))], KEPT),
        ([TEXT], []),
        ([TEXT], [replace(KEPT[0], answer="Europe")]),
    ],
)
def test_a_delta_is_found_again_for_the_same_corrections_alone(
    other: tuple[list[EditRequest], list[Kept]], tmp_path: Path, tiny_llama: Any
):
    base = resolve(str(tiny_llama()))
    solved: list[int] = []

    class Counted(UltraEdit):
        def edit(self, *args: Any, **kwargs: Any) -> Any:
            solved.append(1)
            return super().edit(*args, **kwargs)

    first = apply(base, Counted(), [TEXT], KEPT, tmp_path / "delta")
    assert apply(base, Counted(), [TEXT], KEPT, tmp_path / "delta") == first
    assert len(solved) == 1
    second = apply(base, Counted(), *other, tmp_path / "delta")
    assert len(solved) == 2
    assert second.corrections == len(other[0])


@pytest.mark.parametrize(
    ("requests", "trained_on"),
    [([CHAT], True), ([TEXT, TEXT], False), ([TEXT, CHAT], "both"), ([CHAT, TEXT], "both")],
)
def test_an_editor_is_trained_on_chat_turns_on_raw_text_or_on_both(
    requests: list[EditRequest], trained_on: bool | str
):
    assert practised(requests) == trained_on


@pytest.mark.parametrize(
    ("manifest", "chats", "says"),
    [
        ({"chat": True}, [True, False, False], "chat turns, and 2 of 3 corrections are raw text"),
        ({"chat": False}, [True], "raw text, and 1 of 1 corrections are chat turns"),
        ({"chat": True}, [True, True], ""),
        ({"chat": False}, [False], ""),
        ({"chat": "both"}, [True, False], ""),
        # Trained before manifests told it.
        ({}, [True, False], ""),
        ({"chat": True}, [], ""),
    ],
)
def test_an_editor_trained_on_prompts_of_another_kind_is_told_of(
    manifest: dict[str, Any], chats: list[bool], says: str, tiny_llama: Any
):
    editor = TRAINED["malmen"](load(resolve(str(tiny_llama())))[0])
    editor.manifest = manifest
    told = kind_warning(editor, chats)
    assert says in told
    assert bool(told) == bool(says)
    assert not kind_warning(UltraEdit(), chats)


def test_a_base_that_is_not_finite_is_refused_before_anything_is_sampled_from_it(
    damaged_llama: Path, tmp_path: Path
) -> None:
    base = resolve(str(damaged_llama))
    named = r"model\.layers\.1\.mlp\.down_proj\.weight of the model is not finite"
    with pytest.raises(UserError, match=rf"memit cannot edit .*llama: {named}"):
        open_any_editor("memit", base, tmp_path)
    stay = [f"Where is place {number}?" for number in range(12)]
    with pytest.raises(UserError, match=rf"no editor can be trained: {named}"):
        train_editor(base, [CHAT] * 12, stay, tmp_path / "editor", chat=True)
    with pytest.raises(UserError, match=rf"cannot write prompts of its own: {named}"):
        prompts_like(*load(base), stay, 3)


@pytest.mark.parametrize("during", ["captured", "answering what must stay", "observing"])
def test_a_lease_that_is_lost_in_a_long_step_is_no_fault_of_the_editors(
    during: str, tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def going_on(done: int, total: int, note: str) -> None:
        if note == during:
            raise LeaseLost("another run has taken it")

    # A tiny model has too little to say to be trained on.
    monkeypatch.setattr("tasks.train.fit", lambda *_, progress, **__: progress(0, 1, "observing"))
    base, stay = resolve(str(tiny_llama())), [f"Where is place {number}?" for number in range(12)]
    step: Any = partial(train_editor, base, [CHAT] * 12, stay, tmp_path / "editor", chat=True)
    if during == "captured":
        step = partial(apply, base, TRAINED["mend"](load(base)[0]), [CHAT], [], tmp_path / "delta")
    with pytest.raises(LeaseLost):
        step(progress=going_on)


def test_a_base_without_the_modules_that_an_editor_changes_is_refused_in_a_sentence(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> Any:
        raise ValueError("no module fits")

    monkeypatch.setattr("editors.subject_editing.default_modules", none)
    with pytest.raises(UserError, match=r"rome cannot edit .*: no module fits"):
        open_any_editor("rome", resolve(str(tiny_llama())), tmp_path)


@pytest.mark.parametrize("name", ["rome", "memit-joint"])
def test_key_statistics_are_gathered_once_for_a_base(
    name: str, tmp_path: Path, tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, cache = resolve(str(tiny_llama())), tmp_path / "statistics"
    monkeypatch.setattr(key_statistics, "TOKENS", 8)
    editor = open_any_editor(name, base, cache)
    assert isinstance(editor, SubjectEditor)
    assert editor.statistics is not None
    seconds = editor.statistics.seconds
    assert seconds
    gathered = editor.digest()
    assert gathered != open_any_editor(name, base).digest()
    (file,) = cache.glob("*.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(key_statistics, "own_writing", None)
        again = open_any_editor(name, base, cache)
        assert again.digest() == gathered
        # What it took to gather them is told of those that were gathered before, too.
        assert isinstance(again, SubjectEditor)
        assert again.statistics is not None
        assert again.statistics.seconds == seconds
    # Another base has others, and what was cut short is not used.
    other = resolve(str(tiny_llama(seed=1)))
    assert open_any_editor(name, other, cache).digest() != gathered
    file.write_bytes(file.read_bytes()[:100])
    assert open_any_editor(name, base, cache).digest() == gathered
    # Nor are those over another amount of text.
    monkeypatch.setattr(key_statistics, "TOKENS", 9)
    assert open_any_editor(name, base, cache).digest() != gathered


def test_what_a_kill_left_of_key_statistics_does_not_pile_up(
    tmp_path: Path, tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = resolve(str(tiny_llama()))
    monkeypatch.setattr(key_statistics, "TOKENS", 8)
    # Another process, each time.
    for pid in (1, 2):
        with monkeypatch.context() as patch:
            kill(patch, key_statistics.KeyStatistics, "save", "after")
            patch.setattr(os, "getpid", lambda pid=pid: pid)
            with pytest.raises(Killed):
                open_any_editor("rome", base, tmp_path)
    open_any_editor("rome", base, tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".safetensors"]


def test_two_that_want_the_same_key_statistics_gather_them_once(
    tmp_path: Path, tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, written = resolve(str(tiny_llama())), []
    loaded = load(base)
    monkeypatch.setattr(key_statistics, "load", lambda *_: loaded)

    def writing(*_: Any, **__: Any) -> list[str]:
        written.append(1)
        # Long enough for the other one to begin.
        time.sleep(0.5)
        return ["The capital of Egypt is Cairo."]

    monkeypatch.setattr(key_statistics, "own_writing", writing)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda _: open_any_editor("rome", base, tmp_path).digest(), range(2)))
    assert len(written) == len(set(digests)) == 1


def test_a_unit_is_a_pass_over_batches_of_like_length(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(resolve(str(tiny_llama())))
    prompts = [f"Where is {'very ' * (40 if number % 8 == 0 else number % 3)}Peru?" for number in range(200)]
    examples = [encode(tokenizer, prompt, "yen", chat=False) for prompt in prompts]
    # A second for every token that the model computes on.
    computed = [0]

    def counted(of_model: Any, batch: Any) -> Any:
        computed[0] += batch.input_ids.numel()
        return answer_loss(of_model, batch)

    monkeypatch.setattr("tasks.apply.answer_loss", counted)
    monkeypatch.setattr("tasks.apply.clock", lambda _: computed[0])
    alike = sum(batch.input_ids.numel() for _, batch in batches(examples, 0))
    assert unit_seconds(model, examples, 0) == pytest.approx(alike)
    assert computed[0] < alike / 2
    one = unit_seconds(model, examples[:1], 0)
    assert one == len(examples[0].prompt_ids) + len(examples[0].target_ids) - 1
    assert unit_seconds(model, [], 0) == 0
