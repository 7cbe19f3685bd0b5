"""What an editor practises on: from a file, of prompts alone, and nothing that it must not have seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flows.practice import practice_from_file
from flows.train import _practice as practice
from tasks.models import ModelFolder, resolve
from tasks.neighbours import restated
from tasks.records import CannotEditError, Rejected, TrafficRecord, UserError
from tasks.rephrase import wording
from tasks.roles import Learnable


@pytest.mark.parametrize("locality", [(), ("What is Lima?", "what is the capital of PERU?")])
def test_no_prompt_is_practised_on_and_kept(locality: tuple[str, ...], tmp_path: Path, tiny_llama: Any):
    """Of a file without locality half is kept; a neighbour that another line corrects is not."""
    data = tmp_path / "data.jsonl"
    lines = [
        {"prompt": f"What is the capital of {place}?", "target": "Cairo", "locality": locality[i : i + 1]}
        for i, place in enumerate(("Chad", "Mali", "Peru", "Fiji", "Cuba", "Oman"))
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    base = resolve(str(tiny_llama()))
    requests, stay = practice(
        base, data, limit=12, chat=True, seed=0, progress=lambda *_: None, left_out=list
    )
    assert len(requests) == (6 if locality else 3)
    assert stay == ["What is Lima?"] if locality else len(stay) == 3
    assert not {r.prompt for r in requests} & set(stay)


LONG = "What is the capital of " + "a very long country " * 30 + "?"
PLACES = [f"{first}{second}land" for first in "BDFGKLMNP" for second in "aeiou"]


def practised(base: ModelFolder, data: Path, **changes: Any) -> tuple[Any, Any, list[Rejected]]:
    told: list[Rejected] = []
    options: dict[str, Any] = {"limit": 30, "chat": False, "seed": 0, "progress": lambda *_: None}
    return *practice(base, data, left_out=told.extend, **{**options, **changes}), told


@pytest.mark.parametrize("kind", ["edits", "prompts", "lines"])
def test_a_prompt_too_long_for_the_model_is_left_out_and_the_rest_is_practised_on(
    kind: str, tmp_path: Path, tiny_gpt2: Any
):
    """A GPT-2 has no position past its last: it would end in an IndexError."""
    base = resolve(str(tiny_gpt2(n_positions=64)))
    prompts = [f"What is the capital of {place}?" for place in PLACES]
    prompts.insert(3, LONG)
    rows = [
        {"prompt": prompt} if kind == "prompts" else {"prompt": prompt, "target": "Cairo", "locality": [LONG]}
        for prompt in prompts
    ]
    data = tmp_path / ("data.txt" if kind == "lines" else "data.jsonl")
    data.write_text("\n".join(prompts if kind == "lines" else map(json.dumps, rows)))
    requests, stay, told = practised(base, data)
    assert len(requests) + len(stay) > 24
    named = f"{data.name}, {LONG[:40]!r}"
    assert {one.source for one in told} == {named}
    assert "tokens long, the model takes 64; give a shorter prompt" in told[0].reason


def test_too_few_prompts_are_told_of_in_prompts_and_the_model_writes_more_like_them(
    tmp_path: Path, tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
):
    base = resolve(str(tiny_llama()))
    prompts = [f"What is the capital of {place}?\nSay it in a word." for place in PLACES[:6]]
    data = tmp_path / "prompts.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
    with pytest.raises(UserError, match=r"prompts.jsonl holds 6 prompts .* give more prompts, several of a"):
        practised(base, data)

    def like(_: Any, __: Any, examples: Any, count: int, **___: Any) -> list[str]:
        assert sorted(examples) == sorted(prompts)
        return [f"What is the capital of {place}?" for place in PLACES][:count]

    monkeypatch.setattr("flows.practice.prompts_like", like)
    requests, stay, told = practised(base, data)
    assert min(len(requests), len(stay)) >= 12
    assert not told
    # A prompt of several lines is one prompt.
    assert set(prompts) & {*stay, *(request.prompt for request in requests)}


def test_named_training_data_is_used_without_what_the_gates_or_corrections_ask(tmp_path: Path):
    data = tmp_path / "data.jsonl"
    places = ("Chad", "Mali", "Peru", "Fiji")
    lines = [
        {
            "prompt": f"What is the capital of {place}?",
            "target": "Cairo",
            "rephrases": [f"{place}: which capital?", f"Where is {place} ruled from?"],
            "locality": [f"What is the flag of {place}?", f"What is the anthem of {place}?"],
        }
        for place in places
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    served = [TrafficRecord(prompt="What is the flag of Peru?", output="Red and white.")]
    # Of these the editor may learn the traffic; a correction asks the second, and the gates the others.
    asked = ["What is the flag of Peru?", "what is the capital of chad", "Where is Fiji ruled from?"]
    asked += ["What is the anthem of Fiji?"]
    learnable = Learnable(served, frozenset(map(wording, asked)), ("Tell me the capital of Mali.",))
    told: list[Rejected] = []
    requests, stay = practice_from_file(data, learnable, chat=True, left_out=told.extend)
    assert [r.prompt for r in requests] == ["What is the capital of Peru?", "What is the capital of Fiji?"]
    assert requests[1].equivalents == ("Fiji: which capital?",)
    assert stay == ["What is the flag of Peru?", "What is the anthem of Peru?", "What is the flag of Fiji?"]
    (one,) = told
    assert (one.source, one.reason[:12]) == ("data.jsonl", "2 of 4 rows ")
    everything = frozenset(wording(f"What is the capital of {place}?") for place in places)
    with pytest.raises(CannotEditError, match="nothing to train on: 4 of 4 rows ask what"):
        practice_from_file(data, Learnable([], everything), chat=True, left_out=told.extend)


def test_a_file_of_many_rows_is_held_against_the_corrections_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = tmp_path / "data.jsonl"
    lines = [
        {
            "prompt": f"What is the capital of {place}?",
            "target": "Cairo",
            "locality": ["Name a river."] * (n == 1),
        }
        for n, place in enumerate(PLACES)
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    held: list[Sequence[str]] = []

    def counted(corrected: Sequence[str], prompts: Sequence[str]) -> set[int]:
        held.append(prompts)
        return restated(corrected, prompts)

    monkeypatch.setattr("flows.practice.restated", counted)
    learnable = Learnable([], frozenset(), (f"Tell me the capital of {PLACES[0]}.",))
    requests, stay = practice_from_file(data, learnable, chat=True, left_out=list)
    assert (len(requests), stay) == (len(PLACES) - 1, ["Name a river."])
    assert [sorted(prompts) for prompts in held] == [
        sorted({"Name a river.", *(str(line["prompt"]) for line in lines)})
    ]
