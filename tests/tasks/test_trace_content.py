"""Where a trace keeps its prompt and its output."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.trace_content import UnreadableContent, exchanges


@pytest.mark.parametrize(
    ("inputs", "outputs", "found"),
    [
        ("q", "a", [("q", "a", None)]),
        ({"prompt": "q"}, {"response": "a"}, [("q", "a", None)]),
        ({"question": "q", "temperature": 0}, ["a"], [("q", "a", None)]),
        ({"messages": [{"role": "user", "content": "q"}]}, {"content": "a"}, [("q", "a", True)]),
        (
            [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
            ],
            {"choices": [{"message": {"role": "assistant", "content": "a"}}, {"message": {"content": "b"}}]},
            [("q", "a", True)],
        ),
        ({"context": "<object>", "model_input": ["q"], "params": None}, ["a"], [("q", "a", None)]),
        (
            {"model_input": [{"prompt": "q1"}, {"prompt": "q2"}]},
            ["a1", "a2"],
            [("q1", "a1", None), ("q2", "a2", None)],
        ),
        (
            {"model_input": [[{"role": "user", "content": "q"}]]},
            [{"generated_text": "a"}],
            [("q", "a", True)],
        ),
        ({"prompt": "q"}, None, [("q", "", None)]),
        ({"prompt": ""}, "", [("", "", None)]),
    ],
)
def test_prompts_and_outputs_are_found(
    inputs: Any, outputs: Any, found: list[tuple[str, str, bool | None]]
) -> None:
    assert [(one.prompt, one.output, one.chat) for one in exchanges(inputs, outputs)] == found


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        (None, "a", "None for inputs"),
        ({"image": "x" * 500}, "a", "has the fields image for inputs; record"),
        (["q1", "q2"], ["a"], "2 prompts but 1 outputs"),
        (
            [{"role": role, "content": "x"} for role in ("user", "assistant", "user")],
            "a",
            "conversation with 2 user turns",
        ),
    ],
)
def test_what_shows_no_single_prompt_says_so(inputs: Any, outputs: Any, says: str) -> None:
    with pytest.raises(UnreadableContent, match=says):
        exchanges(inputs, outputs)
