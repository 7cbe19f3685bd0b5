"""Broken candidates are refused, each by the gate that should; the good one they are made of is promoted."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from editors.overrides import Overrides
from tasks.measuring import (
    Base,
    Before,
    Measured,
    Question,
    Served,
    ask_champion,
    compare,
    questions,
    read_base,
)
from tests.validation import damaged_edits, damaged_weights, damaged_words
from tests.validation.damage import Candidate, Damage, good, table
from tests.validation.taught import World, teach
from validation.gates import GateReport, run_gates
from validation.metrics import Severity
from validation.parameters import parameter_changes
from validation.thresholds import GateFile, load_gates
from validation.verdict import Verdict, decide

DOCUMENT = Path(__file__).parents[2] / "docs" / "damaged_models.md"
GATES = load_gates()
DAMAGES = [*damaged_weights.DAMAGES, *damaged_edits.DAMAGES, *damaged_words.DAMAGES]


def silent(done: int, total: int, note: str) -> None:
    pass


@dataclass(frozen=True)
class Gating:
    """A world with its champion asked once."""

    world: World
    good: Candidate
    asked: list[Question]
    before: Before
    base: Base

    def measured(self, candidate: Candidate) -> Measured:
        world = self.world
        parameters = parameter_changes(world.base, candidate.model, candidate.claimed(world.base))
        served = Served(candidate.model, candidate.tokenizer, candidate.overrides)
        return compare(served, self.base, self.before, parameters, world.data, self.asked, say=silent)


def gated(measured: Measured, gates: GateFile) -> GateReport:
    return run_gates(
        measured.outcomes,
        gates,
        expected_rows=measured.expected_rows,
        perplexities=measured.perplexities,
        parameters=measured.parameters,
        renderings=measured.renderings,
        teacher_forced=measured.teacher_forced,
    )


@pytest.fixture(scope="module")
def gating(tmp_path_factory: pytest.TempPathFactory) -> Gating:
    world = teach(tmp_path_factory.mktemp("taught"))
    asked = questions(world.data, world.earlier)
    champion = Served(world.base, world.tokenizer, Overrides())
    before = ask_champion(champion, world.data, asked, say=silent)
    base = read_base(world.base, world.tokenizer, world.prose)
    return Gating(world, good(world), asked, before, base)


def test_the_good_candidate_is_promoted(gating: Gating) -> None:
    report = gated(gating.measured(gating.good), GATES)
    decision = decide(report)
    assert decision.verdict is Verdict.PROMOTE, decision.reason
    assert not decision.warnings


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.kind)
def test_a_broken_candidate_is_refused_by_the_gate_that_should(gating: Gating, damage: Damage) -> None:
    candidate = damage.make(gating.world, replace(gating.good, model=copy.deepcopy(gating.good.model)))
    # One critical gate that fails refuses, whatever the others say: they need not be asked.
    alone = GATES.model_copy(update={"gates": {damage.gate: GATES.gates[damage.gate]}})
    decision = decide(gated(gating.measured(candidate), alone))
    assert decision.verdict is Verdict.REJECT
    assert decision.failing == (damage.gate,)


def test_the_list_is_long_and_each_kind_is_named_once() -> None:
    assert len({damage.kind for damage in DAMAGES}) == len(DAMAGES) >= 30
    assert all(GATES.gates[damage.gate].severity is Severity.CRITICAL for damage in DAMAGES)


def test_the_documented_table_is_the_list() -> None:
    wanted = table(DAMAGES)
    assert wanted in DOCUMENT.read_text(encoding="utf-8"), f"write this into {DOCUMENT.name}:\n{wanted}"
