"""Keys of reporters: shown once, kept as digests, taken back."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tasks.records import UserError
from tasks.reporters import ReportersFile, add_reporter, read_reporters, remove_reporter, reporter_of
from tests.threads import at_once


def test_a_key_opens_for_its_name_alone_and_is_not_kept(tmp_path: Path):
    path = tmp_path / "home" / "reporters.json"
    ann, shop = add_reporter(path, "ann"), add_reporter(path, "shop", ["tiny", "small", "tiny"])
    kept = read_reporters(path)
    assert [(one.name, one.models) for one in kept] == [("ann", ()), ("shop", ("tiny", "small"))]
    found = reporter_of(ann, kept), reporter_of(shop, kept)
    assert [one.name for one in found if one] == ["ann", "shop"]
    for wrong in ("", "x", ann[:-1], f"{ann} ", ann.upper(), kept[0].key_sha256, "\ud800", "\u00e9" * 9):
        assert reporter_of(wrong, kept) is None
    written = "".join(file.read_text() for file in path.parent.iterdir())
    assert ann not in written
    assert shop not in written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(ann) > 40


def test_a_key_that_is_taken_back_opens_nothing_and_the_name_may_have_another(tmp_path: Path):
    path = tmp_path / "reporters.json"
    first, other = add_reporter(path, "ann"), add_reporter(path, "bob")
    file = ReportersFile(path)
    assert reporter_of(first, file.now()) is not None
    remove_reporter(path, "ann")
    assert reporter_of(first, file.now()) is None
    assert reporter_of(other, file.now()) is not None
    second = add_reporter(path, "ann")
    assert reporter_of(first, file.now()) is None
    assert reporter_of(second, file.now()) is not None
    path.unlink()
    assert file.now() == ()


@pytest.mark.parametrize(
    "name", ["", "../ann", "a/b", "a:b", "-ann", "ann\n", "\u00e5nn", "a" * 65, "a\x1b[31m"]
)
def test_a_name_that_could_pass_for_another_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match="is not a reporter's name"):
        add_reporter(tmp_path / "reporters.json", name)
    with pytest.raises(UserError, match="is not a model's name"):
        add_reporter(tmp_path / "reporters.json", "ann", [f"{name}/x"])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_added_or_removed_is_one_sentence(tmp_path: Path):
    path = tmp_path / "reporters.json"
    with pytest.raises(UserError, match=r"no reporter 'ann' .* \(reporters: there are none\)"):
        remove_reporter(path, "ann")
    add_reporter(path, "ann")
    with pytest.raises(UserError, match="'ann' has a key already; for a new one, remove it"):
        add_reporter(path, "ann")
    with pytest.raises(UserError, match=r"no reporter 'bob' .* \(reporters: ann\)"):
        remove_reporter(path, "bob")


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"version": 2, "reporters": []}', '{"version": 1, "reporters": [{"name": "KEY-IN-CLEAR"}]}'],
)
def test_a_file_that_is_not_ours_lets_nobody_in_and_is_left_alone(content: str, tmp_path: Path):
    path = tmp_path / "reporters.json"
    path.write_text(content)
    for act in (read_reporters, ReportersFile, lambda p: add_reporter(p, "ann")):
        with pytest.raises(UserError, match="is not a file of reporters") as refused:
            act(path)
        assert "KEY-IN-CLEAR" not in str(refused.value)
    assert path.read_text() == content


def test_reporters_that_are_added_at_once_are_all_kept(tmp_path: Path):
    path = tmp_path / "reporters.json"
    at_once(lambda name: add_reporter(path, name), [f"r{i}" for i in range(8)])
    assert {one.name for one in read_reporters(path)} == {f"r{i}" for i in range(8)}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        add_reporter(tmp_path / "reporters.json", "ann")


def test_the_file_is_readable_json_for_people(tmp_path: Path):
    path = tmp_path / "reporters.json"
    add_reporter(path, "ann", ["tiny"])
    (one,) = json.loads(path.read_text())["reporters"]
    assert (one["name"], one["models"]) == ("ann", ["tiny"])
