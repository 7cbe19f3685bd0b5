"""Broken candidates are refused, each by the gate that should; the good one they are made of is promoted."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from editors.overrides import Overrides
from tasks.measuring import Before, Measured, Served, ask_champion, compare
from tasks.questions import Question, questions
from tasks.readings import Base, read_base, read_beside
from tests.validation import damaged_edits, damaged_weights, damaged_words
from tests.validation.damage import Candidate, Damage, good
from tests.validation.taught import World, teach
from tests.validation.taught_demo import edit_demo_model
from validation.early import CHEAP
from validation.gates import GateReport, run_gates
from validation.metric_definitions import DEFINITIONS
from validation.metrics import Severity
from validation.outcomes import (
    ANSWERS_ENDED,
    DRAWDOWN,
    EDIT,
    EQUIVALENCE,
    EQUIVALENCE_RETENTION,
    LOCALITY,
    RETENTION,
    outcomes_frame,
)
from validation.parameters import parameter_changes
from validation.probes import ARITHMETIC, CODE, PROSE
from validation.renderings import RenderingChanges
from validation.thresholds import GateFile, load_gates
from validation.verdict import Verdict, decide

DOCUMENT = Path(__file__).parents[2] / "docs" / "damaged_models.md"
GATES = load_gates()
# The rows that a gate is computed from; all of them, where nothing is said.
NEEDED = {
    **{gate: {DEFINITIONS[gate].rows} - {None} for gate in CHEAP - {"changed_renderings"}},
    **{metric: {metric} for metric in (EQUIVALENCE, RETENTION, EQUIVALENCE_RETENTION, LOCALITY)},
    ANSWERS_ENDED: {EDIT, EQUIVALENCE},
    "answers_kept": {DRAWDOWN},
    "kept_answer_length_ratio": {LOCALITY},
}
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

    def measured(self, candidate: Candidate, gate: str | None = None) -> Measured:
        """What the gates are computed from, or only what the answers for one gate are asked for."""
        world, needed = self.world, NEEDED.get(gate or "")
        asked = [q for q in self.asked if needed is None or q.metric in needed]
        parameters = parameter_changes(world.base, candidate.model, candidate.claimed(world.base))
        served = Served(candidate.model, candidate.tokenizer, candidate.overrides)
        unasked = Measured(
            outcomes=outcomes_frame([]),
            expected_rows={},
            perplexities=read_beside(served.model, self.base),
            parameters=parameters,
            renderings=RenderingChanges(0, 0),
            teacher_forced=[],
        )
        return compare(served, self.base, self.before, unasked, world.data, asked, say=silent)


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


@pytest.fixture(scope="module", params=["tiny", pytest.param("demo", marks=pytest.mark.slow)])
def gating(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Gating:
    world = {"tiny": teach, "demo": edit_demo_model}[request.param](tmp_path_factory.mktemp("taught"))
    asked = questions(world.data, world.earlier)
    champion = Served(world.base, world.tokenizer, Overrides())
    before = ask_champion(champion, world.data, asked, say=silent)
    base = read_base(world.base, world.tokenizer, world.texts)
    return Gating(world, good(world), asked, before, base)


def test_the_good_candidate_is_promoted(gating: Gating) -> None:
    # Damage is not told by the clock.
    untimed = {name: gate for name, gate in GATES.gates.items() if name != "answer_seconds_ratio"}
    report = gated(gating.measured(gating.good), GATES.model_copy(update={"gates": untimed}))
    decision = decide(report)
    assert decision.verdict is Verdict.PROMOTE, decision.reason
    assert not decision.warnings


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.kind)
def test_a_broken_candidate_is_refused_by_the_gate_that_should(gating: Gating, damage: Damage) -> None:
    candidate = damage.make(gating.world, replace(gating.good, model=copy.deepcopy(gating.good.model)))
    # One critical gate that fails refuses, whatever the others say: they need not be asked.
    alone = GATES.model_copy(update={"gates": {damage.gate: GATES.gates[damage.gate]}})
    decision = decide(gated(gating.measured(candidate, damage.gate), alone))
    print(f"{damage.kind}: {decision.reason}")
    assert decision.verdict is Verdict.REJECT
    assert decision.failing == (damage.gate,)


@pytest.mark.parametrize("gate", [CODE, ARITHMETIC])
def test_broken_on_code_or_arithmetic_only_is_seen_by_no_other_gate(gating: Gating, gate: str) -> None:
    (damage,) = (one for one in DAMAGES if one.gate == gate)
    candidate = damage.make(gating.world, replace(gating.good, model=copy.deepcopy(gating.good.model)))
    others = {name: GATES.gates[name] for name in (EDIT, PROSE, CODE, ARITHMETIC)}
    report = gated(gating.measured(candidate, EDIT), GATES.model_copy(update={"gates": others}))
    assert decide(report).failing == (gate,), decide(report).reason


def test_the_list_is_long_and_each_kind_is_named_once() -> None:
    assert len({damage.kind for damage in DAMAGES}) == len(DAMAGES) >= 30
    assert all(GATES.gates[damage.gate].severity is Severity.CRITICAL for damage in DAMAGES)


def test_the_documented_table_is_the_list() -> None:
    wanted = [damage.row for damage in DAMAGES]
    # Behind these is what was measured of the demo model.
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    written = ["|".join(line.split("|")[:3]) + "|" for line in rows]
    assert written == wanted, f"{DOCUMENT.name} has to have these rows:\n" + "\n".join(wanted)
