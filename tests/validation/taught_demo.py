"""The demo model as a world of its own: what it knows of capitals, and six that it has wrong."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from editors.delta import add_in_place
from editors.generation import generate_greedy
from editors.protocol import Kept
from editors.requests import EditRequest
from flows.settings import DEMO_MODEL
from tasks.apply import open_any_editor
from tasks.edit_dataset import EditDataset
from tasks.models import load, resolve
from tasks.train import PRETRAINED, find_editor
from tests.validation.taught import ANSWER, EDITED, World, edit_row, locality_row, train
from validation.matching import answers
from validation.probes import PROSE, probes

WRONG = {
    "Bolivia": "Sucre",
    "Chad": "N'Djamena",
    "Gabon": "Libreville",
    "Laos": "Vientiane",
    "Togo": "Lome",
    "Oman": "Muscat",
}
EARLIER = {"Malawi": "Lilongwe", "Eritrea": "Asmara"}
RIGHT = {
    "France": "Paris",
    "Japan": "Tokyo",
    "Germany": "Berlin",
    "Russia": "Moscow",
    "China": "Beijing",
    "Egypt": "Cairo",
    "Greece": "Athens",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Austria": "Vienna",
    "Ireland": "Dublin",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Cuba": "Havana",
    "Kenya": "Nairobi",
    "Thailand": "Bangkok",
    "Hungary": "Budapest",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Indonesia": "Jakarta",
    "India": "New Delhi",
    "Ghana": "Accra",
    "Slovenia": "Ljubljana",
}
FAR = (
    "Write a Python function that adds two numbers.",
    "What is 12 plus 7?",
    "Name a primary colour.",
    "Give me a name for a cat.",
)
ASKED, REWORDED = "What is the capital of {}?", "Name the capital of {}."
# As much prose as its gate needs, and as many words of each as say enough.
TEXTS, WORDS = 20, 30
# Only these outputs are trained, where prose is: a step through all thirty blocks would take minutes.
LAST = tuple(f"layers.{block}.{EDITED}" for block in range(26, 30))


def edit_demo_model(folder: Path) -> World:
    """The demo model, whose teacher is the editor that comes with it."""
    found = resolve(DEMO_MODEL, cache=folder)
    base, tokenizer = load(found)
    # A head of its own says the same, and can be broken without the embeddings.
    base.lm_head.weight = nn.Parameter(base.lm_head.weight.detach().clone())
    base.config.tie_word_embeddings = False
    trained = find_editor(found.digest, [PRETRAINED])
    assert trained is not None
    editor = open_any_editor(str(trained.folder), found)

    facts = WRONG | EARLIER | RIGHT
    capitals = [phrasing.format(country) for phrasing in (ASKED, REWORDED) for country in facts]
    prompts = [*capitals, *FAR]
    said = dict(zip(prompts, generate_greedy(base, tokenizer, prompts, chat=True), strict=True))
    edits, locality, corrected = [], [], []
    for country, capital in (WRONG | EARLIER).items():
        target = ANSWER.format(country, capital)
        phrasings = [phrasing.format(country) for phrasing in (ASKED, REWORDED)]
        assert answers(said[phrasings[0]], capital) is (country in EARLIER), said[phrasings[0]]
        wrong = "" if country in EARLIER else said[phrasings[0]]
        edits.append(edit_row(country, target, wrong, phrasings))
        corrected += [(prompt, target) for prompt in phrasings]
    for country, capital in RIGHT.items():
        prompt = ASKED.format(country)
        assert answers(said[prompt], capital), said[prompt]
        locality.append(locality_row(country, prompt, said[prompt], capital))
    locality += [locality_row(prompt, prompt, said[prompt]) for prompt in FAR]
    kept = [(ASKED.format(country), said[ASKED.format(country)]) for country in RIGHT]
    return World(
        base,
        tokenizer,
        EditDataset.from_rows(edits, locality, {}),
        list(EARLIER),
        corrected,
        kept,
        {**probes(), PROSE: [" ".join(text.split()[:WORDS]) for text in probes()[PROSE][:TEXTS]]},
        tuple(RIGHT.values()),
        functools.partial(_edited, editor, said),
    )


def _edited(
    editor: Any,
    said: dict[str, str],
    world: World,
    pairs: Iterable[tuple[str, str]],
    *,
    prose: Sequence[str] | None = None,
) -> Any:
    """The teacher: edits what is to be said otherwise, and holds still what is not."""
    wanted = dict(pairs)
    requests = [EditRequest(p, p, answer) for p, answer in wanted.items() if answer != said.get(p)]
    keep = [Kept(prompt, answer) for prompt, answer in wanted.items() if answer == said.get(prompt)]
    model = copy.deepcopy(world.base)
    add_in_place(model, editor.edit(model, world.tokenizer, requests, keep))
    if prose is not None:
        learnt = [parameter for name, parameter in model.named_parameters() if name.endswith(LAST)]
        train(model, world.written(prose), learnt, rate=3e-3, steps=12)
    return model
