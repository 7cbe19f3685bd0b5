"""What the data gate looks at: one row of plain facts for every row of an edit dataset."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from validation.matching import answers, normalise_answer, same_answer

EDIT_COLUMNS = (
    "id",
    "prompt",
    "target",
    "wrong_output",
    "subject",
    "chat",
    "equivalents",
    "held_out",
    "reports",
    "reporters",
    "sources",
)
LOCALITY_COLUMNS = ("id", "prompt", "reference", "confirmed", "kind", "role", "chat")

_EDIT_FACTS = {
    "id": "object",
    "prompt_characters": "int64",
    "target_words": "int64",
    "chat": "object",
    "target_is_wrong_output": "bool",
    "wrong_output_gives_target": "bool",
    "duplicate_of": "object",
    "conflicts_with": "object",
    "held_out_leak": "object",
    "blank_phrasings": "int64",
    "equivalents": "int64",
    "held_out": "int64",
    "sources": "int64",
}
_LOCALITY_FACTS = {
    "prompt_characters": "int64",
    "reference": "object",
    "kind": "object",
    "role": "object",
    "chat": "object",
    "confirmed": "object",
    "must_change_for": "object",
    "editor_saw": "object",
    "duplicate_of": "object",
}


@dataclass(frozen=True)
class DataLimits:
    """Lengths beyond which a row is set aside, and rows below which there is nothing to go on with."""

    prompt_characters: int = 4000
    target_words: int = 64
    minimum_edits: int = 1
    minimum_gate_locality: int = 20


def edit_facts(edits: pd.DataFrame) -> pd.DataFrame:
    """Facts of the edits frame, in its order."""
    rows = list(edits[list(EDIT_COLUMNS)].itertuples(index=False))
    firsts: dict[tuple[str, bool], tuple[str, str]] = {}
    targets: dict[tuple[str, bool], dict[str, str]] = {}
    given: dict[str, str] = {}
    for row in rows:
        prompt, target = _text(row.prompt), _text(row.target)
        key = (_prompt_key(prompt), _is_chat(row.chat))
        targets.setdefault(key, {}).setdefault(normalise_answer(target), str(row.id))
        for phrasing in (prompt, *_texts(row.equivalents)):
            given.setdefault(normalise_answer(phrasing), str(row.id))
    facts = []
    for row in rows:
        prompt, target, wrong_output = _text(row.prompt), _text(row.target), _text(row.wrong_output)
        key, answer = (_prompt_key(prompt), _is_chat(row.chat)), normalise_answer(target)
        other = next((owner for said, owner in targets[key].items() if said != answer), None)
        equivalents, held_out = _texts(row.equivalents), _texts(row.held_out)
        leaks = (
            f"{phrasing!r} ({given[normalise_answer(phrasing)]})"
            for phrasing in held_out
            if phrasing.strip() and normalise_answer(phrasing) in given
        )
        facts.append(
            {
                "id": _text(row.id).strip() or None,
                "prompt_characters": len(prompt.strip()),
                "target_words": len(target.split()),
                "chat": _stated(row.chat),
                "target_is_wrong_output": bool(target.strip()) and same_answer(target, wrong_output),
                "wrong_output_gives_target": answers(wrong_output, target),
                "duplicate_of": firsts[key][0] if key in firsts and firsts[key][1] == answer else None,
                "conflicts_with": other,
                "held_out_leak": next(leaks, None),
                "blank_phrasings": sum(not phrasing.strip() for phrasing in equivalents + held_out),
                "equivalents": len(equivalents),
                "held_out": len(held_out),
                "sources": sum(bool(source.strip()) for source in _texts(row.sources)),
            }
        )
        firsts.setdefault(key, (str(row.id), answer))
    return _typed(facts, _EDIT_FACTS)


def locality_facts(locality: pd.DataFrame, edits: pd.DataFrame) -> pd.DataFrame:
    """Facts of the locality frame beside the edits it goes with, in its order."""
    must_change: dict[tuple[str, bool], str] = {}
    for edit in edits[list(EDIT_COLUMNS)].itertuples(index=False):
        for phrasing in (_text(edit.prompt), *_texts(edit.equivalents), *_texts(edit.held_out)):
            must_change.setdefault((normalise_answer(phrasing), _is_chat(edit.chat)), str(edit.id))
    rows = list(locality[list(LOCALITY_COLUMNS)].itertuples(index=False))
    keys = [(normalise_answer(_text(row.prompt)), _is_chat(row.chat)) for row in rows]
    editor_saw = {key: str(row.id) for key, row in zip(keys, rows, strict=True) if row.role == "editor"}
    firsts: dict[tuple[tuple[str, bool], Any], int] = {}
    facts = []
    for position, (key, row) in enumerate(zip(keys, rows, strict=True)):
        first = firsts.setdefault((key, row.role), position)
        facts.append(
            {
                "prompt_characters": len(_text(row.prompt).strip()),
                "reference": row.reference if isinstance(row.reference, str) else None,
                "kind": _stated(row.kind),
                "role": _stated(row.role),
                "chat": _stated(row.chat),
                "confirmed": _stated(row.confirmed),
                "must_change_for": must_change.get(key),
                "editor_saw": editor_saw.get(key) if row.role == "gate" else None,
                "duplicate_of": None if first == position else f"row {first}",
            }
        )
    return _typed(facts, _LOCALITY_FACTS)


def _typed(facts: list[dict[str, Any]], types: dict[str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(facts, columns=list(types)).astype(types)
    objects = [column for column, type_ in types.items() if type_ == "object"]
    # One kind of missing: None, NaN and NA from other files all become None.
    frame[objects] = frame[objects].where(frame[objects].notna(), None)
    return frame


def _stated(value: Any) -> Any:
    """The value, a missing one by name: an expectation of set membership passes over missing values."""
    return "missing" if value is None or value is pd.NA or value != value else value


def _is_chat(value: Any) -> bool:
    return _stated(value) == "missing" or bool(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(values: Any) -> list[str]:
    """The texts of a list column; parquet gives arrays, other files lists or nothing."""
    return list(_strings(values)) if isinstance(values, Iterable) and not isinstance(values, str) else []


def _strings(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        yield _text(value)


def _prompt_key(prompt: str) -> str:
    """Two prompts with the same key are the same question, as in the ledger."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())
