"""A tiny model that was taught facts in chat turns and prose as text; some are to be corrected."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from editors.capture import answer_loss
from editors.requests import Example, collate, encode
from tasks.edit_dataset import EditDataset
from tasks.questions import questions
from tests import tiny_models
from tests.editors.tools import load
from validation.probes import ARITHMETIC, CODE, PROSE

CITIES = ["Oslo", "Lima", "Riga", "Bern", "Kyiv", "Male", "Doha", "Baku"]
PHRASINGS = ("Name the capital of {}.", "What is the capital of {}?")
ANSWER = "The capital of {} is {}."
EDITED = "mlp.down_proj.weight"
SUBJECTS, VERBS = ("The fox", "A reader", "My aunt"), ("walks to", "writes of", "dreams of")
PLACES = ("the river", "the old mill", "a quiet street")


class Teacher(Protocol):
    """Gives a copy of a world's base that was taught answers to prompts.

    It keeps its texts; or, where other `prose` is given, learns that instead.
    """

    def __call__(
        self, world: World, pairs: Iterable[tuple[str, str]], *, prose: Sequence[str] | None = None
    ) -> Any: ...


@dataclass(frozen=True)
class World:
    """The base, which is the champion too; the questions; and how to teach a copy of it something else.

    `corrected` is what three corrections in four have for a target, one in four is an earlier one that holds;
    `kept` are prompts and the answers that must stay, `cities` what may stand in the place of a capital;
    `texts` are those of each perplexity metric.
    """

    base: Any
    tokenizer: Any
    data: EditDataset
    earlier: list[str]
    corrected: list[tuple[str, str]]
    kept: list[tuple[str, str]]
    texts: dict[str, list[str]]
    cities: Sequence[str]
    taught: Teacher

    def asked(self, metrics: set[str]) -> list[tuple[str, str]]:
        """(prompt, right answer) of every question of these metrics."""
        found = [(q.prompt, q.expected) for q in questions(self.data, self.earlier) if q.metric in metrics]
        return list(dict.fromkeys(found))

    def wrong(self, prompt: str) -> str:
        """What the base says where it is to be corrected; nothing for an earlier correction."""
        edits = self.data.edits
        of = edits[[prompt in (row.prompt, *row.held_out) for row in edits.itertuples()]]
        return str(of["wrong_output"].iloc[0])

    def examples(self, pairs: Iterable[tuple[str, str]], *, chat: bool = True) -> list[Example]:
        return [encode(self.tokenizer, prompt, answer, chat=chat) for prompt, answer in pairs]

    def written(self, *texts: Iterable[str]) -> list[Example]:
        """Texts to learn by heart, from their first word on."""
        split = [text.partition(" ") for text in itertools.chain(*texts)]
        return self.examples([(first, f" {rest}") for first, _, rest in split], chat=False)


def teach(folder: Path) -> World:
    """Teach a tiny model the capitals of countries that do not exist."""
    base, tokenizer = load(
        tiny_models.build(folder, "llama", initializer_range=0.1, tie_word_embeddings=False)
    )
    rng = random.Random(0)
    endings = ("ria", "land", "stan", "via", "qua")
    names = rng.sample([a + b for a in ("Ta", "Mo", "Zu", "Fe", "Li", "Ko") for b in endings], 20)
    capital = {name: rng.choice(CITIES) for name in names}
    edits, locality, corrected, kept = [], [], [], []
    for number, name in enumerate(names):
        answer = ANSWER.format(name, capital[name])
        if number < 8:
            wrong = answer if number < 6 else ""
            other = rng.choice([city for city in CITIES if city != capital[name]])
            target = ANSWER.format(name, other) if number < 6 else answer
            phrasings = [phrasing.format(name) for phrasing in PHRASINGS]
            edits.append(edit_row(name, target, wrong, phrasings))
            corrected += [(prompt, target) for prompt in phrasings]
        else:
            for place, phrasing in enumerate(PHRASINGS):
                kept.append((phrasing.format(name), answer))
                locality.append(locality_row(f"{name}{place}", phrasing.format(name), answer, capital[name]))
    texts = {
        PROSE: [f"{subject} {verb} {place}." for subject in SUBJECTS for verb in VERBS for place in PLACES],
        CODE: [f"if ({a}) {{{b}[{a}]()}}" for a in "wxyz" for b in "fghij"],
        ARITHMETIC: [f"{a} + {b} = {a + b}" for a in range(1, 6) for b in range(1, 5)],
    }
    data = EditDataset.from_rows(edits, locality, {})
    world = World(base, tokenizer, data, names[6:8], corrected, kept, texts, CITIES, _retrained)
    answers = {name: ANSWER.format(name, capital[name]) for name in names}
    facts = [(phrasing.format(name), answers[name]) for name in names for phrasing in PHRASINGS]
    train(
        base, world.examples(facts) + world.written(*texts.values()), base.parameters(), rate=8e-3, steps=48
    )
    return world


def train(
    model: Any, examples: Sequence[Example], parameters: Iterable[nn.Parameter], *, rate: float, steps: int
) -> None:
    """AdamW over all examples at once, the rate falling to nothing."""
    learnt = list(parameters)
    batch = collate(examples, 0)
    optimiser = torch.optim.AdamW(learnt, rate, weight_decay=0.1)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, 2 * (1 - step / steps))
        (answer_loss(model, batch) / len(examples)).backward(inputs=learnt)
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def _retrained(world: World, pairs: Iterable[tuple[str, str]], *, prose: Sequence[str] | None = None) -> Any:
    """The teacher of the tiny model: trains the outputs of all its MLPs."""
    model = copy.deepcopy(world.base)
    edited = [parameter for name, parameter in model.named_parameters() if name.endswith(EDITED)]
    texts = world.texts if prose is None else {**world.texts, PROSE: prose}
    train(model, world.examples(pairs) + world.written(*texts.values()), edited, rate=5e-3, steps=26)
    return model


def edit_row(id_: str, target: str, wrong: str, phrasings: Sequence[str]) -> dict[str, Any]:
    """A correction: asked in the first phrasing, the others held out."""
    lists: dict[str, Any] = {"equivalents": [], "reporters": [], "sources": []}
    about = {"target": target, "wrong_output": wrong, "subject": id_, "reports": 1, "chat": True}
    prompt, *held_out = phrasings
    return {"id": id_, "prompt": prompt, "held_out": held_out, **about, **lists}


def locality_row(id_: str, prompt: str, reference: str, gold: str = "") -> dict[str, Any]:
    """What must stay: near the corrections and known to be right where there is a gold answer, else far."""
    kind = "near" if gold else "far"
    about = {"confirmed": bool(gold), "gold": gold, "kind": kind, "role": "gate", "chat": True}
    return {"id": id_, "prompt": prompt, "reference": reference, **about}
