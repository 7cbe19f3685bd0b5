"""Where a request's subject ends: the position at which ROME, MEMIT and AlphaEdit write.

A subject that is not given is found by these rules, in order; the first that finds anything decides:

1. quoted text in the prompt;
2. capitalised or numbered words but "I", joined over particles ("Gulf of Oran"), the prompt's first word
   alone only where the other requests do not begin with it;
3. words that no other request's prompt has.

Within a rule, words that all equivalents share come first, then words of this request alone, then the longest
run, then the last one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from editors.requests import EditRequest, Example, encode, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUOTED = re.compile(
    r"“([^”]+)”|«([^»]+)»|„([^“”]+)[“”]|「([^」]+)」|\"([^\"]+)\"|(?<!\w)['‘]([^'’]+)['’](?!\w)"
)
# A word with its inner hyphens, points and apostrophes, but without an English possessive's.
_WORD = re.compile(r"[^\W_]+(?:[-.][^\W_]+|['’](?!s\b)[^\W_]+)*")
# English has a capital for who speaks: "How do I ..." is about no I, as "Where did Francis I ..." is.
_SPEAKER = re.compile(r"I(?:['’](?:m|d|ll|ve))?")
# With these a question or a request begins, and none is what it is about.
_OPENERS = {"am", "and", "are", "as", "but", "can", "could", "describe", "did", "do", "does", "explain"}
_OPENERS |= {
    "give",
    "had",
    "has",
    "have",
    "how",
    "if",
    "is",
    "list",
    "may",
    "might",
    "must",
    "name",
    "please",
}
_OPENERS |= {"say", "shall", "should", "so", "tell", "that", "was", "were", "what", "when", "where", "which"}
_OPENERS |= {"who", "whose", "why", "will", "would", "write"}
_PARTICLES = {"of", "the", "de", "da", "do", "dos", "das", "del", "della", "di", "du", "des", "d", "am"}
_PARTICLES |= {"la", "le", "las", "los", "al", "el", "von", "van", "der", "den"}


@dataclass(frozen=True)
class Placed:
    """An example, and the index among its tokens of the last one of its subject."""

    example: Example
    position: int


def find_subjects(requests: Sequence[EditRequest]) -> list[str]:
    """The subject of every request: the given one, else found by the rules above.

    Raises:
        ValueError: a given subject is not in its prompt, or none can be found; the prompt is named.
    """
    result = []
    for subject, fault in _looked_for(requests):
        if subject is None:
            raise ValueError(fault)
        result.append(subject)
    return result


def with_subjects(
    requests: Sequence[EditRequest],
) -> tuple[list[EditRequest], list[tuple[EditRequest, str]]]:
    """The requests for which there is a subject, each with it, and the others with the reason.

    It is the one given, or is found among all of the requests, as by `find_subjects`.
    """
    found, without = [], []
    for request, (subject, fault) in zip(requests, _looked_for(requests), strict=True):
        if subject is None:
            without.append((request, fault))
        else:
            found.append(replace(request, subject=subject))
    return found, without


def with_any_subjects(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """The requests, each with its subject as by `with_subjects`; where there is none, its prompt's last word.

    At its last word a model has read all of a prompt. A prompt without words is left as it is.
    """
    result = []
    for request, (subject, _) in zip(requests, _looked_for(requests), strict=True):
        words = [match.group() for match in _WORD.finditer(request.prompt)]
        result.append(replace(request, subject=subject or next(reversed(words), None)))
    return result


def _looked_for(requests: Sequence[EditRequest]) -> Iterator[tuple[str | None, str]]:
    """For every request its subject, or None and why there is none."""
    in_prompts = Counter(word for r in requests for word in set(_folded(r.prompt)))
    for request in requests:
        if request.subject is None:
            yield (
                _find(request, in_prompts, len(requests)),
                f"no subject was found in the prompt {request.prompt[:80]!r}: give its `subject`, the words "
                "of the prompt that the correction is about",
            )
        elif subject_span(request.prompt, request.subject) is None:
            yield (
                None,
                f"the subject {request.subject!r} is not in its prompt {request.prompt[:80]!r}: give it in "
                "the prompt's own words",
            )
        else:
            yield request.subject, ""


def subject_span(text: str, subject: str) -> tuple[int, int] | None:
    """Characters of the last occurrence of `subject` in `text`, whole words and exact case first."""
    words = r"\s+".join(re.escape(word) for word in subject.split())
    if not words:
        return None
    for pattern, flags in (
        (rf"(?<!\w){words}(?!\w)", 0),
        (rf"(?<!\w){words}(?!\w)", re.IGNORECASE),
        (words, 0),
        (words, re.IGNORECASE),
    ):
        found = [match.span() for match in re.finditer(pattern, text, flags)]
        if found:
            return found[-1]
    return None


def place(
    tokenizer: PreTrainedTokenizerBase, prompt: str, target: str, subject: str, *, chat: bool
) -> Placed | None:
    """The encoded prompt and target with the subject's last token, or None where the prompt lacks it."""
    if subject_span(prompt, subject) is None:
        return None
    rendered = render(tokenizer, prompt, chat=chat)
    # Some templates strip what a user wrote; their own words around it are not searched.
    inner = prompt if prompt in rendered else prompt.strip()
    start = max(rendered.rfind(inner), 0)
    span = subject_span(rendered[start : start + len(inner)], subject)
    if span is None:
        return None
    example = encode(tokenizer, prompt, target, chat=chat)
    return Placed(example, _token_at(tokenizer, rendered, start + span[1], example.prompt_ids, chat=chat))


def _token_at(
    tokenizer: PreTrainedTokenizerBase, text: str, end: int, ids: Sequence[int], *, chat: bool
) -> int:
    """Index of the last token with a part of the character before `end`."""
    if tokenizer.is_fast:
        offsets = tokenizer(text, add_special_tokens=not chat, return_offsets_mapping=True)["offset_mapping"]
        covering = [i for i, (first, last) in enumerate(offsets) if first < end <= last]
        if covering:
            return covering[-1]
    # Without offsets: the shortest beginning that reads as far as the subject's end, spaces aside.
    wanted, subject_end = _squeezed(text[:end]), 0
    while subject_end < len(ids):
        subject_end += 1
        read = _squeezed(str(tokenizer.decode(ids[:subject_end], clean_up_tokenization_spaces=False)))
        if wanted in read:
            return subject_end - 1
    raise ValueError(
        f"the tokens of {text!r} do not read as its text, so a subject cannot be placed in it; "
        "use the model's fast tokenizer"
    )


def _find(request: EditRequest, in_prompts: Counter[str], requests: int) -> str | None:
    prompt = request.prompt
    quoted = [next(g for g in m.groups() if g).strip() for m in _QUOTED.finditer(prompt)]
    quoted = [text for text in quoted if text]
    if quoted:
        shared = [text for text in quoted if _in_all(text, request.equivalents)]
        return (shared or quoted)[-1]
    words = list(_WORD.finditer(prompt))
    folded = [word.group().casefold() for word in words]
    equivalents = [set(_folded(text)) for text in request.equivalents]
    shared_words = [all(word in other for other in equivalents) for word in folded]
    own = [in_prompts[word] == 1 and requests > 1 for word in folded]
    named = [
        (word.group()[0].isupper() and not _is_speaker(words, index))
        or any(c.isdigit() for c in word.group())
        for index, word in enumerate(words)
    ]
    # A sentence begins with a capital whatever its first word is.
    telling_first = bool(words) and folded[0] not in _OPENERS
    telling_first = telling_first and (own[0] or (bool(equivalents) and shared_words[0]))
    for rule, marks in (("named", named), ("own", own)):
        if equivalents and any(m and s for m, s in zip(marks, shared_words, strict=True)):
            marks = [m and s for m, s in zip(marks, shared_words, strict=True)]
        spans = _spans(marks, folded)
        spans = [s for s in spans if s != (0, 0) or telling_first]
        if spans and (rule == "named" or spans[-1] != (0, len(words) - 1)):
            first, last = max(spans, key=lambda s: (any(own[s[0] : s[1] + 1]), s[1] - s[0], s[1]))
            return prompt[words[first].start() : words[last].end()]
    return None


def _is_speaker(words: Sequence[re.Match[str]], index: int) -> bool:
    """Whether a word is the English pronoun, and not a king's numeral."""
    if not _SPEAKER.fullmatch(words[index].group()):
        return False
    before = words[index - 1].group() if index else ""
    return not before[:1].isupper() or before.casefold() in _OPENERS


def _spans(marks: Sequence[bool], words: Sequence[str]) -> list[tuple[int, int]]:
    """Runs (first, last) of marked words, joined over at most two particles between them."""
    spans: list[tuple[int, int]] = []
    for index, marked in enumerate(marks):
        if not marked:
            continue
        gap = words[spans[-1][1] + 1 : index] if spans else None
        if gap is not None and len(gap) <= 2 and all(word in _PARTICLES for word in gap):
            spans[-1] = (spans[-1][0], index)
        else:
            spans.append((index, index))
    return spans


def _folded(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _in_all(text: str, others: Sequence[str]) -> bool:
    return all(subject_span(other, text) is not None for other in others)


def _squeezed(text: str) -> str:
    return "".join(text.split()).casefold()
