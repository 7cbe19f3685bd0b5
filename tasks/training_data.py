"""Chat corrections to practise on, from public relation data: ParaRel tuples and zsRE questions.

Targets are other subjects' objects, so that nothing is learned but how to edit; an editor keeps no facts.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from editors.requests import EditRequest
from tasks.formats import read_requests
from tasks.records import UserError, correction_id
from tasks.rephrase import rephrase


@dataclass(frozen=True)
class Relation:
    """How a person asks for a relation, several ways, and how an answer states it."""

    questions: tuple[str, ...]
    statement: str


# No relation here is about capitals or currencies, which the demo corrects.
RELATIONS = {
    "P17": Relation(
        ("Which country is {x} in?", "In which country is {x} located?", "What country does {x} belong to?"),
        "{x} is located in {y}.",
    ),
    "P131": Relation(
        ("Where is {x} located?", "Which region is {x} part of?", "What is the location of {x}?"),
        "{x} is located in {y}.",
    ),
    "P19": Relation(
        ("Where was {x} born?", "What is the birthplace of {x}?", "In which place was {x} born?"),
        "{x} was born in {y}.",
    ),
    "P20": Relation(
        ("Where did {x} die?", "What is the place of death of {x}?", "In which city did {x} die?"),
        "{x} died in {y}.",
    ),
    "P27": Relation(
        ("What is the citizenship of {x}?", "Which country is {x} a citizen of?"), "{x} is a citizen of {y}."
    ),
    "P101": Relation(
        (
            "What is the field of work of {x}?",
            "Which field does {x} work in?",
            "What does {x} specialise in?",
        ),
        "The field of work of {x} is {y}.",
    ),
    "P106": Relation(
        ("What is the profession of {x}?", "What does {x} do for a living?", "What is {x}'s occupation?"),
        "The profession of {x} is {y}.",
    ),
    "P108": Relation(
        ("What is the employer of {x}?", "Who does {x} work for?", "Which organisation employs {x}?"),
        "The employer of {x} is {y}.",
    ),
    "P138": Relation(
        ("What is {x} named after?", "Who or what gave {x} its name?", "What is the namesake of {x}?"),
        "{x} is named after {y}.",
    ),
    "P159": Relation(
        ("What is the headquarters of {x}?", "Where is {x} based?", "In which city is {x} headquartered?"),
        "The headquarters of {x} is in {y}.",
    ),
    "P176": Relation(
        ("What is the manufacturer of {x}?", "Which company makes {x}?", "Who produces {x}?"),
        "The manufacturer of {x} is {y}.",
    ),
    "P178": Relation(
        ("What is the developer of {x}?", "Who developed {x}?", "Which company created {x}?"),
        "The developer of {x} is {y}.",
    ),
    "P264": Relation(
        (
            "What is the record label of {x}?",
            "Which label does {x} record for?",
            "Who publishes {x}'s music?",
        ),
        "The record label of {x} is {y}.",
    ),
}


def practice_corrections(
    folder: Path, *, per_relation: int = 24, zsre: int = 72, seed: int = 0
) -> tuple[list[EditRequest], list[str]]:
    """Corrections in chat form, and prompts of other subjects whose answers must stay.

    Args:
        folder: holds `pararel/tuples` and, if it is to be used, `zsre/*.json`.
        per_relation: corrections of each relation.
        zsre: corrections from zsRE.
        seed: of all choices.

    Raises:
        UserError: the folder holds no ParaRel tuples.
    """
    rng = random.Random(seed)
    requests: list[EditRequest] = []
    stay: list[str] = []
    for name, relation in RELATIONS.items():
        path = folder / "pararel" / "tuples" / f"{name}.jsonl"
        if not path.is_file():
            raise UserError(f"{path} is missing; point --data at a folder with ParaRel's tuples in it")
        facts = [json.loads(line) for line in path.read_text().splitlines()]
        objects = sorted({fact["obj_label"] for fact in facts})
        subjects = rng.sample(sorted({fact["sub_label"] for fact in facts}), per_relation * 2)
        for subject in subjects[:per_relation]:
            target = relation.statement.format(x=subject, y=rng.choice(objects))
            requests.append(_request(relation, subject, target, rng))
        stay += [rng.choice(relation.questions).format(x=subject) for subject in subjects[per_relation:]]
    for path in sorted((folder / "zsre").glob("*.json")):
        read, _ = read_requests(path, chat=True)
        chosen = rng.sample(read, min(zsre, len(read)))
        requests += chosen
        stay += [prompt for request in chosen for prompt in request.locality]
    return requests, sorted(set(stay))


def _request(relation: Relation, subject: str, target: str, rng: random.Random) -> EditRequest:
    asked = [question.format(x=subject) for question in relation.questions]
    rng.shuffle(asked)
    prompt = asked[0]
    reworded = [phrasing.text for phrasing in rephrase(prompt, chat=True)]
    equivalents = [*asked[1:], *rng.sample(reworded, min(2, len(reworded)))]
    rng.shuffle(equivalents)
    return EditRequest(
        correction_id(prompt, target, chat=True), prompt, target, tuple(equivalents[:3]), subject=subject
    )
