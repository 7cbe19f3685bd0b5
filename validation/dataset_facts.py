"""What the data gate looks at: one row of plain facts for every row of an edit dataset."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from validation.flooding import new_of_reporter
from validation.instructions import instruction
from validation.leaks import leak
from validation.limits import DataLimits
from validation.matching import answers, normalise_answer, same_answer
from validation.payloads import link, markup, unseen

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
    "active",
    "approved",
    "answered",
    "rivals",
)
LOCALITY_COLUMNS = ("id", "prompt", "reference", "confirmed", "kind", "role", "chat")

_EDIT_FACTS = {
    "id": "object",
    "prompt_characters": "int64",
    "target_characters": "int64",
    "target_words": "int64",
    "chat": "object",
    "target_is_wrong_output": "bool",
    "wrong_output_gives_target": "bool",
    "duplicate_of": "object",
    "conflicts_with": "object",
    "taught_otherwise_by": "object",
    "held_out_leak": "object",
    "blank_phrasings": "int64",
    "equivalents": "int64",
    "held_out": "int64",
    "sources": "int64",
    "prompt_instruction": "object",
    "prompt_unseen": "object",
    "phrasing_fault": "object",
    "target_instruction": "object",
    "target_unseen": "object",
    "target_markup": "object",
    "target_link": "object",
    "target_leak": "object",
    "new_of_reporter": "int64",
    "active": "bool",
    "approved": "bool",
}
_FAULTS = (
    "prompt_instruction",
    "prompt_unseen",
    "phrasing_fault",
    "target_instruction",
    "target_unseen",
    "target_markup",
    "target_link",
    "target_leak",
)
_LOCALITY_FACTS = {
    "prompt_characters": "int64",
    "prompt_instruction": "object",
    "prompt_unseen": "object",
    "reference": "object",
    "kind": "object",
    "role": "object",
    "chat": "object",
    "confirmed": "object",
    "must_change_for": "object",
    "editor_saw": "object",
    "duplicate_of": "object",
}


def edit_facts(
    edits: pd.DataFrame, limits: DataLimits | None = None, redact: Callable[[str], str] = str
) -> pd.DataFrame:
    """Facts of the edits frame, in its order; what they quote of a text is redacted."""
    limits = limits or DataLimits()
    rows = list(edits[list(EDIT_COLUMNS)].itertuples(index=False))
    firsts: dict[tuple[str, bool], tuple[str, str]] = {}
    targets: dict[tuple[str, bool], dict[str, str]] = {}
    given: dict[str, str] = {}
    stands = [bool(row.active) or bool(_text(row.approved)) for row in rows]
    alone = new_of_reporter(reporters_of(edits), stands, [bool(row.answered) for row in rows])
    for row in rows:
        prompt, target = _text(row.prompt), _text(row.target)
        key = (_prompt_key(prompt), _is_chat(row.chat))
        targets.setdefault(key, {}).setdefault(normalise_answer(target), str(row.id))
        for phrasing in (prompt, *_texts(row.equivalents)):
            given.setdefault(normalise_answer(phrasing), str(row.id))
    facts = []
    for row, of_reporter in zip(rows, alone, strict=True):
        prompt, target = _text(row.prompt), _text(row.target)
        # As much of it as can be a target.
        wrong_output = _text(row.wrong_output)[: limits.prompt_characters]
        key, answer = (_prompt_key(prompt), _is_chat(row.chat)), normalise_answer(target)
        other = next((owner for said, owner in targets[key].items() if said != answer), None)
        equivalents, held_out = _texts(row.equivalents), _texts(row.held_out)
        chat = _is_chat(row.chat)
        asked = prompt if len(prompt) <= limits.prompt_characters else ""
        said = target if asked and len(target) <= limits.target_characters else ""
        faults = (
            f"{redact(phrasing)[:80]!r} {fault}"
            for phrasing in (*equivalents, *held_out)
            if (fault := phrasing_fault(phrasing, chat=chat, limits=limits))
        )
        leaks = (
            f"{redact(phrasing)[:80]!r} ({given[normalise_answer(phrasing)]})"
            for phrasing in held_out
            if phrasing.strip() and normalise_answer(phrasing) in given
        )
        facts.append(
            {
                "id": _text(row.id).strip() or None,
                "prompt_characters": len(prompt.strip()),
                "target_characters": len(target.strip()),
                "target_words": len(target.split()),
                "chat": _stated(row.chat),
                "target_is_wrong_output": bool(target.strip()) and same_answer(target, wrong_output),
                "wrong_output_gives_target": answers(wrong_output, said),
                "duplicate_of": firsts[key][0] if key in firsts and firsts[key][1] == answer else None,
                "conflicts_with": other,
                "held_out_leak": next(leaks, None),
                "blank_phrasings": sum(not phrasing.strip() for phrasing in equivalents + held_out),
                "equivalents": len(equivalents),
                "held_out": len(held_out),
                "sources": sum(bool(source.strip()) for source in _texts(row.sources)),
                "prompt_instruction": instruction(asked, chat=chat) or None,
                "prompt_unseen": unseen(asked) or None,
                "phrasing_fault": next(faults, None),
                "target_instruction": instruction(said, chat=chat, answer=True) or None,
                "target_unseen": unseen(said) or _lost(said) or None,
                "target_markup": markup(said, asked) or None,
                "target_link": link(said, asked) or None,
                "target_leak": leak(said, asked) or None,
                "new_of_reporter": of_reporter,
                "active": bool(row.active),
                "approved": bool(_text(row.approved)),
            }
        )
        firsts.setdefault(key, (str(row.id), answer))
    for fact, rival in zip(facts, _taught_otherwise(rows, facts), strict=True):
        fact["taught_otherwise_by"] = None if fact["conflicts_with"] else rival
    return _typed(_redacted(facts, redact), _EDIT_FACTS)


def phrasing_fault(phrasing: str, *, chat: bool, limits: DataLimits | None = None) -> str:
    """Why another phrasing of a prompt must not be taught ("holds ..."); empty if it may."""
    most = (limits or DataLimits()).prompt_characters
    if len(phrasing) > most:
        return f"is longer than {most} characters"
    held = instruction(phrasing, chat=chat) or unseen(phrasing)
    return f"holds {held}" if held else ""


def locality_facts(
    locality: pd.DataFrame,
    edits: pd.DataFrame,
    limits: DataLimits | None = None,
    redact: Callable[[str], str] = str,
) -> pd.DataFrame:
    """Facts of the locality frame beside the edits it goes with, in its order, redacted."""
    most = (limits or DataLimits()).prompt_characters
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
        asked = _text(row.prompt) if len(_text(row.prompt)) <= most else ""
        facts.append(
            {
                "prompt_characters": len(_text(row.prompt).strip()),
                "prompt_instruction": instruction(asked, chat=_is_chat(row.chat)) or None,
                "prompt_unseen": unseen(asked) or None,
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
    return _typed(_redacted(facts, redact), _LOCALITY_FACTS)


def _redacted(facts: list[dict[str, Any]], redact: Callable[[str], str]) -> list[dict[str, Any]]:
    """The facts with what they quote redacted; what tells a row from others stays."""
    quoting = {*_FAULTS, "held_out_leak", "reference"}
    return [
        {name: redact(one) if name in quoting and one else one for name, one in fact.items()}
        for fact in facts
    ]


def _taught_otherwise(rows: Sequence[Any], facts: Sequence[dict[str, Any]]) -> list[str | None]:
    """For each row, a rival that it gives way to.

    Both do, unless a person chose one (the last choice counts) or else one is active.

    What is to be set aside for what it holds takes nothing with it.
    """
    rank = {str(row.id): (_text(row.approved), bool(row.active)) for row in rows}
    faulty = {str(row.id) for row, fact in zip(rows, facts, strict=True) if any(fact[f] for f in _FAULTS)}
    rivals = {id_: own for id_, own in rank.items() if any(own) or id_ not in faulty}
    return [
        next(
            (
                rival
                for rival in _texts(row.rivals)
                if rival in rivals and (rivals[rival] > rank[str(row.id)] or not any(rank[str(row.id)]))
            ),
            None,
        )
        for row in rows
    ]


def reporters_of(edits: pd.DataFrame) -> list[list[str]]:
    """Who reported each edit."""
    return [_texts(names) for names in edits["reporters"]]


def _lost(text: str) -> str:
    return "the sign for a character that was lost (U+FFFD)" if "\ufffd" in text else ""


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
