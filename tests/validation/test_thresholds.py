from __future__ import annotations

from pathlib import Path

import pytest

from validation.thresholds import GateFileError, load_gates, write_gates

GATE = "{min: 0.9, minimum_n: 1, severity: critical}"


def test_the_defaults_are_the_safe_ones() -> None:
    gates = load_gates().gates
    assert gates["edit_success_greedy"].min == 0.9
    assert gates["equivalence_success_greedy"].min == 0.6
    assert gates["locality_agreement_greedy"].min == 0.7
    assert gates["answers_kept"].min == 0.95
    assert gates["new_equivalence_success_greedy"].min == 0.6
    assert gates["retention_greedy"].min == 0.95
    assert gates["equivalence_retention_greedy"].max_worse_than_champion == 0.05
    assert (gates["answers_ended"].min, gates["kept_answers_ended"].min) == (0.9, 0.75)
    assert gates["locality_agreement_greedy_far"].min == 0.7
    assert gates["perplexity_ratio"].max == 1.05
    assert gates["non_finite_parameters"].max == 0
    assert gates["changed_parameters"].min == 1
    assert gates["locality_agreement_greedy_near"].min == 0.6
    assert gates["locality_substance_greedy"].min == 0.5
    assert gates["answers_kept_unseen"].min == 0.75
    assert gates["locality_kl_mean"].max == 0.25
    warned = [name for name, gate in gates.items() if gate.severity == "warning"]
    assert warned == ["answer_seconds_ratio"], "a warning refuses nobody"


def test_a_gate_that_does_not_apply_to_few_is_told_from_one_that_does_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    digests = set()
    for more in ("", ", applies_from: 0", ", applies_from: 10"):
        path.write_text(f"version: 3\ngates: {{edit_success_greedy: {GATE[:-1]}{more}}}}}\n")
        digests.add(load_gates(path).digest())
        write_gates(load_gates(path), path)
        assert load_gates(path).digest() in digests
    assert len(digests) == 2


def test_what_is_written_is_read_as_the_same_gates(tmp_path: Path) -> None:
    write_gates(load_gates(), tmp_path / "gates.yaml")
    assert load_gates(tmp_path / "gates.yaml").digest() == load_gates().digest()


def test_what_a_program_answered_is_held_for_a_person_unless_the_file_allows_it(tmp_path: Path) -> None:
    path, text = tmp_path / "gates.yaml", f"version: 3\ngates: {{edit_success_greedy: {GATE}}}\n"
    path.write_text(text)
    silent = load_gates(path)
    assert load_gates().machine_answered == silent.machine_answered == "hold"
    path.write_text(text + "machine_answered: promote\n")
    allowed = load_gates(path)
    assert allowed.digest() != silent.digest()
    write_gates(allowed, path)
    assert load_gates(path) == allowed
    path.write_text(text + "machine_answered: perhaps\n")
    with pytest.raises(GateFileError, match="machine_answered"):
        load_gates(path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(f"version: 3\ngates:\n  edit_success_greedy: {GATE}\n")
    ours = load_gates(path)
    assert (ours.version, list(ours.gates)) == (3, ["edit_success_greedy"])
    path.write_text(f"# why\nversion: 3\ngates: {{edit_success_greedy: {GATE}}}\n")
    assert load_gates(path).digest() == ours.digest()
    path.write_text(f"version: 3\ngates: {{edit_success_greedy: {GATE.replace('0.9', '0.8')}}}\n")
    assert load_gates(path).digest() != ours.digest()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"version: 1\ngates: {{edit_sucess_greedy: {GATE}}}", "did you mean 'edit_success_greedy'"),
        ("version: 1\ngates: {drawdown: {maximum: 1, max: 1, minimum_n: 1, severity: critical}}", "maximum"),
        ("version: 1\ngates: {drawdown: {minimum_n: 1, severity: critical}}", "needs min, max"),
        ("version: 1\ngates: {drawdown: {min: 0.1, minimum_n: 1, severity: critical}}", "max is the bound"),
        (
            "version: 1\ngates: {drawdown: {max: .nan, minimum_n: 1, severity: critical}}",
            "gates.drawdown.max",
        ),
        ("version: 1\ngates: {drawdown: {max: 0.1, minimum_n: 0, severity: critical}}", "minimum_n"),
        ("version: 1\ngates: {drawdown: {max: 0.1, minimum_n: 1, severity: fatal}}", "severity"),
        (
            "version: 1\ngates: {drawdown: {min: 2, max: 1, minimum_n: 1, severity: critical}}",
            "nothing can pass",
        ),
        ("version: 1\ngates: {drawdown: {max: 0.1, minimum_n: 1, severity: warning}}", "no gate is critical"),
        (f"version: 1\ngates: {{edit_success_teacher_forced: {GATE}}}", "diagnostic"),
        ("gates: {drawdown: {max: 0.1, minimum_n: 1, severity: critical}}", "version"),
        ("version: 1\ngates: {}", "gates"),
        ("version: [", "not YAML"),
        ("", "refused"),
    ],
)
def test_a_file_that_would_not_gate_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(text)
    with pytest.raises(GateFileError) as refusal:
        load_gates(path)
    assert named in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GateFileError, match=r"none\.yaml cannot be read"):
        load_gates(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["version: 1 # r\u00e9sum\u00e9", "version: 1\n"])
def test_a_file_that_is_not_utf_8_is_named_with_the_remedy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gates.yaml"
    path.write_bytes(text.encode("latin-1") if "#" in text else text.encode("utf-16"))
    with pytest.raises(GateFileError, match=r"gates\.yaml is not text in UTF-8; save it as such"):
        load_gates(path)
