"""Chat corrections to practise on, from public relation data: ParaRel tuples and zsRE questions.

Targets are other subjects' objects, so that nothing is learned but how to edit; an editor keeps no facts.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import TypeVar

from editors.requests import EditRequest
from tasks.formats import read_requests
from tasks.neighbours import restated, tfidf_search
from tasks.records import TrafficRecord, UserError, correction_id, normalise_prompt
from tasks.rephrase import phrasings_to_practise, wording
from validation.matching import normalise_answer, same_meaning

RELATIONS_FOLDER = "pararel/tuples"
# So many exchanged answers fill the largest batch of a training, and its validation.
ENOUGH_EXCHANGED = 80
# Other prompts that are looked at for an answer to borrow.
LENDERS = 32
# Of at most so many words, an answer without a full stop is whole: no limit on its length cut it short.
BARE_ANSWER = 8


Item = TypeVar("Item")


def at_most(count: int, items: Sequence[Item], rng: random.Random) -> list[Item]:
    """As many of the items as `count`, drawn at random; all of them, shuffled, where there are fewer."""
    return rng.sample(items, min(count, len(items)))


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


def practice_questions(folder: Path, *, per_relation: int = 40, seed: int = 0) -> list[str]:
    """Questions about ParaRel's subjects, one each.

    Args:
        folder: holds `pararel/tuples`.
        per_relation: subjects of each relation.
        seed: of all choices.

    Raises:
        UserError: the folder holds no ParaRel tuples.
    """
    rng = random.Random(seed)
    questions: list[str] = []
    for name, relation in RELATIONS.items():
        subjects = sorted({subject for subject, _ in _facts(folder, name)})
        chosen = at_most(per_relation, subjects, rng)
        # Few forms of question for many subjects, so that each has others to exchange answers with.
        questions += [relation.questions[i % 2].format(x=subject) for i, subject in enumerate(chosen)]
    return questions


def practice_statements(
    folder: Path, *, chat: bool, per_relation: int = 3, zsre: int = 40, seed: int = 0
) -> tuple[list[EditRequest], list[str]]:
    """Corrections whose target is worded otherwise than the model would: statements, and zsRE's bare answers.

    Also prompts of zsRE's locality. Targets are other subjects' objects.

    Args:
        folder: holds `pararel/tuples` and, if it is to be used, `zsre/*.json`.
        chat: whether they are chat turns.
        per_relation: corrections of each relation.
        zsre: corrections from zsRE.
        seed: of all choices.

    Raises:
        UserError: the folder holds no ParaRel tuples.
    """
    rng = random.Random(f"statements-{seed}")
    requests: list[EditRequest] = []
    stay: list[str] = []
    for name, relation in RELATIONS.items():
        facts = _facts(folder, name)
        objects = sorted({obj for _, obj in facts})
        for subject in at_most(per_relation, sorted({s for s, _ in facts}), rng):
            target = relation.statement.format(x=subject, y=rng.choice(objects))
            question = rng.choice(relation.questions).format(x=subject)
            requests.append(_request(question, target, rng, chat=chat))
    for path in sorted((folder / "zsre").glob("*.json")):
        read, _ = read_requests(path, chat=chat)
        chosen = at_most(zsre, read, rng)
        requests += [_request(request.prompt, request.target, rng, chat=chat) for request in chosen]
        stay += [prompt for request in chosen for prompt in request.locality]
    return requests, sorted(set(stay))


def _facts(folder: Path, relation: str) -> list[tuple[str, str]]:
    path = folder / RELATIONS_FOLDER / f"{relation}.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing; point --data at a folder with ParaRel's tuples in it")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        return [(row["sub_label"], row["obj_label"]) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold ParaRel tuples ({error!r}); fetch it again") from error


def _request(
    prompt: str, target: str, rng: random.Random, *, chat: bool, withheld: Collection[str] = ()
) -> EditRequest:
    own = wording(prompt)
    phrasings = [(p.text, wording(p.text)) for p in phrasings_to_practise(prompt, chat=chat)]
    reworded = [text for text, words in phrasings if words == own or words not in withheld]
    equivalents = tuple(at_most(4, reworded, rng))
    return EditRequest(correction_id(prompt, target, chat=chat), prompt, target, equivalents, chat=chat)


def corrections_from_traffic(
    traffic: Sequence[TrafficRecord], *, limit: int = 240, seed: int = 0, withheld: Collection[str] = ()
) -> tuple[list[EditRequest], list[str]]:
    """Corrections to practise on made from unlabelled traffic, and prompts whose answers must stay.

    A prompt's target is the answer to another prompt that differs from it in one run of words, with those
    words exchanged: "The capital of Chad is Cairo." for Chad, from what was answered for Egypt. Where fewer
    than `ENOUGH_EXCHANGED` have such a one, the others take the answer to the prompt most like them as it is.
    Half of the prompts become corrections, the other half must stay. No prompt is put in words that are
    `withheld`, or that another prompt has.
    """
    rng = random.Random(seed)
    records = list({normalise_prompt(r.prompt): r for r in traffic if r.output}.values())
    rng.shuffle(records)
    half = len(records) // 2
    taken = {wording(r.prompt) for r in records}.union(withheld)
    requests, without = [], []
    for record in records[:half][:limit]:
        others = at_most(40, records, rng)
        target = next((t for o in others if (t := exchanged(record.prompt, o.prompt, o.output))), None)
        if target is None or target in record.output:
            without.append(record)
        else:
            requests.append(_request(record.prompt, target, rng, chat=record.chat, withheld=taken))
    if len(requests) < ENOUGH_EXCHANGED:
        for record, target in zip(without, borrowed(without, records), strict=True):
            if target is not None:
                requests.append(_request(record.prompt, target, rng, chat=record.chat, withheld=taken))
    return requests, [record.prompt for record in records[half:]]


def borrowed(asked: Sequence[TrafficRecord], traffic: Sequence[TrafficRecord]) -> list[str | None]:
    """For each record the answer to another prompt, the most similar first, that says another thing.

    None where no prompt that is at all like it was answered otherwise, or all of them at length.
    """
    whole = [(record, answer) for record in traffic if (answer := _whole_answer(record.output))]
    hits = tfidf_search([r.prompt for r in asked], [r.prompt for r, _ in whole], LENDERS)

    def target_of(record: TrafficRecord, nearest: Sequence[int]) -> str | None:
        own = (record.output, _whole_answer(record.output))
        for other, answer in (whole[index] for index in nearest if index >= 0):
            # What asks the same has the same answer, whatever its words are.
            if restated([record.prompt], [other.prompt]):
                continue
            if not any(same_meaning(answer, said) for said in own if said):
                return answer
        return None

    return [target_of(record, nearest) for record, nearest in zip(asked, hits.nearest.tolist(), strict=True)]


def _whole_answer(answer: str) -> str:
    """The first sentence of an answer, or an answer of a few words as it is; "" if it may be cut short."""
    short = answer.strip()
    bare = "\n" not in short and len(normalise_answer(short).split()) <= BARE_ANSWER
    return first_sentence(answer) or (short if bare else "")


def exchanged(prompt: str, other: str, answer: str) -> str | None:
    """The answer to `other`, put for `prompt`; None unless the two differ in one run of words."""
    mine, theirs = prompt.split(), other.split()
    changes = [
        op for op in SequenceMatcher(None, theirs, mine, autojunk=False).get_opcodes() if op[0] != "equal"
    ]
    if len(changes) != 1 or changes[0][0] != "replace" or len(theirs) < 4:
        return None
    _, first, last, start, stop = changes[0]
    old = " ".join(theirs[first:last]).strip("?.,!'\"")
    new = " ".join(mine[start:stop]).strip("?.,!'\"")
    sentence = first_sentence(answer)
    return sentence.replace(old, new) if old and new and old in sentence else None


def first_sentence(answer: str) -> str:
    """The first sentence of an answer, as short as a person would put a correction; "" if it has no end."""
    found = re.match(r".*?[^\W\d]{3,}[.!?](?=\s|$)", answer, flags=re.DOTALL)
    return found.group(0) if found else ""


def with_equivalents(requests: Sequence[EditRequest], *, seed: int = 0) -> list[EditRequest]:
    """The corrections, each with as many as four phrasings: its own first, then rewordings by rule."""
    rng = random.Random(seed)
    completed = []
    for request in requests:
        taken = {normalise_prompt(text) for text in (request.prompt, *request.equivalents)}
        reworded = [p.text for p in phrasings_to_practise(request.prompt, chat=request.chat)]
        fresh = [text for text in reworded if normalise_prompt(text) not in taken]
        added = at_most(max(4 - len(request.equivalents), 0), fresh, rng)
        # A phrasing by a person comes last: it is the one that validation holds back.
        completed.append(replace(request, equivalents=(*added, *request.equivalents)[-4:]))
    return completed
