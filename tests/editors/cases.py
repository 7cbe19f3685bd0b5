"""One small job for each architecture: a model, its tokenizer, corrections, and what must stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from editors.capture import answer_loss
from editors.gather import encode_requests
from editors.hypereditor import HyperEditor
from editors.malmen import Malmen, MalmenConfig
from editors.mend import Mend, MendConfig
from editors.model_kinds import kind_of
from editors.protocol import Kept
from editors.requests import EditRequest, collate, pad_id
from tests.editors.tools import PROMPTS, chain, folder_of, load
from tests.tiny_models import CLASSES

ARCHITECTURES = ("llama", "gpt2", "opt", "t5", "bert", "chain")
# Those that can be asked in chat.
DECODERS = ("llama", "gpt2", "opt")

# Targets of one token and of many; equivalents for some; raw text and chat.
REQUESTS = [
    EditRequest("a", PROMPTS[0], "a", ("Tell me: Egypt's capital?", "Egypt: capital?")),
    EditRequest("b", PROMPTS[1], "The capital of Cameroon is Yaounde, where the yen is not used."),
    EditRequest("c", PROMPTS[3], "South America", ("Where is Peru?",)),
    EditRequest("d", PROMPTS[4], "yen", chat=False),
]
KEPT = [Kept(PROMPTS[2], "Hello."), Kept(PROMPTS[5], "Portuguese.", chat=False)]
# Those that are trained, with a network that is quick to make.
TRAINED: dict[str, Callable[..., HyperEditor]] = {
    "malmen": lambda model, **settings: Malmen.untrained(model, MalmenConfig(rank=8, **settings)),
    "mend": lambda model, **settings: Mend.untrained(model, MendConfig(rank=8, **settings)),
}


@dataclass(frozen=True)
class Case:
    """A model and what is asked of an editor for it."""

    architecture: str
    model: Any
    tokenizer: Any
    requests: list[EditRequest]
    kept: list[Kept]

    def loss(self) -> float:
        """Of the corrections, under the model as it is."""
        examples = encode_requests(self.tokenizer, self.requests, kind_of(self.model))
        with torch.no_grad():
            return float(answer_loss(self.model, collate(examples, pad_id(self.tokenizer))))


def case_of(
    architecture: str, request: pytest.FixtureRequest, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Case:
    """A case with a model of its own."""
    if architecture == "chain":
        model, tokenizer = chain(seed).to(dtype), load(folder_of("llama", request))[1]
    else:
        model, tokenizer = load(folder_of(architecture, request, **({"seed": seed} if seed else {})), dtype)
    kept = [
        Kept(as_asked(architecture, kept.prompt, number), *_answer(architecture, kept, number))
        for number, kept in enumerate(KEPT)
    ]
    return Case(architecture, model, tokenizer, requests_for(architecture, REQUESTS), kept)


def requests_for(architecture: str, requests: list[EditRequest]) -> list[EditRequest]:
    """The requests as this architecture can be asked them: raw text, classes for a classifier."""
    if architecture in DECODERS:
        return requests
    return [
        dataclasses.replace(
            request,
            prompt=as_asked(architecture, request.prompt, request.id),
            equivalents=tuple(as_asked(architecture, text, request.id) for text in request.equivalents),
            target=_target(architecture, request.target, number),
            chat=False,
        )
        for number, request in enumerate(requests)
    ]


def as_asked(architecture: str, prompt: str, ending: object) -> str:
    """A prompt; a chain sees its last token only, which has to differ."""
    return f"{prompt} {ending}" if architecture == "chain" else prompt


def _target(architecture: str, target: str, number: int) -> str:
    # A chain has to say the same after a token wherever it stands.
    short = {"bert": CLASSES[number % len(CLASSES)], "chain": "uvwxyz"[number % 6]}
    return short.get(architecture, target)


def _answer(architecture: str, kept: Kept, number: int) -> tuple[str, bool]:
    if architecture in DECODERS:
        return kept.answer, kept.chat
    return _target(architecture, kept.answer, number), False
