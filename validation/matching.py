"""How an answer is judged: on normalised words, so that case, accents and punctuation do not count."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from functools import lru_cache

import regex

ARTICLES = frozenset({"a", "an", "the"})

# Scripts written without spaces: every character is a word.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"

_IGNORABLE = regex.compile(r"\p{Cf}|['‘’ʼ`]")
_DIACRITICS = regex.compile(r"[\u0300-\u036f]")
_THOUSANDS = regex.compile(r"(?<=\p{Nd}),(?=\p{Nd}{3}(?!\p{Nd}))")
# A number keeps its sign and decimals: 3.14 does not answer 3, nor -5 answer 5. A plus or sharp at the end of
# a word belongs to it (C++, A+), and a currency or per cent sign changes what a number means.
_WORDS = regex.compile(
    r"""
      (?:(?<![\p{L}\p{M}\p{N})\]])-)?\p{N}+(?:[.,]\p{N}+)*[\p{L}\p{M}\p{N}]*
    | \p{Unspaced}\p{M}*
    | (?:(?!\p{Unspaced})[\p{L}\p{M}\p{N}])+(?:[+\#]+(?![\p{L}\p{N}]))?
    | [%\p{Sc}]
    """.replace(r"\p{Unspaced}", f"[{UNSPACED}]"),
    regex.VERBOSE,
)


@lru_cache(maxsize=4096)
def normalise_answer(text: str) -> str:
    """The words of a text: NFKC, case-folded, accents folded, without punctuation and articles.

    An article counts as one only before another word: the A of "vitamin A" stays.
    """
    return " ".join(_without_articles(_words(text)))


def answers(output: str, target: str, wrong_output: str = "") -> bool:
    """Whether the output gives the target: its words stand in a row in the output's words.

    An output that still holds the wrong output is no answer, unless the target holds it too. A target
    without words (a sign, an emoji) is looked for as it stands; an empty one is never given.
    """
    if wrong_output.strip() and _holds(output, wrong_output) and not _holds(target, wrong_output):
        return False
    return _holds(output, target)


def starts_with(output: str, target: str) -> bool:
    """Whether the output's first words are the target's."""
    wanted = _without_articles(_words(target))
    if not wanted:
        return bool(target.strip()) and output.strip().startswith(target.strip())
    return _run_ends(_words(output), wanted, 0) is not None


def words_through(output: str, target: str) -> int | None:
    """How many of the output's words there are to the end of the target; None where it is not given.

    Words are those of `normalise_answer`.
    """
    words, wanted = normalise_answer(output).split(), normalise_answer(target).split()
    ends = range(len(wanted), len(words) + 1)
    return next((end for end in ends if words[end - len(wanted) : end] == wanted), None) if wanted else None


def exact(output: str, target: str) -> bool:
    """Whether the output is the target and nothing else."""
    return bool(target.strip()) and same_answer(output, target)


def matches(output: str, target: str, *, chat: bool, wrong_output: str = "") -> bool:
    """Whether the output is right: in a chat turn it gives the target, in raw text it continues with it."""
    return answers(output, target, wrong_output) and (chat or starts_with(output, target))


def same_answer(output: str, reference: str) -> bool:
    """Whether two generations agree as whole texts, each to its natural stop (locality agreement)."""
    ours, theirs = normalise_answer(output), normalise_answer(reference)
    return ours == theirs if ours or theirs else output.strip() == reference.strip()


def same_meaning(one: str, other: str) -> bool:
    """Whether two targets teach the same answer: one says what the other does, in more words or the same."""
    ours, theirs = normalise_answer(one), normalise_answer(other)
    if not (ours and theirs):
        return one.strip() == other.strip()
    return f" {ours} " in f" {theirs} " or f" {theirs} " in f" {ours} "


def same_opening(output: str, reference: str, words: int = 5) -> bool:
    """Whether two generations begin with the same words (locality agreement, after the field's five tokens).

    Whole texts would mostly compare how long the two ramble on.
    """
    ours, theirs = (normalise_answer(text).split()[:words] for text in (output, reference))
    return ours == theirs if ours or theirs else output.strip() == reference.strip()


def same_substance(output: str, reference: str, prompt: str, words: int = 5, own: int = 3) -> bool:
    """Whether two answers to a prompt begin with the same words, and say the same with them.

    An answer that first repeats the question says nothing of its own in five words. So many more are
    compared as it takes to `own` words that the prompt does not have.
    """
    asked = frozenset(normalise_answer(prompt).split())
    ours, theirs = (_to_own_words(text, asked, words, own) for text in (output, reference))
    return ours == theirs if ours or theirs else output.strip() == reference.strip()


def _to_own_words(text: str, asked: Collection[str], least: int, own: int) -> list[str]:
    words, found = normalise_answer(text).split(), 0
    for place, word in enumerate(words, 1):
        found += word not in asked
        if place >= least and found >= own:
            return words[:place]
    return words


def _words(text: str) -> list[str]:
    for _ in range(2):  # Case folding can leave text that NFKC composes further, and the other way round.
        text = unicodedata.normalize("NFKC", text).casefold()
        text = _DIACRITICS.sub("", unicodedata.normalize("NFKD", text))
        text = unicodedata.normalize("NFKC", text)
    text = _IGNORABLE.sub("", text.replace("\u2212", "-"))
    return _WORDS.findall(_THOUSANDS.sub("", text))


def _without_articles(words: list[str]) -> list[str]:
    last = len(words) - 1
    return [word for place, word in enumerate(words) if place == last or word not in ARTICLES]


def _holds(output: str, target: str) -> bool:
    wanted = _without_articles(_words(target))
    if not wanted:
        return bool(target.strip()) and target.strip() in output
    words = _words(output)
    starts = (place for place, word in enumerate(words) if word == wanted[0])
    return any(_run_ends(words, wanted, start) is not None for start in starts)


def _run_ends(words: list[str], wanted: list[str], start: int) -> int | None:
    """Where the run of wanted words that begins at `start` ends, articles between them skipped."""
    place = start
    for word in wanted:
        while place < len(words) and words[place] != word and words[place] in ARTICLES:
            place += 1
        if place >= len(words) or words[place] != word:
            return None
        place += 1
    return place
