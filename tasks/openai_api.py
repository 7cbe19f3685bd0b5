"""The requests, responses and errors of OpenAI's API that are served: what is not, is refused by name."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from editors.decoding import Sampling

# As OpenAI's completions have it.
_COMPLETION_TOKENS = 16
_INT64 = 2**63


class ApiError(Exception):
    """A request that is refused, with its HTTP status and what OpenAI's error object holds."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        """The response, in OpenAI's form."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of a conversation; its content is text."""

    model_config = ConfigDict(extra="ignore", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[_Part], Field(min_length=1)]

    def plain(self) -> dict[str, str]:
        """The turn as a chat template takes it."""
        content = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class StreamOptions(BaseModel):
    """What a stream holds besides the answer."""

    model_config = ConfigDict(extra="ignore", strict=True)
    include_usage: bool = False


_Stop = Annotated[str, Field(min_length=1, max_length=200)]
_Zero = Annotated[float, Field(ge=0, le=0)]


class _Request(BaseModel):
    """What both endpoints take. Below are what changes nothing here, and what may only have its default."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-_INT64, lt=_INT64)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None

    n: Literal[1] | None = None
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        """What is null is not asked for."""
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if value is not None}
        return values

    @property
    def sticky(self) -> str:
        """Who asks, as the request says; "" where it does not."""
        return self.user or self.safety_identifier or ""

    @property
    def sampling(self) -> Sampling:
        """Greedy, unless a temperature is asked for."""
        top_p = 1.0 if self.top_p is None else self.top_p
        return Sampling(self.temperature or 0.0, top_p, self.seed)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(_Request):
    """A body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] | None = None

    @property
    def tokens(self) -> int | None:
        """The most tokens of the answer, if the request says."""
        return self.max_completion_tokens or self.max_tokens

    def conversation(self) -> tuple[dict[str, str], ...]:
        """All turns, as a chat template takes them."""
        return tuple(message.plain() for message in self.messages)


class CompletionRequest(_Request):
    """A body of `/v1/completions`, with one prompt."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None

    @property
    def tokens(self) -> int | None:
        """The most tokens of the answer; as many as OpenAI's where the request does not say."""
        return self.max_tokens or _COMPLETION_TOKENS

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


_Asking = TypeVar("_Asking", ChatRequest, CompletionRequest)


def read(kind: type[_Asking], body: bytes) -> _Asking:
    """A request from its body.

    Raises:
        ApiError: it is not JSON, or not a request that is served.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ApiError(400, f"{where} is not supported here; leave it out", param=where) from error
        said = f"{where}: {first['msg']}" if where else str(first["msg"])
        raise ApiError(400, said, param=where or None) from error


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Tokens of the prompt as the model reads it, and of the answer without the one that ends it."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def response(
    chat: bool, head: dict[str, Any], text: str, finish: str, counted: dict[str, int]
) -> dict[str, Any]:
    """A whole answer; `head` has id, created, model and system_fingerprint."""
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
    kind = "chat.completion" if chat else "text_completion"
    return {**head, "object": kind, "choices": [choice], "usage": counted}


def event(value: dict[str, Any] | str) -> str:
    """One server-sent event."""
    return f"data: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}\n\n"


def chunk(
    chat: bool, head: dict[str, Any], text: str | None, *, first: bool = False, finish: str | None = None
) -> dict[str, Any]:
    """A piece of a streamed answer; `text` is None in the last, which says how it ended."""
    delta = ({"role": "assistant"} if first else {}) | ({} if text is None else {"content": text})
    said: dict[str, Any] = {"delta": delta} if chat else {"text": text or ""}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
    return {**head, "object": "chat.completion.chunk" if chat else "text_completion", "choices": [choice]}
