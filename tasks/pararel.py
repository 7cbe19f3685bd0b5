"""ParaRel: relations as several cloze patterns, and tuples of subject and object."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.records import UserError

_NEIGHBOURS = 4
_SUBJECT, _OBJECT = "[X]", "[Y]"


def read_pararel(folder: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(place, fields or the reason there are none) of every tuple of every relation.

    Only patterns that end with the object make prompts. One of them, by the tuple's digest, gives the prompt,
    the others the rephrasings; locality is the same pattern with other subjects that have another object.

    Raises:
        UserError: no relation has both patterns that end with the object and tuples.
    """
    files = [path for path in sorted((folder / "tuples").glob("*.jsonl")) if _patterns(folder, path.name)]
    if not files:
        raise UserError(
            f"no relation in {folder} has patterns that end with [Y] and tuples; check both folders"
        )
    for path in files:
        yield from _relation(path, _patterns(folder, path.name))


def _patterns(folder: Path, name: str) -> list[str]:
    """Beginnings of the patterns that end with the object, without it."""
    path = folder / "patterns" / name
    if not path.exists():
        return []
    texts = [entry["pattern"] for _, entry in _lines(path) if isinstance(entry, dict) and "pattern" in entry]
    starts = [re.sub(r"[\s.,;!?]+$", "", text) for text in texts]
    return [
        text.removesuffix(_OBJECT).rstrip()
        for text in dict.fromkeys(starts)
        if text.endswith(_OBJECT) and text.count(_OBJECT) == 1 and _SUBJECT in text
    ]


def _relation(path: Path, patterns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any] | str]]:
    rows = list(_lines(path))
    facts = [
        (entry["sub_label"], entry["obj_label"])
        for _, entry in rows
        if isinstance(entry, dict) and _is_text(entry, "sub_label") and _is_text(entry, "obj_label")
    ]
    position = -1
    for place, entry in rows:
        if isinstance(entry, str):
            yield place, entry
            continue
        if (
            not isinstance(entry, dict)
            or not _is_text(entry, "sub_label")
            or not _is_text(entry, "obj_label")
        ):
            yield place, "it lacks sub_label or obj_label; complete the tuple"
            continue
        position += 1
        yield place, _fields(facts, position, patterns)


def _fields(facts: Sequence[tuple[str, str]], position: int, patterns: Sequence[str]) -> dict[str, Any] | str:
    subject, target = facts[position]
    fitting = [pattern for pattern in patterns if _article_fits(pattern, target)]
    if not fitting:
        return "no pattern of its relation fits its object; add one that ends with [Y]"
    first = int(hashlib.sha256(f"{subject}\x1f{target}".encode()).hexdigest(), 16) % len(fitting)
    ahead = [facts[(position + step) % len(facts)] for step in range(1, min(len(facts), 50))]
    others = [other for other, value in ahead if value != target and other != subject]
    return {
        "prompt": _filled(fitting[first], subject),
        "target": target,
        "rephrases": [_filled(text, subject) for i, text in enumerate(fitting) if i != first],
        "locality": [_filled(fitting[first], other) for other in others[:_NEIGHBOURS]],
        "subject": subject,
    }


def _filled(pattern: str, subject: str) -> str:
    text = pattern.replace(_SUBJECT, subject)
    # Patterns begin in lower case where the sentence does not: "the occupation of [X] is".
    return text if pattern.startswith(_SUBJECT) else text[:1].upper() + text[1:]


def _article_fits(pattern: str, target: str) -> bool:
    last = pattern.split()[-1]
    vowel = target[:1].lower() in set("aeiou")
    return not ((last == "a" and vowel) or (last == "an" and not vowel))


def _is_text(entry: dict[str, Any], key: str) -> bool:
    return isinstance(entry.get(key), str) and bool(entry[key].strip())


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            place = f"{path.parent.name}/{path.name}:{number}"
            try:
                yield place, json.loads(line)
            except json.JSONDecodeError as error:
                yield place, f"not valid JSON ({error.msg} at column {error.colno}); mend the line"
