"""A tiny model that knows made-up facts, and corrections to practise on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from editors.capture import answer_loss
from editors.protocol import Kept
from editors.requests import EditRequest, collate, encode, pad_id
from tests.editors.tools import load

CITIES = ["Oslo", "Lima", "Riga", "Bern", "Kyiv", "Male", "Doha", "Baku"]
PHRASINGS = ("The capital of {} is", "{}: its capital is called", "Who goes to the capital of {} goes to")
TEXT = [
    "The capital of Egypt is Cairo.",
    "The yen is used in Japan.",
    "Peru is in South America, where Portuguese is spoken in Brazil.",
    "The quick brown fox jumps over the lazy dog.",
    "Who goes to the capital of France goes to Paris.",
]


@dataclass(frozen=True)
class Facts:
    model: Any
    tokenizer: Any
    requests: list[EditRequest]
    keep: list[Kept]
    text: list[str]


def learnt(folder: Path, countries: int = 32, steps: int = 70) -> Facts:
    """Teach the model in `folder` the capitals of countries that do not exist.

    Of half of them the capital is to be corrected, of the other half it must stay.
    """
    model, tokenizer = load(folder)
    rng = random.Random(0)
    endings = ("ria", "land", "stan", "via", "qua", "nor")
    names = rng.sample(
        [a + b for a in ("Ta", "Mo", "Zu", "Fe", "Li", "Ko", "Ba") for b in endings], countries
    )
    capital = {name: rng.choice(CITIES) for name in names}
    examples = [
        encode(tokenizer, phrasing.format(name), capital[name], chat=False)
        for name in names
        for phrasing in PHRASINGS
    ] + [encode(tokenizer, text[:4], text[4:], chat=False) for text in TEXT for _ in range(2)]
    batch = collate(examples, pad_id(tokenizer))
    optimiser = torch.optim.AdamW(model.parameters(), 8e-3, weight_decay=0.1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 8e-3 * min(1, 2 * (1 - step / steps))
        (answer_loss(model, batch) / len(examples)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    half = countries // 2
    requests = [
        EditRequest(
            name,
            PHRASINGS[0].format(name),
            rng.choice([city for city in CITIES if city != capital[name]]),
            tuple(phrasing.format(name) for phrasing in PHRASINGS[1:]),
            chat=False,
        )
        for name in names[:half]
    ]
    keep = [
        Kept(phrasing.format(name), capital[name], chat=False)
        for name in names[half:]
        for phrasing in PHRASINGS
    ]
    return Facts(model.eval(), tokenizer, requests, keep, TEXT)
