"""Readers of edit data: mendflow's own lines and the public formats, told apart by their keys.

| format | keys |
|---|---|
| mendflow | `prompt, target`, and `rephrases, locality, subject` where there are any |
| zsRE as in MEND | `src, alt, rephrase, loc, subject` |
| CounterFact, flat | `prompt, target_new, subject, rephrase_prompt, locality_prompt` |
| CounterFact as in ROME | `requested_rewrite, paraphrase_prompts, neighborhood_prompts` |
| ParaRel | a folder with `patterns/` and `tuples/` |
| an edit dataset | a folder that `build` wrote |
| prompts without targets, to train on | `prompt`, and `chat` where it is said; or a .txt file, one a line |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editors.requests import EditRequest
from tasks.edit_dataset import EDITS_FILE, EditDataset
from tasks.ledger_rules import too_long
from tasks.pararel import read_pararel
from tasks.records import Rejected, UserError, correction_id, normalise_prompt

_JSON = {".json", ".jsonl"}
_HALF = "half of a surrogate pair, which is no text; write the whole character"
_NQ_PREFIX = "nq question: "
_KNOWN = (
    "give lines of mendflow's own {prompt, target}, zsRE {src, alt}, CounterFact {prompt, target_new} or "
    "{requested_rewrite}, or a ParaRel folder"
)
Record = Mapping[str, Any]


@dataclass(frozen=True)
class _Fields:
    """What any format says about one correction, not yet checked."""

    prompt: Any
    target: Any
    rephrases: Any = None
    locality: Any = None
    subject: Any = None


def read_requests(path: Path, *, chat: bool) -> tuple[list[EditRequest], list[Rejected]]:
    """Read edit data in any known format: a JSON list, JSON lines, or a folder.

    A malformed entry is rejected with its place and reason, so are all that contradict each other; the rest
    is read.

    Args:
        path: The file or folder.
        chat: The prompts are chat turns; false for raw text.

    Raises:
        UserError: the path cannot be read, or nothing in it has a known format.
    """
    path = Path(path)
    if path.is_dir():
        if (path / EDITS_FILE).exists():
            return EditDataset.load(path).requests(), []
        if (path / "patterns").is_dir() and (path / "tuples").is_dir():
            return _checked(((place, _of_request(r)) for place, r in read_pararel(path)), chat=chat)
        raise UserError(f"{path} is neither an edit dataset nor a ParaRel folder; {_KNOWN}")
    if path.suffix == ".txt":
        raise UserError(f"{path} holds prompts without targets, so nothing can be edited from it; {_KNOWN}")
    entries = list(_entries(path))
    if not entries:
        raise UserError(f"{path} is empty; {_KNOWN}")
    known = [_format_of(entry) for _, entry in entries if isinstance(entry, dict)]
    if not any(known):
        raise UserError(f"no known format of edit data in {path}; {_KNOWN}")
    return _checked(((place, _fields(entry)) for place, entry in entries), chat=chat)


def holds_prompts(path: Path) -> bool:
    """Whether a file holds prompts without targets: a .txt file, or JSON of no format but with `prompt`.

    Raises:
        UserError: the path cannot be read.
    """
    if path.suffix == ".txt":
        return True
    if path.is_dir() or path.suffix not in _JSON:
        return False
    entries = [entry for _, entry in _entries(path) if isinstance(entry, dict)]
    return any("prompt" in entry for entry in entries) and not any(map(_format_of, entries))


def read_prompts(path: Path, *, chat: bool) -> tuple[list[str], list[Rejected]]:
    """The different prompts of a file that `holds_prompts`, and the lines that hold none.

    Args:
        path: the file. A prompt of a .txt file is a line; one in JSON may have several.
        chat: whether they are chat turns; a line that says otherwise is rejected.

    Raises:
        UserError: the path cannot be read.
    """
    if path.suffix == ".txt":
        lines = (line.strip() for line in _text(path).splitlines())
        return list(dict.fromkeys(line for line in lines if line)), []
    prompts: dict[str, str] = {}
    rejected = []
    for place, entry in _entries(path):
        reason = _prompt_fault(entry, chat=chat)
        if reason:
            rejected.append(Rejected(source=place, reason=reason))
        else:
            prompts.setdefault(normalise_prompt(entry["prompt"]), entry["prompt"].strip())
    return list(prompts.values()), rejected


def _prompt_fault(entry: Any, *, chat: bool) -> str:
    """Why one entry is no prompt to train on; empty if it is one."""
    if isinstance(entry, json.JSONDecodeError) or not isinstance(entry, dict):
        return str(_fields(entry))
    prompt, said = entry.get("prompt"), entry.get("chat", chat)
    if not isinstance(prompt, str):
        return "its prompt is not text; write it as a string"
    if not prompt.strip():
        return "its prompt is empty; fill it in or remove the entry"
    if _halved(prompt):
        return f"its prompt holds {_HALF}"
    if said is not chat:
        return f"its chat is {json.dumps(said)}; say {'--text' if chat else '--chat'}, or leave chat out"
    return ""


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, entry) of a JSON list, or of JSON lines; for an entry that is no JSON, the error."""
    if path.suffix not in _JSON:
        raise UserError(f"{path} is not .json or .jsonl; {_KNOWN}")
    text = _text(path)
    if text.lstrip().startswith("["):
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} is not valid JSON ({error}); mend it or give JSON lines") from error
        yield from ((f"{path.name}[{number}]", entry) for number, entry in enumerate(entries))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path.name}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                yield f"{path.name}:{number}", error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); give a readable file in UTF-8") from error


def _format_of(record: Record) -> Callable[[Record], _Fields] | None:
    for keys, reader in _FORMATS:
        if keys <= record.keys():
            return reader
    return None


def _fields(entry: Any) -> _Fields | str:
    """The fields of one entry, or why there are none."""
    if isinstance(entry, json.JSONDecodeError):
        return f"not valid JSON ({entry.msg.removesuffix(' at')} at column {entry.colno}); mend the line"
    if not isinstance(entry, dict):
        return "not a JSON object; write one object for each correction"
    reader = _format_of(entry)
    if reader is None:
        return f"its keys ({', '.join(sorted(entry)) or 'none'}) are those of no known format; {_KNOWN}"
    try:
        return reader(entry)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        return f"a part of it is missing or has the wrong type ({error!r}); compare it with the format"


def _checked(
    entries: Iterator[tuple[str, _Fields | str]], *, chat: bool
) -> tuple[list[EditRequest], list[Rejected]]:
    readable: list[tuple[str, EditRequest]] = []
    rejected: list[Rejected] = []
    first: dict[str, str] = {}
    targets: dict[str, dict[str, str]] = {}
    for place, fields in entries:
        reason = fields if isinstance(fields, str) else _fault(fields)
        if reason or isinstance(fields, str):
            rejected.append(Rejected(source=place, reason=reason))
            continue
        request = _request(fields, chat=chat)
        if request.id in first:
            reason = f"the same correction as {first[request.id]}; it is read once"
            rejected.append(Rejected(source=place, reason=reason))
            continue
        first[request.id] = place
        targets.setdefault(normalise_prompt(request.prompt), {})[place] = request.target
        readable.append((place, request))
    requests = []
    for place, request in readable:
        others = {p: t for p, t in targets[normalise_prompt(request.prompt)].items() if p != place}
        if others:
            listed = ", ".join(f"{other} ({target!r})" for other, target in others.items())
            reason = (
                f"wants {request.target!r} where the same prompt has another target in {listed}; keep one"
            )
            rejected.append(Rejected(source=place, reason=reason))
        else:
            requests.append(request)
    return requests, rejected


def _fault(fields: _Fields) -> str:
    for name in ("prompt", "target"):
        value = getattr(fields, name)
        if not isinstance(value, str):
            return f"its {name} is not text; write it as a string"
        if not value.strip():
            return f"its {name} is empty; fill it in or remove the entry"
        if _halved(value):
            return f"its {name} holds {_HALF}"
    long = too_long(fields.target)
    if long:
        return f"its target {long}; write a shorter one"
    for name in ("rephrases", "locality"):
        value = getattr(fields, name)
        texts = value if isinstance(value, list) else [value]
        if any(not isinstance(text, str) for text in texts if text is not None):
            return f"its {name} are not texts; write a list of strings"
        if any(map(_halved, filter(None, texts))):
            return f"its {name} hold {_HALF}"
    return "" if fields.subject is None or isinstance(fields.subject, str) else "its subject is not text"


def _halved(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _request(fields: _Fields, *, chat: bool) -> EditRequest:
    prompt, target = fields.prompt.strip(), fields.target.strip()
    taken = {normalise_prompt(prompt)}
    equivalents = _texts(fields.rephrases, taken)
    return EditRequest(
        id=correction_id(prompt, target, chat=chat),
        prompt=prompt,
        target=target,
        equivalents=equivalents,
        locality=_texts(fields.locality, taken),
        subject=(fields.subject or "").strip() or None,
        chat=chat,
    )


def _texts(value: Any, taken: set[str]) -> tuple[str, ...]:
    """The texts of a list, or the one text, that are neither empty nor taken; they become taken."""
    texts = []
    for text in value if isinstance(value, list) else [value]:
        key = normalise_prompt(text or "")
        if key and key not in taken:
            taken.add(key)
            texts.append(text.strip())
    return tuple(texts)


def _mendflow(record: Record) -> _Fields:
    return _Fields(
        record["prompt"],
        record["target"],
        record.get("rephrases"),
        record.get("locality"),
        record.get("subject"),
    )


def _zsre(record: Record) -> _Fields:
    locality = record.get("loc")
    if isinstance(locality, str):
        locality = locality.removeprefix(_NQ_PREFIX)
    return _Fields(record["src"], record["alt"], record.get("rephrase"), locality, record.get("subject"))


def _counterfact_flat(record: Record) -> _Fields:
    return _Fields(
        record["prompt"],
        record["target_new"],
        record.get("rephrase_prompt"),
        record.get("locality_prompt"),
        record.get("subject"),
    )


def _counterfact_rome(record: Record) -> _Fields:
    rewrite = record["requested_rewrite"]
    return _Fields(
        rewrite["prompt"].replace("{}", rewrite["subject"]),
        rewrite["target_new"]["str"],
        record.get("paraphrase_prompts"),
        record.get("neighborhood_prompts"),
        rewrite["subject"],
    )


def _of_request(entry: Mapping[str, Any] | str) -> _Fields | str:
    return entry if isinstance(entry, str) else _Fields(**entry)


_FORMATS: tuple[tuple[set[str], Callable[[Record], _Fields]], ...] = (
    ({"requested_rewrite"}, _counterfact_rome),
    ({"src", "alt"}, _zsre),
    ({"prompt", "target_new"}, _counterfact_flat),
    ({"prompt", "target"}, _mendflow),
)
