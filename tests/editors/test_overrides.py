"""Overrides answer exactly what they were given for, until they expire or are deleted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors.delta import Delta
from editors.override import OverrideConfig, OverrideEditor
from editors.overrides import Override, Overrides, normalise_prompt
from editors.requests import EditRequest
from tests.editors.tools import PROMPTS

NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
CAIRO = Override("What is the capital of Egypt?", "Cairo.", "a")
TODAY = Override("Are you open today?", "No.", "b", expires_at=NOW + timedelta(hours=1))


def test_the_same_question_in_other_dress() -> None:
    overrides = Overrides([CAIRO])
    for prompt in ("What is the capital of Egypt?", "  what is THE\ncapital of Egypt？ "):
        found = overrides.lookup(prompt, chat=True)
        assert found is not None
        assert found.answer == "Cairo."
    for prompt in ("What is the capital of Egypt", "What is the capital of Peru?", ""):
        assert overrides.lookup(prompt, chat=True) is None
    assert overrides.lookup(CAIRO.prompt, chat=False) is None


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    # Case folding may leave what composes anew, so one more round must change nothing that is looked up.
    once = normalise_prompt(text)
    assert normalise_prompt(f" {text}\n") == once
    if once:
        assert Overrides([Override(text, "x", "i")]).lookup(f"\t{text}", chat=True) is not None


def test_expiry() -> None:
    overrides = Overrides([TODAY])
    assert overrides.lookup(TODAY.prompt, chat=True, now=NOW) == TODAY
    assert overrides.lookup(TODAY.prompt, chat=True, now=NOW + timedelta(hours=1)) is None
    # What stood there before holds again.
    before = Override(TODAY.prompt, "Yes.", "z")
    overrides = Overrides([before, TODAY])
    assert overrides.lookup(TODAY.prompt, chat=True, now=NOW) == TODAY
    assert overrides.lookup(TODAY.prompt, chat=True, now=NOW + timedelta(days=1)) == before
    with pytest.raises(ValueError, match="in no time zone; give one"):
        Override("Hi", "Hello.", "c", expires_at=datetime(2030, 5, 1))


def test_deleting_one_leaves_the_others() -> None:
    again = Override("Egypt's capital?", "Cairo.", "a")
    shared = Override(CAIRO.prompt, "Cairo!", "c")
    overrides = Overrides([CAIRO, again, TODAY, shared])
    assert overrides.delete("a") == 2
    assert overrides.entries() == [shared, TODAY]
    assert overrides.lookup(CAIRO.prompt, chat=True) == shared
    with pytest.raises(ValueError, match="no override of a correction 'a'"):
        overrides.delete("a")


def test_a_correction_that_changes_its_mind() -> None:
    overrides = Overrides([CAIRO, Override(CAIRO.prompt.upper(), "Giza.", "a")])
    assert [entry.answer for entry in overrides.entries()] == ["Giza."]


def test_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "overrides.json"
    entries = [CAIRO, TODAY, Override("¿Qué?", "«Sí»", "d", chat=False)]
    Overrides(entries).save(path)
    assert Overrides.load(path).entries() == entries
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "does not hold overrides in format 1"),
        ('{"format": 2, "overrides": []}', "does not hold overrides in format 1"),
        ('{"format": 1}', "damaged"),
        ('{"format": 1, "overrides": [{"prompt": "Hi"}]}', "override 1 is not one"),
        ('{"format": 1, "overrides": [3]}', "override 1 is not one"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "overrides.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Overrides.load(path)


def edited(editor: OverrideEditor, *requests: EditRequest) -> Delta:
    return editor.edit(None, None, requests)  # type: ignore[arg-type]


def test_the_editor_changes_no_parameter_and_carries_the_answers(tmp_path: Path) -> None:
    editor = OverrideEditor(OverrideConfig(expires_at="2030-05-01T14:00:00+01:00"))
    requests = [
        EditRequest("a", PROMPTS[0], "Cairo.", ("Egypt's capital?",)),
        EditRequest("b", PROMPTS[4], "yen", chat=False),
    ]
    delta = edited(editor, *requests)
    assert delta.shifts == {}
    delta.save(tmp_path)
    overrides = Overrides.from_json(Delta.load(tmp_path).manifest["overrides"])
    assert [(e.answer, e.correction_id, e.chat) for e in overrides.entries()] == [
        ("Cairo.", "a", True),
        ("Cairo.", "a", True),
        ("yen", "b", False),
    ]
    assert overrides.lookup("egypt's capital?", chat=True, now=NOW) is not None
    assert overrides.lookup("egypt's capital?", chat=True, now=NOW + timedelta(hours=1)) is None


def test_the_digest_of_a_delta_covers_its_overrides(tmp_path: Path) -> None:
    """Without parameters to tell them apart, other answers must still be another delta."""
    editor = OverrideEditor()
    delta = edited(editor, EditRequest("a", PROMPTS[0], "Cairo."))
    other = edited(editor, EditRequest("a", PROMPTS[0], "Giza."))
    assert delta.digest() != other.digest()
    assert edited(editor).digest() == Delta({}).digest()
    delta.save(tmp_path)
    manifest = json.loads((tmp_path / "delta.json").read_text())
    manifest["overrides"][0]["answer"] = "Giza."
    (tmp_path / "delta.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="damaged"):
        Delta.load(tmp_path)


def test_contradictions_are_named() -> None:
    with pytest.raises(ValueError, match=r"a and b give .* different answers; keep one"):
        edited(
            OverrideEditor(),
            EditRequest("a", PROMPTS[0], "Cairo."),
            EditRequest("b", "Hi", "Giza.", (PROMPTS[0].upper(),)),
        )
