"""Explaining a prompt: which corrections touch it, and what base, champion and candidate answer to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tasks.measuring import GATE_TOKENS
from tasks.models import ModelFolder, load, load_overrides, resolve
from tasks.neighbours import Search, tfidf_search
from tasks.prompt_check import PromptCheck
from tasks.records import Correction, UserError
from tasks.registry import CANDIDATE, CHAMPION, describe
from tasks.rephrase import rephrase, wording

# Closeness below which a correction is near to nothing, as for locality.
_LEAST = 0.1


@dataclass(frozen=True)
class Touching:
    """A correction that touches a prompt.

    `phrasing` is the wording of it that the prompt has, empty where it is only near. `similarity` is that of
    the two prompts, 0 to 1; 1 where the prompt is a phrasing of the correction.
    """

    correction: Correction
    phrasing: str
    similarity: float


def touching(
    prompt: str, corrections: Sequence[Correction], *, nearest: int = 5, search: Search = tfidf_search
) -> list[Touching]:
    """Corrections of this prompt or of another phrasing of it, in any state, then the nearest others.

    The phrasings of a correction are those its reporters gave and those made by rule. Case, punctuation and
    spacing do not count.

    Args:
        prompt: what a user asks.
        corrections: of one model.
        nearest: how many others, the most similar first.
        search: where similarity comes from.
    """
    asked = wording(prompt)
    exact: list[Touching] = []
    others: list[Correction] = []
    for correction in corrections:
        made = (phrasing.text for phrasing in rephrase(correction.prompt, chat=correction.chat))
        phrasings = (correction.prompt, *correction.equivalents, *made)
        same = next((text for text in phrasings if asked and wording(text) == asked), None)
        if same is None:
            others.append(correction)
        else:
            exact.append(Touching(correction, same, 1.0))
    hits = search([prompt], [correction.prompt for correction in others], nearest)
    near = [Touching(others[i], "", float(hits.closeness[i])) for i in hits.nearest[0].tolist()]
    # The correction of this very prompt before those of which it is a phrasing.
    exact.sort(key=lambda found: wording(found.correction.prompt) != asked)
    return exact + [found for found in near if found.similarity >= _LEAST]


def versions(name: str, *, tracking_uri: str, models: Path | None = None) -> dict[str, ModelFolder]:
    """Base, champion and candidate of a model, those of them that there are, by what to call them.

    Raises:
        UserError: the store cannot be used, or a version cannot be loaded.
    """
    described = describe(name, tracking_uri=tracking_uri)
    found: dict[str, ModelFolder] = {}
    for alias in (CHAMPION, CANDIDATE):
        number = described.aliases.get(alias)
        if number is not None:
            folder = resolve(f"models:/{name}/{number}", cache=models, tracking_uri=tracking_uri)
            found.setdefault("base", replace(folder, delta=None))
            found[f"{alias}, version {number}"] = folder
    return found


def answers(prompt: str, models: Mapping[str, ModelFolder], *, chat: bool) -> dict[str, str]:
    """What each model answers to a prompt as it is served; one that stands there twice is asked once.

    Raises:
        UserError: a model cannot be read, or cannot be asked this prompt.
    """
    from editors.generation import generate_greedy

    said: dict[tuple[Path, Path | None], str] = {}
    for folder in models.values():
        if (folder.path, folder.delta) in said:
            continue
        if fault := PromptCheck.of(folder).fault(prompt, chat=chat):
            raise UserError(fault)
        generate = partial(generate_greedy, *load(folder), chat=chat, max_new_tokens=GATE_TOKENS)
        (answer,) = load_overrides(folder).answer([prompt], generate, chat=chat)
        said[folder.path, folder.delta] = answer
    return {called: said[folder.path, folder.delta] for called, folder in models.items()}
