"""What must hold of stores that interrupted runs have left, and what is reported between them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.settings import CorrectSettings
from tasks.ledger import Ledger, Phase
from tasks.ledger_rules import LEGAL_TRANSITIONS
from tasks.models import load_delta, resolve
from tasks.records import State
from tasks.register import BASE_TAG, DELTA_TAG, LEDGER_TAG
from tasks.registry import Version, describe
from tasks.tracking import has_store

CITIES = ["Cairo", "Lima", "Oslo", "Rome", "Delhi", "Quito", "Paris"]


def report_more(file: Path, round_: int) -> None:
    """What comes in between two runs: errors, some told twice, a contradiction, one without an answer."""
    known = file.read_text().splitlines() if file.exists() else []
    # Another answer each time: a champion that gives the last one to whatever it is asked is wrong again.
    city = CITIES[round_ % len(CITIES)]
    rows: list[dict[str, Any]] = [
        {"prompt": f"What is the capital of state {round_}{letter}?", "target": city, "reporter": "ann"}
        for letter in "ab"
    ]
    rows.append({**rows[0], "reporter": "bob"})
    if known:
        rows.append({**json.loads(known[0]), "reporter": f"reader {round_}"})
    if round_ % 3 == 1:
        rows.append({**rows[1], "target": "Basel"})
        rows.append({"prompt": f"What is the capital of county {round_}?", "target": None})
    file.write_text("\n".join([*known, *map(json.dumps, rows)]) + "\n")


def state_of(settings: CorrectSettings) -> dict[str, Any]:
    """What a run leaves that must be the same whatever had stood in its way."""
    name = settings.model_name
    registered = describe(name, tracking_uri=settings.tracking)
    with Ledger(settings.ledger) as ledger:
        return {
            "versions": [_made_of(version) for version in registered.versions],
            "aliases": dict(registered.aliases),
            "corrections": {c.id: (c.state, c.reports, c.reporters) for c in ledger.corrections(name)},
            "promotions": [
                (p.action, p.from_version, p.to_version, p.phase) for p in ledger.promotion_log(name)
            ],
        }


def _made_of(version: Version) -> tuple[str, ...]:
    return tuple(version.tags[tag] for tag in (BASE_TAG, DELTA_TAG, LEDGER_TAG))


def broken_always(settings: CorrectSettings) -> list[str]:
    """What must hold at every moment and does not, even where a run has just been killed."""
    found, name = [], settings.model_name
    with Ledger(settings.ledger) as ledger:
        done, begun = [(None, None)], None
        for row in ledger.promotion_log(name):
            if row.phase is Phase.BEGUN:
                if begun not in (None, row.change):
                    found.append(f"promotion log: {row.change} was begun before {begun} ended")
                begun = row.change
                continue
            if begun != row.change:
                found.append(f"promotion log: {row.change} ended without being begun")
            begun = None
            if row.phase is Phase.DONE:
                if row.from_version != done[-1][1]:
                    found.append(f"promotion log: {row.change} does not follow {done[-1]}")
                done.append((row.from_version, row.to_version))
        for one in ledger.corrections(name):
            state: State | None = None
            for step in ledger.history(one.id, model_name=name):
                if step.from_state is not state or (
                    step.to_state is not state and step.to_state not in LEGAL_TRANSITIONS[state]
                ):
                    found.append(
                        f"ledger: {one.id} went from {state} over {step.from_state} to {step.to_state}"
                    )
                state = step.to_state
    if not has_store(settings.tracking):
        return found
    registered = describe(name, tracking_uri=settings.tracking)
    there = {version.number for version in registered.versions}
    found += [
        f"alias {a} names no version" for a, number in registered.aliases.items() if number not in there
    ]
    if registered.champion not in {done[-1][1], *(begun or ())[1:]}:
        found.append(f"the champion is {registered.champion}, and the promotion log says {done[-1][1]}")
    return found


def reported(file: Path) -> Counter[str]:
    """How often each prompt is reported in a file."""
    return Counter(json.loads(line)["prompt"] for line in file.read_text().splitlines())


def broken_after(settings: CorrectSettings, wanted: Counter[str]) -> list[str]:
    """What must hold once a run has come to its end, all these prompts reported, and does not."""
    found, name = broken_always(settings), settings.model_name
    registered = describe(name, tracking_uri=settings.tracking)
    with Ledger(settings.ledger) as ledger:
        corrections = ledger.corrections(name)
        kept: Counter[str] = Counter()
        for one in corrections:
            kept[one.prompt] += one.reports
        if kept != wanted:
            found.append(f"lost or counted twice: {wanted - kept or kept - wanted}")
        if ledger.unfinished_promotion(name) is not None:
            found.append("a promotion is left unfinished")
        log = [row for row in ledger.promotion_log(name) if row.phase is Phase.DONE]
        if registered.champion is None or registered.champion != log[-1].to_version:
            found.append("there is no champion, or not the one of the promotion log")
        if len(log) > 1 and registered.previous != log[-1].from_version:
            found.append(f"previous is {registered.previous}, and the log says {log[-1].from_version}")
        if registered.candidate == registered.champion:
            found.append("the champion is a candidate still")
        with ledger.lease(f"{name}/correct", "the next run"):
            pass
    same = Counter(map(_made_of, registered.versions))
    found += [f"{count} versions of one delta" for count in same.values() if count > 1]
    # Its digests are checked when it is loaded.
    folder = resolve(
        f"models:/{name}/{registered.champion}",
        cache=settings.home / "models",
        tracking_uri=settings.tracking,
    )
    held: Sequence[str] = (
        load_delta(folder.delta, folder).manifest["correction_ids"] if folder.delta is not None else []
    )
    active = sorted(one.id for one in corrections if one.state is State.ACTIVE)
    if sorted(held) != active:
        found.append(f"the champion holds {sorted(held)}, and active are {active}")
    waiting = [one.id for one in corrections if one.state is State.ACCEPTED]
    if waiting:
        found.append(f"not applied: {waiting}")
    return found
