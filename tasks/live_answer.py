"""Answering one request, wholly by the version that it began with."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from editors.decoding import Sampling, next_tokens
from tasks.live_version import LiveVersion
from tasks.openai_api import ApiError, ChatRequest, CompletionRequest
from tasks.tracing import Request, new_trace_id


class Turns:
    """Lets one thread compute at a time, in the order in which they ask.

    Answers take turns by the token: a long one holds no other up, nor does a client that reads slowly.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within, no other thread has its turn."""
        with self._lock:
            mine = threading.Event()
            if self._busy:
                self._waiting.append(mine)
            else:
                self._busy = True
                mine.set()
        mine.wait()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._busy = False


class Places:
    """Requests under way: at most so many, and one can wait until there are none."""

    def __init__(self, most: int) -> None:
        self._left = self._most = most
        self._changed = threading.Condition()

    def take(self) -> bool:
        """Take a place, if there is one; whether there was."""
        with self._changed:
            taken = self._left > 0
            self._left -= taken
            return taken

    def give_back(self) -> None:
        """Give back a place that was taken."""
        with self._changed:
            self._left += 1
            self._changed.notify_all()

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no request is under way, no longer than this; whether none is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._left == self._most, seconds)


@dataclass(frozen=True)
class Asked:
    """A request, whichever endpoint it came by.

    Attributes:
        chat: it is a conversation, of `messages`; else raw text, `prompt`.
        prompt: the text, or the only user turn of a conversation in which nothing was answered yet, for which
            there may be overrides; "" for any other conversation.
        tokens: the most that are answered; None for as many as the server allows.
        stops: texts that end the answer.
        sampling: how tokens are chosen.
    """

    chat: bool
    prompt: str
    messages: tuple[dict[str, str], ...]
    tokens: int | None
    stops: tuple[str, ...]
    sampling: Sampling

    @classmethod
    def of(cls, request: ChatRequest | CompletionRequest) -> Asked:
        """What a request asks."""
        if isinstance(request, CompletionRequest):
            return cls(False, request.text, (), request.tokens, request.stops, request.sampling)
        turns = request.conversation()
        users = [turn["content"] for turn in turns if turn["role"] == "user"]
        alone = len(users) == 1 and all(turn["role"] != "assistant" for turn in turns)
        prompt = users[0] if alone else ""
        return cls(True, prompt, turns, request.tokens, request.stops, request.sampling)


class Answer:
    """An answer under way.

    Attributes:
        version: what answers.
        text: what was answered so far.
        finish: `stop` or `length` once it ended; until then, and where it was cancelled, "".
        prompt_tokens: of the prompt as the model reads it.
        completion_tokens: made so far, without the one that ends an answer.
        override: the correction whose override answered, or "".
    """

    def __init__(
        self,
        version: LiveVersion,
        asked: Asked,
        limit: int,
        *,
        trace_id: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Render and count the prompt; `tags` are those of its trace.

        Raises:
            ApiError: the model cannot be asked this, or more tokens are wanted than `limit`.
        """
        self.version, self.asked = version, asked
        self.trace_id = trace_id or new_trace_id()
        self._limit, self._tags = limit, dict(tags or {})
        self.text, self.finish, self.override, self.completion_tokens = "", "", "", 0
        self._started = time.time_ns()
        self._cancelled = threading.Event()
        if asked.tokens is not None and asked.tokens > limit:
            raise ApiError(
                400, f"at most {limit} tokens are answered here, not {asked.tokens}", param="max_tokens"
            )
        self._ids = self._prompt_ids()
        self.prompt_tokens = len(self._ids)
        self._steps = asked.tokens or limit
        if version.positions is not None:
            if self.prompt_tokens > version.positions:
                raise ApiError(
                    400,
                    f"the prompt is {self.prompt_tokens} tokens long, the model takes {version.positions}",
                    code="context_length_exceeded",
                    param="messages" if asked.chat else "prompt",
                )
            self._steps = min(self._steps, version.positions - self.prompt_tokens + 1)

    def instead_by(self, version: LiveVersion) -> Answer:
        """The same request, to be answered by another version; whoever cancels this one cancels it too.

        Raises:
            ApiError: that model cannot be asked this.
        """
        other = Answer(version, self.asked, self._limit, trace_id=self.trace_id, tags=self._tags)
        other._cancelled = self._cancelled
        return other

    def pieces(self, turn: Callable[[], AbstractContextManager[None]]) -> Iterator[str]:
        """The answer as it is made, piece by piece, each token in a turn; `text` is all of them together."""
        found = self._override()
        if found is not None:
            self.text, self.finish = found, "stop"
            self.completion_tokens = len(self.version.tokenizer(found, add_special_tokens=False)["input_ids"])
            yield found
            return
        stops = self.version.stops(chat=self.asked.chat)
        tokens = next_tokens(self.version.model, self._ids, stops, self._steps, self.asked.sampling)
        ids: list[int] = []
        while not self.finish and not self._cancelled.is_set():
            with turn():
                token = next(tokens, None)
                if token is not None:
                    ids.append(token)
                    self.completion_tokens += 1
                whole = str(self.version.tokenizer.decode(ids, skip_special_tokens=True))
            ended = token is None
            sure, stopped = _certain(whole, self.asked.stops, strip=self.asked.chat, ended=ended)
            if ended or stopped:
                full = len(ids) >= self._steps and not stopped
                self.finish = "length" if full else "stop"
            new, self.text = sure[len(self.text) :], sure
            if new:
                yield new

    def cancel(self) -> None:
        """End it after the token under way: nobody reads on."""
        self._cancelled.set()

    def traced(self) -> Request:
        """What its trace shows."""
        sampling = self.asked.sampling
        return Request(
            self.trace_id,
            self.asked.prompt,
            self.text.strip(),
            self._started,
            time.time_ns(),
            self.override,
            messages=self.asked.messages,
            attributes={
                "chat": self.asked.chat,
                "max_new_tokens": self._steps,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "finish_reason": self.finish or "cancelled",
            },
            tags=self._tags,
        )

    def _override(self) -> str | None:
        if not self.asked.prompt.strip():
            return None
        found = self.version.overrides.lookup(self.asked.prompt, chat=self.asked.chat)
        if found is None:
            return None
        self.override = found.correction_id
        # Raw text goes on where the prompt ended.
        apart = self.asked.chat or self.asked.prompt[-1:].isspace() or found.answer[:1].isspace()
        return found.answer if apart else f" {found.answer}"

    def _prompt_ids(self) -> list[int]:
        tokenizer, text = self.version.tokenizer, self.asked.prompt
        if self.asked.chat:
            if not tokenizer.chat_template:
                raise ApiError(400, f"{self.version.name} has no chat template; ask /v1/completions")
            try:
                messages = list(self.asked.messages)
                text = str(
                    tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                )
            except Exception as error:
                # A template refuses an order of turns in words of its own.
                told = " ".join(str(error).split())[:200]
                raise ApiError(
                    400, f"the model's chat template refuses these turns: {told}", param="messages"
                ) from error
        ids: list[int] = tokenizer(text, add_special_tokens=not self.asked.chat, verbose=False)["input_ids"]
        if not ids:
            raise ApiError(
                400, "the prompt has no tokens; give the model something to go on with", param="prompt"
            )
        return ids


def _certain(text: str, stops: tuple[str, ...], *, strip: bool, ended: bool) -> tuple[str, bool]:
    """What of a text nothing that follows can change, and whether one of `stops` ends it."""
    places = [place for place in map(text.find, stops) if place >= 0]
    if places:
        text = text[: min(places)]
    if not places and not ended:
        # Half a character, or what may be the beginning of a stop.
        text = text.rstrip("\ufffd")
        held = (size for stop in stops for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size]))
        text = text[: len(text) - max(held, default=0)]
    return (text.strip() if strip else text), bool(places)
