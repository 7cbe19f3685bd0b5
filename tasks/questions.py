"""What a candidate and its champion are asked: corrections, what must stay, and recent requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks.edit_dataset import EditDataset

# An output that must never appear may come late, behind a refusal or a long preamble.
SUPPRESSED_TOKENS = 128


@dataclass(frozen=True)
class Question:
    """One row to ask of both models; `tokens` is what an answer to it is given at least."""

    metric: str
    id: str
    prompt: str
    expected: str
    chat: bool
    wrong_output: str = ""
    kind: str = ""
    tokens: int = 0

    @property
    def asked(self) -> tuple[str, bool]:
        """What a model is given: the prompt, and whether it is a chat turn."""
        return self.prompt, self.chat


def questions(
    data: EditDataset, earlier: Sequence[str], replay: Sequence[tuple[str, bool]] = ()
) -> list[Question]:
    """Every row that is asked.

    Args:
        data: the dataset.
        earlier: ids of corrections that the champion already holds.
        replay: recent requests, and whether they are chat turns; expected is what the champion answers.
    """
    from validation import outcomes as rows

    found = []
    held = set(earlier)
    for edit in data.edits.to_dict("records"):
        about = {"id": edit["id"], "expected": edit["target"], "chat": bool(edit["chat"])}
        about |= {"kind": "" if edit["chat"] else rows.TEXT, "wrong_output": edit["wrong_output"] or ""}
        about["tokens"] = SUPPRESSED_TOKENS if edit["suppressed"] else 0
        old = edit["id"] in held
        own, phrasings = (
            (rows.RETENTION, rows.EQUIVALENCE_RETENTION) if old else (rows.NEW, rows.NEW_EQUIVALENCE)
        )
        answered = [rows.ANSWERED] if edit["answerer"] else []
        for metric in (rows.EDIT, own, *answered):
            found.append(Question(metric, prompt=edit["prompt"], **about))
        for metric in (rows.EQUIVALENCE, phrasings, *answered):
            found += [Question(metric, prompt=p, **about) for p in edit["held_out"]]
    for row in data.locality.to_dict("records"):
        about = {"id": row["id"], "prompt": row["prompt"], "expected": row["reference"]}
        about["chat"] = bool(row["chat"])
        # Agreement is asked of prompts unseen by the editor; right answers have to stay right anywhere.
        if row["role"] == "gate":
            found.append(Question(rows.LOCALITY, kind=row["kind"], **about))
        if row["confirmed"]:
            gold = row["gold"] or row["reference"]
            found.append(Question(rows.DRAWDOWN, kind=row["kind"], **{**about, "expected": gold}))
    for place, (prompt, chat) in enumerate(replay):
        kind = rows.CHAT if chat else rows.TEXT
        found.append(Question(rows.REPLAY, f"replay-{place:05}", prompt, "", chat, kind=kind))
    return found


def rows_expected(asked: Sequence[Question]) -> dict[str, int]:
    """How many rows of the outcomes frame each metric is to have."""
    from validation.outcomes import PROTOCOLS

    return {name: sum(q.metric == name for q in asked) for name in PROTOCOLS}


def answered(asked: Sequence[Question], outputs: Sequence[str]) -> list[dict[str, Any]]:
    """What was asked, each with a model's output, as the functions of the user's own gates are given it."""
    return [
        {
            "metric": q.metric,
            "id": q.id,
            "prompt": q.prompt,
            "expected": q.expected,
            "kind": q.kind,
            "chat": q.chat,
            "output": output,
        }
        for q, output in zip(asked, outputs, strict=True)
    ]
