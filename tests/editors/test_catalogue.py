"""Editors by name: every name leads to an editor of that name, and an unknown one to a plain sentence."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from editors.catalogue import EDITORS, entry, is_trained, listed, make
from editors.finetune import BoundedFinetune, PlainFinetune
from editors.generation import generate_greedy
from editors.override import OverrideEditor
from editors.patcher import Patcher, PatcherConfig
from editors.protocol import Kept
from tests.editors import subject_cases, test_editors_contract
from tests.editors.subject_cases import QUICK, REQUESTS
from tests.editors.tools import PROMPTS

MAKE: dict[str, Any] = {
    **test_editors_contract.MAKE,
    **{name: lambda _, make=make: make() for name, make in subject_cases.MAKE.items()},
    **{
        made.name: lambda _, made=made: made(dataclasses.replace(made.default, epochs=6, learning_rate=0.1))
        for made in (PlainFinetune, BoundedFinetune)
    },
    "override": lambda _: OverrideEditor(),
    "patcher": lambda _: Patcher(PatcherConfig(value=QUICK)),
}


@pytest.mark.parametrize("name", list(EDITORS))
def test_every_name_leads_to_its_editor(name: str) -> None:
    found = entry(name).editor_class()
    assert found.name == name
    if is_trained(name):
        assert all(callable(getattr(found, method)) for method in ("untrained", "load", "save", "edit"))
        with pytest.raises(ValueError, match="has to be trained"):
            make(name)
    else:
        editor = make(name)
        assert editor.name == name
        assert editor.digest() == make(name).digest()


def test_every_name_is_listed() -> None:
    assert all(f"`{name}`" in listed() for name in EDITORS)
    assert "malmen" in listed(trained=True)
    assert "malmen" not in listed(trained=False)


def test_an_unknown_name_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no editor 'nobody'; there are .*`finetune`"):
        make("nobody")
    assert not is_trained("nobody")
    assert not is_trained(str(tmp_path))


@pytest.mark.parametrize("name", list(EDITORS))
def test_what_must_stay_counts_for_an_editor_that_is_said_to_keep_it(name: str, loaded: Any) -> None:
    editor = MAKE[name](loaded[0])
    # What the model does not answer is nothing to hold on to; the first token of its noise reads as written.
    said = generate_greedy(*loaded, PROMPTS, chat=True, max_new_tokens=6)
    kept = [Kept(p, answer, opening=answer.strip()[:1]) for p, answer in zip(PROMPTS, said, strict=True)]
    held, without = (editor.edit(*loaded, REQUESTS, keep) for keep in (kept, []))
    assert (held.digest() != without.digest()) == entry(name).keeps


@pytest.mark.parametrize("name", [name for name, found in EDITORS.items() if found.without_kept])
def test_an_editor_said_to_be_another_where_nothing_must_stay_is_that_one(name: str, loaded: Any) -> None:
    one, other = (MAKE[which](loaded[0]) for which in (name, entry(name).without_kept))
    assert one.edit(*loaded, REQUESTS).digest() == other.edit(*loaded, REQUESTS).digest()


@pytest.mark.parametrize("name", [name for name, found in EDITORS.items() if not found.trained])
def test_settings_are_those_of_the_configuration(name: str) -> None:
    setting = {"expires_at": "2999-01-31T00:00:00+00:00"} if name == "override" else {"modules": "mlp"}
    changed = make(name, **setting)
    assert changed.configuration()["config"] == {**make(name).configuration()["config"], **setting}
    assert type(changed) is type(make(name))
    assert changed.digest() != make(name).digest()
    with pytest.raises(ValueError, match=f"the editor '{name}' has no setting 'colour'"):
        make(name, colour="red")
