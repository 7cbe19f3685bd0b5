"""Which traffic prompts stand near the corrections, and which far: the material for locality.

The search is behind one function: `tfidf_search` goes by words, `meaning_search` by sentence embeddings.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.embedding import Embed, most_similar
from tasks.records import normalise_prompt
from tasks.rephrase import wording
from tasks.rewording import grammar
from tasks.rewording.grammar import word_set

_MOST_ROWS = 4096
_MOST_VALUES = 8_000_000
SPARE = 4
# Above this two prompts with the same names most likely ask the same: of pairs that do, more than half are.
_SAME_MEANING = 0.9
_ASKING_OTHERWISE = word_set("who when where how why")
# Words that two phrasings of one question need not share. "Who", "when", "where" and "how" are not among
# them: where and when somebody was born are different questions.
_IDLE = word_set(
    "a an the of in on at to for from by with and or is are was were be been do does did can could would "
    "i me my you it that this which what s please tell name give know"
)


@dataclass(frozen=True)
class Hits:
    """What a search found.

    `nearest`: (queries, at most k) int, candidate indices, best first.
    `similarity`: (queries, at most k) float, of each of these to its query.
    `closeness`: (candidates,) float, similarity to the most similar query; higher is closer.
    """

    nearest: NDArray[np.int64]
    similarity: NDArray[np.float64]
    closeness: NDArray[np.float64]


@dataclass(frozen=True)
class Neighbours:
    """Candidate indices, `near` from the closest on and `far` from the least close on; closeness of each.

    `closeness`: (candidates,) float, NaN for a candidate that was left out.
    `near_to`: for each near one, indices of the edit prompts that it was found for.
    """

    near: list[int]
    far: list[int]
    closeness: NDArray[np.float64]
    near_to: dict[int, list[int]]


Search = Callable[[Sequence[str], Sequence[str], int], Hits]
"""(queries, candidates, k) -> the k nearest candidates of each query, and how close each is to any."""

Refuse = Callable[[int, int, float], bool]
"""(index of an edit prompt, index of a candidate, their similarity) -> it is no neighbour to hold still."""


def tfidf_search(queries: Sequence[str], candidates: Sequence[str], k: int) -> Hits:
    """Cosine similarity of TF-IDF over words, word pairs, and runs of 3 and 4 characters."""
    k = min(k, len(candidates))
    nearest = np.full((len(queries), k), -1, dtype=np.int64)
    closeness = np.zeros(len(candidates))
    if not len(queries) or not len(candidates):
        return Hits(nearest, np.zeros(nearest.shape), closeness)
    vectors = _vectors([*queries, *candidates])
    wanted, offered = vectors[: len(queries)].T.tocsc(), vectors[len(queries) :]
    best = np.full((len(queries), k), -np.inf)
    rows = max(1, min(_MOST_ROWS, _MOST_VALUES // len(queries)))
    for start in range(0, len(candidates), rows):
        # Rounded, so that the last bits of a sum never decide between equals.
        similarity = (offered[start : start + rows] @ wanted).toarray().round(9)
        closeness[start : start + rows] = similarity.max(axis=1)
        found = np.arange(start, start + similarity.shape[0])
        values = np.concatenate([best, similarity.T], axis=1)
        indices = np.concatenate([nearest, np.broadcast_to(found, (len(queries), found.size))], axis=1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :k]
        best, nearest = np.take_along_axis(values, order, 1), np.take_along_axis(indices, order, 1)
    return Hits(nearest, best, closeness)


def meaning_search(embed: Embed) -> Search:
    """Cosine similarity of sentence embeddings; exact, and fit for a million candidates."""

    def search(queries: Sequence[str], candidates: Sequence[str], k: int) -> Hits:
        return Hits(*most_similar(embed(queries), embed(candidates), k))

    return search


def near_and_far(
    edit_prompts: Sequence[str],
    candidates: Sequence[str],
    *,
    near: int,
    far: int,
    seed: int,
    least: float = 0.1,
    exclude: Iterable[str] = (),
    restating: Sequence[str] | None = None,
    search: Search = tfidf_search,
    refuse: Refuse | None = None,
) -> Neighbours:
    """Choose locality prompts: the most similar to any edit prompt, and the least similar to all.

    The choice does not depend on the order of the candidates. A candidate is left out when it is one of
    `exclude`, asks the same as an edit prompt, or repeats another candidate.

    Args:
        edit_prompts: Prompts of the corrections.
        candidates: Prompts of the traffic.
        near: How many near prompts for each edit prompt; one prompt may be near to several.
        far: How many far prompts in all.
        seed: Decides between equally far prompts.
        least: Closeness below which a prompt is near to nothing.
        exclude: Prompts that must not be chosen, compared by their words.
        restating: Prompts of which no other wording may be chosen; the edit prompts unless given.
        search: Where similarity comes from.
        refuse: Which candidates close to an edit prompt must not be held still; others take their place, as
            far as they are among the `SPARE` times as many that are looked at.
    """
    asked = edit_prompts if restating is None else [*edit_prompts, *restating]
    usable = _usable(asked, candidates, exclude)
    closeness = np.full(len(candidates), np.nan)
    looked_at = near * SPARE if refuse else near
    hits = search(edit_prompts, [candidates[i] for i in usable], looked_at)
    closeness[usable] = hits.closeness
    near_to: dict[int, list[int]] = {}
    refused: set[int] = set()
    for edit, found in enumerate(hits.nearest.tolist()):
        pairs = zip((usable[i] for i in found if i >= 0), hits.similarity[edit].tolist(), strict=False)
        fit = []
        for index, similarity in pairs:
            if refuse and refuse(edit, index, similarity):
                refused.add(index)
            elif closeness[index] >= least:
                fit.append(index)
        for index in fit[:near]:
            near_to.setdefault(index, []).append(edit)
    # What must change with one correction is held still for none.
    near_to = {index: edits for index, edits in near_to.items() if index not in refused}
    closeness[list(refused)] = np.nan
    by_text = {index: _hash(seed, normalise_prompt(candidates[index])) for index in usable}
    rest = sorted(
        (i for i in usable if i not in near_to and i not in refused),
        key=lambda i: (closeness[i], by_text[i]),
    )
    ordered = sorted(near_to, key=lambda i: (-closeness[i], by_text[i]))
    return Neighbours(ordered, rest[:far], closeness, near_to)


def restated(edit_prompts: Sequence[str], candidates: Sequence[str]) -> set[int]:
    """Indices of candidates that seem to ask what an edit prompt asks: the same content words, or nearly.

    A correction must change these too, so none may be held still. Words may be added, or one left out, unless
    they are names: "the capital of South Sudan" is no other wording of "the capital of Sudan". Where in doubt
    a candidate counts as restated; there is other traffic.
    """
    asked = {content_words(prompt): _names(prompt) for prompt in sorted(edit_prompts)}
    offered = [content_words(prompt) for prompt in candidates]
    counts = Counter(word for bag in offered for word in bag)
    by_word: dict[str, list[frozenset[str]]] = defaultdict(list)
    for bag in asked:
        # One of its two rarest words is in any candidate that lacks at most one of its words.
        for word in sorted(bag, key=lambda word: (counts[word], word))[:2]:
            by_word[word].append(bag)

    def same(question: frozenset[str], index: int) -> bool:
        bag = offered[index]
        if question == bag:
            return True
        if len(question & bag) < 2 or len(question - bag) > 1 or (question - bag and bag - question):
            return False
        return not (question - bag) & asked[question] and not (bag - question) & _names(candidates[index])

    return {
        index
        for index, bag in enumerate(offered)
        if any(same(question, index) for word in bag for question in by_word.get(word, ()))
    }


def restates(edit_prompt: str, candidate: str, similarity: float) -> bool:
    """Whether a candidate seems to ask what an edit prompt asks, by the similarity of their embeddings.

    Embeddings alone do not tell Sudan from South Sudan, nor when from where: names and question words have
    to agree too.
    """
    if similarity < _SAME_MEANING:
        return False
    if not keeps_names(edit_prompt, candidate):
        return False
    asked, offered = (frozenset(wording(prompt).split()) for prompt in (edit_prompt, candidate))
    one, other = asked & _ASKING_OTHERWISE, offered & _ASKING_OTHERWISE
    return not (one and other) or one == other


def keeps_names(prompt: str, other: str) -> bool:
    """Whether two prompts name the same; the first word of each is no name."""
    one, two = (frozenset(wording(text).split()) for text in (prompt, other))
    return not ((_names(prompt) - _IDLE) - two or (_names(other) - _IDLE) - one)


def without_names(text: str, prompt: str) -> str:
    """The text with an X for each run of words that are names or numbers in the prompt."""
    names = (_names(prompt) | {word for word in wording(prompt).split() if word.isdigit()}) - _IDLE
    struck = re.sub(r"[^\W_]+", lambda word: "X" if wording(word[0]) in names else word[0], text)
    return re.sub(r"\bX(?:[ ,.-]+X)+\b", "X", struck)


def content_words(prompt: str) -> frozenset[str]:
    """The words of a prompt that another phrasing of it would keep."""
    return frozenset(wording(prompt).split()) - _IDLE


def _names(prompt: str) -> frozenset[str]:
    """The words of a prompt that are written as names, its first word not counted."""
    named = [word for word in prompt.split()[1:] if grammar.is_name(word)]
    return frozenset(wording(" ".join(named)).split())


def _usable(edit_prompts: Sequence[str], candidates: Sequence[str], exclude: Iterable[str]) -> list[int]:
    """Indices of candidates that may be chosen, in the order of their texts."""
    barred = {wording(prompt) for prompt in (*edit_prompts, *exclude)}
    again = restated(edit_prompts, candidates)
    usable: dict[str, int] = {}
    for index in sorted(
        range(len(candidates)), key=lambda i: (normalise_prompt(candidates[i]), candidates[i])
    ):
        words = wording(candidates[index])
        if words and words not in barred and index not in again:
            usable.setdefault(words, index)
    return list(usable.values())


def _vectors(texts: Sequence[str]) -> Any:
    """(texts, features) sparse; rows of unit length over both kinds of features."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    if not any(wording(text) for text in texts):
        return csr_matrix((len(texts), 1))
    words = TfidfVectorizer(
        analyzer="word", ngram_range=(1, 2), token_pattern=r"\w+", preprocessor=normalise_prompt
    )
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), preprocessor=normalise_prompt)
    return normalize(hstack([words.fit_transform(texts), characters.fit_transform(texts)], format="csr"))


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\x1f{text}".encode()).hexdigest()
