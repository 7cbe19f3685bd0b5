"""Editors by name: every name leads to an editor of that name, and an unknown one to a plain sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from editors.catalogue import EDITORS, entry, is_trained, listed, make


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
