"""What the gates ask of a candidate, no training has seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.build import build
from tasks.ledger import Ledger
from tasks.records import Correction, TrafficRecord
from tasks.rephrase import rephrase, wording
from tasks.roles import for_training, recent, share
from tests.tasks.ledger_tools import report

PLACES = ("Chad", "Sudan", "Peru", "Fiji", "Cuba", "Mali", "Oman", "Togo", "Laos", "Iran", "Iraq", "Guam")


@pytest.fixture
def corrections(ledger: Ledger) -> list[Correction]:
    return ledger.record([report("What is the capital of Chad?", "Lima")])


def traffic(count: int) -> list[TrafficRecord]:
    asked = [f"What is the {what} of {x}?" for what in ("capital", "currency", "flag") for x in PLACES]
    return [TrafficRecord(prompt=prompt, output="an answer") for prompt in asked[:count]]


@pytest.mark.parametrize("gate_rows", [0, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_gates_prompts_and_what_corrections_ask_are_kept_from_training(
    corrections: list[Correction], tmp_path: Path, gate_rows: int, seed: int
) -> None:
    """Also where the gates take more than their share, and from less traffic than there is later."""
    sides = {"gate_share": 0.5, "gate_rows": gate_rows, "seed": seed}
    built = build(corrections, traffic(36), tmp_path, **sides)
    asked = {wording(prompt) for prompt in built.locality_prompts("gate")}
    for count in (30, 36):
        learnable = for_training(traffic(count), corrections, **sides)
        learnt = {wording(r.prompt) for r in learnable.traffic}
        assert learnt
        assert not learnt & asked
        assert learnable.asked >= {wording(r.prompt) for r in traffic(count)}
    assert learnt == {wording(prompt) for prompt in built.locality_prompts("editor")}
    assert wording("What is the capital of Chad?") not in learnt


@pytest.mark.parametrize("far", [5, 20, 60])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_chosen_for_the_gates_no_training_before_has_seen(
    corrections: list[Correction], tmp_path: Path, seed: int, far: int
) -> None:
    """From however much of the traffic the editor was trained, and however few rows are chosen of it."""
    sides = {"gate_share": 0.35, "gate_rows": 20, "seed": seed}
    served = [
        TrafficRecord(prompt=f"What is the {what} of {place} {number}?", output="an answer")
        for number in range(17)
        for place in PLACES
        for what in ("currency", "flag", "anthem")
    ]
    learnt: set[str] = set()
    for count in (12, 19, 20, 40, len(served)):
        learnable = for_training(served[:count], corrections, **sides)
        learnt |= {wording(r.prompt) for r in learnable.traffic}
        built = build(corrections, served[:count], tmp_path, far=far, **sides)
        asked = {wording(prompt) for prompt in built.locality_prompts("gate")}
        assert not learnt & asked
        # What the gates need they get, and an editor its part of what was chosen, once there is as much.
        assert count < 20 or len(asked) >= 20
        assert count < 40 or built.locality_prompts("editor")
    assert len(learnt) > len(served) / 2


@pytest.mark.parametrize("count", [19, 20, 36])
def test_the_bound_is_told_and_rises_where_a_prompt_of_the_gates_leaves_the_traffic(
    corrections: list[Correction], ledger: Ledger, count: int
) -> None:
    sides = {"gate_share": 0.2, "gate_rows": 20, "seed": 0}
    served = [r for r in traffic(36) if r.prompt != corrections[0].prompt][:count]
    before = for_training(served, corrections, **sides)
    first = min(served, key=lambda r: share(r.prompt, 0))
    more = [*corrections, *ledger.record([report(first.prompt, "Lima", "s2")])]
    after = for_training(served, more, **sides)
    bounds = [one.split["bound"] for one in (before, after) if one.split]
    assert bounds == ([1.0, 1.0] if count == 19 else sorted(set(bounds)))
    assert all(share(r.prompt, 0) >= bounds[0] for r in before.traffic)
    # What it may have practised on before the gates ask now.
    assert (len(before.traffic) > len(after.traffic)) is (count == 36)


def test_a_rewording_of_a_correction_and_half_a_character_are_left_out(corrections: list[Correction]) -> None:
    reworded = rephrase(corrections[0].prompt, chat=True)[0].text
    records = [
        TrafficRecord(prompt=prompt, output="an answer")
        for prompt in (reworded, "What is \ud83d?", "Who wrote Emma?")
    ]
    kept = for_training(records, corrections, gate_share=0.0, gate_rows=0, seed=0)
    assert [r.prompt for r in kept.traffic] == ["Who wrote Emma?"]
    # What the model writes to practise on is held against it too.
    assert kept.corrected == ("What is the capital of Chad?",)


def test_what_is_replayed_are_the_last_prompts_but_for_what_corrections_ask(
    corrections: list[Correction],
) -> None:
    said = [
        "What is the capital of Peru?",
        "How do I cook rice?",
        "Tell me the capital of Chad, please.",
        "what is the CAPITAL of Peru",
        "What is the capital of Chad?",
        "Name a river.",
    ]
    served = [TrafficRecord(prompt=f" {prompt} ", output="x") for prompt in said]
    served.insert(0, TrafficRecord(prompt="Name a river.", output="x", chat=False))
    everything = [("Name a river.", True), (said[3], True), (said[1], True), ("Name a river.", False)]
    assert recent(served, corrections) == everything
