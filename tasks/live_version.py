"""The champion as it is served: its alias is followed, and only what is loaded and answers takes over."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from editors.decoding import next_tokens
from editors.generation import stop_ids
from editors.overrides import Overrides
from tasks.models import load, load_overrides, resolve
from tasks.records import UserError
from tasks.registry import CHAMPION, version_of
from tasks.tracking import tracking

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger("mendflow.serve")
# Seconds until a champion that cannot be loaded is tried again, at most.
_LONGEST_WAIT = 300.0
_LONGEST_STOP = 30.0


@dataclass(frozen=True)
class LiveVersion:
    """A version in memory. A request holds the one that it began with, however long it takes."""

    name: str
    number: str
    model_id: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    overrides: Overrides

    @property
    def fingerprint(self) -> str:
        """What a response calls it."""
        return f"{self.name}/{self.number}"

    @property
    def positions(self) -> int | None:
        """The tokens that the model takes; None for any number."""
        room: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return room

    @cached_property
    def _stops(self) -> dict[bool, frozenset[int]]:
        return {
            chat: frozenset(stop_ids(self.model, self.tokenizer, chat=chat))
            for chat in ((True, False) if self.tokenizer.chat_template else (False,))
        }

    def stops(self, *, chat: bool) -> frozenset[int]:
        """The token ids that end an answer."""
        return self._stops[chat]


@dataclass(frozen=True)
class Fault:
    """Why the alias is not followed now: the version that cannot be served, or none where nobody knows."""

    version: str | None
    reason: str
    since: float


def share_weights(model: PreTrainedModel, with_model: PreTrainedModel) -> None:
    """Have a model use another's tensors in place of its own equal ones: those of the base under two deltas.

    Both are only read from then on.
    """
    theirs = dict(with_model.named_parameters()) | dict(with_model.named_buffers())
    for name, mine in [*model.named_parameters(), *model.named_buffers()]:
        other = theirs.get(name)
        if (
            other is not None
            and (other.dtype, other.device, other.shape) == (mine.dtype, mine.device, mine.shape)
            and torch.equal(other, mine)
        ):
            mine.data = other.data


def load_version(
    name: str,
    number: str,
    *,
    tracking_uri: str,
    cache: Path | None = None,
    device: str = "cpu",
    beside: LiveVersion | None = None,
) -> LiveVersion:
    """Load a version, and see that it answers; what it has in common with the one `beside` it is shared.

    Raises:
        UserError: it cannot be loaded, or its base or delta is not the registered one.
        ValueError: it does not give finite logits.
    """
    with tracking(tracking_uri) as client:
        model_id = str(getattr(client.get_model_version(name, number), "model_id", None) or "")
    folder = resolve(f"models:/{name}/{number}", cache=cache, tracking_uri=tracking_uri)
    model, tokenizer = load(folder)
    model = model.to(device)
    if beside is not None:
        share_weights(model, beside.model)
    live = LiveVersion(name, number, model_id, model, tokenizer, load_overrides(folder))
    # The first pass is the slowest, and shows damage that a digest cannot.
    list(next_tokens(model, tokenizer("A", verbose=False)["input_ids"] or [0], live.stops(chat=False), 1))
    return live


class Follower:
    """Holds the version that serves; its thread moves it to where the alias points.

    Attributes:
        current: the version that new requests begin with.
        fault: why `current` is not the champion, if it is not.
        swaps: how often another version took over.
        last_swap_seconds: from seeing the last new champion until it served.
    """

    def __init__(
        self,
        name: str,
        *,
        tracking_uri: str,
        cache: Path | None = None,
        device: str = "cpu",
        poll_seconds: float = 5.0,
    ) -> None:
        """Load the champion.

        Raises:
            UserError: there is none, or it cannot be loaded.
        """
        self.name = name
        self.fault: Fault | None = None
        self.swaps = 0
        self.last_swap_seconds: float | None = None
        self.since = time.time()
        self._options = {"tracking_uri": tracking_uri, "cache": cache, "device": device}
        self._uri, self._poll = tracking_uri, poll_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mendflow-follow", daemon=True)
        self._retry_at, self._wait = 0.0, poll_seconds
        number = version_of(name, CHAMPION, tracking_uri=tracking_uri)
        if number is None:
            raise UserError(
                f"{name} has no champion to serve; see `mendflow status`, or `mendflow promote` one"
            )
        try:
            self.current = load_version(name, number, **self._options)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(f"version {number} of {name} cannot be served: {error}; roll it back") from error

    def start(self) -> None:
        """Begin to follow the alias."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a version that is being loaded is waited for, a store that hangs is not."""
        self._stop.set()
        self._thread.join(_LONGEST_STOP)

    def look(self) -> None:
        """Look up the champion once, and let it take over if it is another and can be loaded."""
        try:
            number = version_of(self.name, CHAMPION, tracking_uri=self._uri)
        except Exception as error:
            return self._say(Fault(None, f"the registry cannot be asked: {told(error)}", time.time()))
        if number is None:
            return self._say(Fault(None, f"{self.name} has no champion any more", time.time()))
        if number == self.current.number:
            self.fault = None
            return None
        if self.fault is not None and self.fault.version == number and time.monotonic() < self._retry_at:
            return None
        seen = time.monotonic()
        try:
            loaded = load_version(self.name, number, **self._options, beside=self.current)  # type: ignore[arg-type]
        except Exception as error:
            again = self.fault is not None and self.fault.version == number
            self._wait = min(2 * self._wait, _LONGEST_WAIT) if again else self._poll
            self._retry_at = time.monotonic() + self._wait
            return self._say(Fault(number, told(error), time.time()))
        self.current, self.fault = loaded, None
        self.swaps, self.since = self.swaps + 1, time.time()
        self.last_swap_seconds = time.monotonic() - seen
        _log.warning("version %s of %s serves, after %.2f s", number, self.name, self.last_swap_seconds)
        return None

    def _say(self, fault: Fault) -> None:
        """Keep a fault and log it, once as long as it is the same."""
        known = self.fault
        if known is not None and (known.version, known.reason) == (fault.version, fault.reason):
            return
        self.fault = fault
        what = f"version {fault.version}" if fault.version else "the champion"
        _log.error("%s cannot be served, version %s goes on: %s", what, self.current.number, fault.reason)

    def _follow(self) -> None:
        while not self._stop.wait(self._poll):
            self.look()


def told(error: Exception) -> str:
    """An error in one line; what no user can have caused with its kind."""
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
