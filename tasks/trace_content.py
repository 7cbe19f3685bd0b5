"""What was asked and what came back, read out of the inputs and outputs that tracing tools record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROMPT_KEYS = ("prompt", "question", "query", "input", "inputs", "model_input", "text")
OUTPUT_KEYS = (
    "output",
    "outputs",
    "response",
    "answer",
    "content",
    "text",
    "generated_text",
    "predictions",
    "result",
)


@dataclass(frozen=True)
class Exchange:
    """One prompt and its output; `chat` is None where the trace does not show whether it was a chat turn."""

    prompt: str
    output: str
    chat: bool | None = None


class UnreadableContent(ValueError):  # noqa: N818
    """The inputs hold no single prompt; the message completes a sentence that begins with the trace."""


def exchanges(inputs: Any, outputs: Any) -> list[Exchange]:
    """The prompts of one call, each with its output; a missing output is empty.

    Raises:
        UnreadableContent: no prompt is found, or several turns of one, or outputs and prompts do not pair.
    """
    prompts = _prompts(inputs)
    answers = texts(outputs)
    if not answers:
        answers = [""] * len(prompts)
    if len(answers) != len(prompts):
        raise UnreadableContent(
            f"has {len(prompts)} prompts but {len(answers)} outputs; record one call a trace"
        )
    return [Exchange(prompt, answer, chat) for (prompt, chat), answer in zip(prompts, answers, strict=True)]


def texts(value: Any) -> list[str]:
    """The texts of an output: a string, a list of them, a message, or a mapping that holds one of these."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int | float):
        return [str(value)]
    if isinstance(value, Mapping):
        if isinstance(value.get("choices"), Sequence) and value["choices"]:
            # An OpenAI answer with several choices shows its user the first.
            choice = value["choices"][0]
            return texts(choice.get("message", choice)) if isinstance(choice, Mapping) else texts(choice)
        if "message" in value:
            return texts(value["message"])
        return next((texts(value[key]) for key in OUTPUT_KEYS if value.get(key) is not None), [])
    if isinstance(value, Sequence):
        if _is_conversation(value):
            answers = [message for message in value if message["role"] == "assistant"]
            return [_content(answers[-1])] if answers else []
        return [text for item in value for text in texts(item)]
    return []


def _prompts(inputs: Any) -> list[tuple[str, bool | None]]:
    if isinstance(inputs, str):
        return [(inputs, None)]
    if isinstance(inputs, Mapping):
        if _is_conversation(inputs.get("messages")):
            return [_single_turn(inputs["messages"])]
        for key in PROMPT_KEYS:
            if inputs.get(key) is not None:
                return _prompts(inputs[key])
    elif isinstance(inputs, Sequence) and not isinstance(inputs, bytes):
        if _is_conversation(inputs):
            return [_single_turn(inputs)]
        prompts = [prompt for item in inputs for prompt in _prompts(item)]
        if prompts:
            return prompts
    raise UnreadableContent(
        f'has {_shown(inputs)} for inputs; record them as {{"prompt": ...}} or {{"messages": [...]}}'
    )


def _single_turn(messages: Sequence[Mapping[str, Any]]) -> tuple[str, bool]:
    turns = [message for message in messages if message["role"] == "user"]
    if len(turns) != 1 or any(message["role"] == "assistant" for message in messages):
        raise UnreadableContent(
            f"is a conversation with {len(turns)} user turns; only first turns can be corrected, "
            "so report its last question in a form that stands alone"
        )
    return _content(turns[0]), True


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and len(value) > 0
        and all(isinstance(item, Mapping) and isinstance(item.get("role"), str) for item in value)
    )


def _content(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content may come in parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(texts(content))


def _shown(inputs: Any) -> str:
    """What kind of thing it is: what it says goes into logs and reports."""
    if isinstance(inputs, Mapping):
        return f"the fields {', '.join(map(str, inputs))}"[:60] if inputs else "no field"
    return "None" if inputs is None else f"a {type(inputs).__name__}"
