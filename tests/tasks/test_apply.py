"""Applying corrections: what the manifest of the written delta says of how they were asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from editors.protocol import Kept
from editors.requests import EditRequest, render_digest
from editors.ultraedit import UltraEdit
from tasks.apply import apply
from tasks.models import load, resolve

CHAT = EditRequest("a", "What is the capital of Egypt?", "Lima")
TEXT = EditRequest("b", "The capital of Egypt is", "Lima", chat=False)


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
