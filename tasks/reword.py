"""Rewordings that a language model writes, and the filter that keeps those which mean and ask the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.embedding import Embed
from tasks.neighbours import content_words, keeps_names, without_names
from tasks.records import Correction
from tasks.rephrase import Phrasing, wording
from tasks.rewording.examples import forms, pairs
from tasks.rewording.prompts import Prompt
from validation.limits import DataLimits
from validation.matching import same_meaning

Generate = Callable[[list[str]], list[str]]
"""Raw texts to what a model goes on with, greedily."""

Answer = Callable[[list[str], bool], list[str]]
"""(prompts, chat turns or raw text) to the champion's answers."""

# Tokens that a rewording takes at most.
LONGEST = 40
_PROMPT, _REWORDED = "Prompt:", "Reworded:"


@dataclass(frozen=True)
class Bounds:
    """Cosine similarities of embeddings by which rewordings are kept.

    Attributes:
        least: to the prompt; below, the meaning is lost.
        nameless: to the prompt, the names in both struck out, which outweigh what is asked of them; below,
            another thing is asked: who the father is, and not the mother.
        most: to the prompt; above, it is a copy.
        apart: to a rewording that was kept already; above, it adds nothing.
        answers: of the champion's answer to that of the prompt; below, another thing is asked.
    """

    least: float = 0.8
    nameless: float = 0.9
    most: float = 0.985
    apart: float = 0.97
    answers: float = 0.5


def propose(prompts: Sequence[str], generate: Generate, *, chat: bool) -> list[list[Phrasing]]:
    """One rewording of each prompt in each form that there are examples of; nothing is checked yet.

    Args:
        prompts: what to reword.
        generate: the language model that writes.
        chat: the prompts are chat turns, false for raw text.
    """
    found: list[list[Phrasing]] = [[] for _ in prompts]
    kinds = [Prompt.read(p.strip(), chat=chat).kind if p.strip() else "other" for p in prompts]
    for kind, completion in (("question", False), ("completion", True)):
        places = [place for place, one in enumerate(kinds) if one == kind]
        for form in forms(completion=completion) if places else ():
            shown = "".join(
                f"{_PROMPT} {a}\n{_REWORDED} {b}\n\n" for a, b in pairs(form, completion=completion)
            )
            texts = [f"{shown}{_PROMPT} {prompts[place].strip()}\n{_REWORDED}" for place in places]
            for place, written in zip(places, generate(texts), strict=True):
                line = written.strip().partition("\n")[0].strip(' "“”')
                if line:
                    found[place].append(Phrasing(line, f"{form}_by_model"))
    return found


def keep_meaning(
    corrections: Sequence[Correction],
    proposed: Mapping[str, Sequence[Phrasing]],
    embed: Embed,
    answer: Answer,
    bounds: Bounds | None = None,
) -> dict[str, list[Phrasing]]:
    """The proposed rewordings that mean what the prompt means and are asked for the same, no two alike.

    A rewording has to hold the prompt's names and numbers and no others, must not give an answer away, has to
    be close to the prompt by its embedding without being a copy, and the champion's answer to it has to be
    the same as, or like, its answer to the prompt.

    Args:
        corrections: whose prompts were reworded.
        proposed: rewordings by correction id.
        embed: the sentence encoder.
        answer: asks the champion.
        bounds: what is close enough.
    """
    bounds = bounds or Bounds()
    kept: dict[str, list[Phrasing]] = {}
    plausible = {c.id: [p for p in proposed.get(c.id, ()) if _plausible(p.text, c)] for c in corrections}
    texts = [[c.prompt, *(p.text for p in plausible[c.id])] for c in corrections]
    nameless = [[without_names(text, group[0]) for text in group] for group in texts]
    of_each = zip(corrections, _embedded(texts, embed), _embedded(nameless, embed), strict=True)
    for c, vectors, bare in of_each:
        similar, asks = vectors @ vectors.T, bare @ bare[0]
        chosen: list[int] = []
        # The farthest first: of two that are alike, the one less like the prompt teaches more.
        for place in np.argsort(similar[0, 1:], kind="stable") + 1:
            close = bounds.least <= similar[0, place] <= bounds.most and asks[place] >= bounds.nameless
            if close and all(similar[place, other] <= bounds.apart for other in chosen):
                chosen.append(int(place))
        kept[c.id] = [plausible[c.id][place - 1] for place in sorted(chosen)]
    return _answered_alike(corrections, kept, embed, answer, bounds.answers)


def _embedded(groups: Sequence[Sequence[str]], embed: Embed) -> list[NDArray[np.float32]]:
    """The vectors of each group of texts, in one call: what an encoder remembers is read whole for each."""
    vectors = embed([text for group in groups for text in group])
    return np.split(vectors, np.cumsum([len(group) for group in groups], dtype=int))[:-1]


def _plausible(text: str, correction: Correction) -> bool:
    """Whether a rewording is new, names and counts the same, is not too long, and does not give an answer."""
    prompt = correction.prompt
    if wording(text) == wording(prompt) or len(text) > min(3 * len(prompt), DataLimits().prompt_characters):
        return False
    if not keeps_names(prompt, text) or _numbers(prompt) != _numbers(text):
        return False
    said = content_words(f"{correction.desired_output or ''} {correction.wrong_output}")
    return not (said - content_words(prompt)) & content_words(text)


def _numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+", text))


def _answered_alike(
    corrections: Sequence[Correction],
    kept: Mapping[str, Sequence[Phrasing]],
    embed: Embed,
    answer: Answer,
    least: float,
) -> dict[str, list[Phrasing]]:
    """The rewordings whose answer is the prompt's, or means nearly the same; all are asked at once."""
    texts = {
        (t, c.chat) for c in corrections for t in (c.prompt, *(p.text for p in kept[c.id])) if kept[c.id]
    }
    said: dict[tuple[str, bool], str] = {}
    for chat in (True, False):
        asked = sorted(text for text, is_chat in texts if is_chat is chat)
        if asked:
            said.update(zip(((text, chat) for text in asked), answer(asked, chat), strict=True))
    answered = [
        [said[text, c.chat] for text in (c.prompt, *(p.text for p in kept[c.id]))] if kept[c.id] else []
        for c in corrections
    ]
    alike: dict[str, list[Phrasing]] = {}
    for c, answers, vectors in zip(corrections, answered, _embedded(answered, embed), strict=True):
        alike[c.id] = [
            p
            for place, p in enumerate(kept[c.id], 1)
            if same_meaning(answers[0], answers[place]) or float(vectors[0] @ vectors[place]) >= least
        ]
    return alike
