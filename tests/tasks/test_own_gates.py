import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.own_functions import find_function
from tasks.own_gates import OwnSource, call_all, own_digests, paired
from tasks.records import UserError
from validation.own_gates import OwnValues

ROWS = [{"prompt": "Who are you?", "output": "A model, at your service."}]


def generate(prompts, *, chat=True, max_new_tokens=48):
    return [f"{prompt} {chat}" for prompt in prompts]


def score(prompts, continuations, *, chat):
    raise AssertionError("a function is given answers alone")


def called(tmp_path: Path, body: str, rows=ROWS):
    (tmp_path / "mine.py").write_text(f"def gate(generate, rows):\n    {body}\n")
    return call_all({"polite": OwnSource("mine:gate")}, tmp_path, generate, score, rows)["polite"]


def test_a_function_beside_the_gate_file_is_given_the_model_and_the_answers(tmp_path):
    assert called(tmp_path, "return ['service' in row['output'] for row in rows]") == [1.0]
    assert called(tmp_path, "return [len(a) for a in generate(['a', 'b'], chat=False)]") == [7.0, 7.0]
    assert called(tmp_path, "import numpy as np; return np.array([True, False])") == [1.0, 0.0]


def test_what_a_function_prints_or_changes_stays_with_it(tmp_path, capsys):
    rows = [dict(row) for row in ROWS]
    assert called(tmp_path, "print('@progress x'); rows[0].clear(); return [1]", rows) == [1.0]
    assert rows == ROWS
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise RuntimeError('no\\n  luck')", "mine:gate failed with RuntimeError: no luck"),
        ("import sys; sys.exit(0)", "mine:gate failed with SystemExit: 0"),
        ("return None", "mine:gate failed with TypeError"),
        ("return [1, 'yes']", "mine:gate gave 'yes' as value 2, and has to give numbers"),
        ("return ['1']", "mine:gate gave '1' as value 1"),
        ("return [None]", "mine:gate gave None as value 1"),
        ("return [float('nan')]", "mine:gate gave nan as value 1"),
        ("return [float('inf')]", "mine:gate gave inf as value 1"),
        ("yield 1; raise ValueError", "mine:gate failed with ValueError: no reason given"),
    ],
)
def test_a_function_that_goes_wrong_gives_a_sentence_and_never_a_value(tmp_path, body, says):
    said = called(tmp_path, body)
    assert isinstance(said, str)
    assert said.startswith(f"was not measured: {says}")
    assert "\n" not in said


@given(
    st.lists(st.one_of(st.floats(), st.none(), st.text(), st.booleans(), st.complex_numbers()), max_size=4)
)
def test_only_finite_numbers_are_values(values):

    found = call_all({"m": OwnSource("statistics:mean")}, None, generate, score, ROWS)
    assert isinstance(found["m"], str)
    with pytest.MonkeyPatch.context() as patch:
        gate = types.SimpleNamespace(gate=lambda generate, rows: iter(values))
        patch.setitem(sys.modules, "some_installed_gates", gate)
        given_ = call_all({"m": OwnSource("some_installed_gates:gate")}, None, generate, score, ROWS)["m"]
    fit = all(isinstance(v, (bool, float)) and math.isfinite(v) for v in values)
    assert isinstance(given_, list) is fit
    if fit:
        np.testing.assert_array_equal(given_, [float(v) for v in values])


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("mine:missing", r"the gate polite cannot be used: .*mine.py has no function missing"),
        (
            "no_such_module_here:gate",
            r"importing no_such_module_here, which is no file in /.+,",
        ),
        ("broken:gate", r"importing .*broken.py fails: ZeroDivisionError: division by zero"),
        ("mine:number", r"mine.py has no function number"),
    ],
)
def test_a_function_that_is_not_there_is_named_before_any_work(tmp_path, function, says):
    (tmp_path / "mine.py").write_text("number = 3\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match=says):
        find_function("the gate polite", function, tmp_path)


def test_a_file_of_gates_is_a_module_like_any_other(tmp_path):
    body = """
from __future__ import annotations
from dataclasses import asdict, dataclass
import pickle

@dataclass
class Count:
    found: int

def gate(generate, rows):
    return [asdict(pickle.loads(pickle.dumps(Count(%d))))["found"]]
"""
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(body % number)
    first, second = (
        find_function("the gate polite", "mine:gate", tmp_path / folder) for folder in ("a", "b")
    )
    assert (first(generate, []), second(generate, [])) == ([0], [1])


def test_a_file_beside_that_would_not_be_kept_is_not_imported(tmp_path):
    (tmp_path / "mine.py").write_text("import a_helper_of_mine\n")
    (tmp_path / "a_helper_of_mine.py").write_text("")
    before = set(sys.modules)
    with pytest.raises(UserError, match=r"No module named 'a_helper_of_mine'; .* has to stand alone"):
        find_function("the gate polite", "mine:gate", tmp_path)
    assert set(sys.modules) == before


def test_the_source_counts_where_it_is_a_file_of_the_users(tmp_path):
    named = {"polite": OwnSource("mine:gate"), "mean": OwnSource("statistics:mean")}
    (tmp_path / "mine.py").write_text("def gate(generate, rows): return [1]\n")
    one = own_digests(named, tmp_path)
    (tmp_path / "mine.py").write_text("def gate(generate, rows): return [0]\n")
    assert set(one) == {"own/polite"}
    assert one != own_digests(named, tmp_path)


def test_an_error_with_either_model_is_an_error():
    both = paired(
        {"a": [1.0], "b": "was not measured: x", "c": [0.0]},
        {"a": [0.0, 1.0], "b": [1.0], "c": "was not measured: y"},
    )
    assert both == {
        "a": OwnValues([0.0, 1.0], [1.0]),
        "b": OwnValues(error="was not measured: x (asked of the champion)"),
        "c": OwnValues(error="was not measured: y"),
    }
