"""The rooms of the project: who may import whom, and that importing does nothing."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("editors", "validation", "tasks", "flows")
# Below a room are the rooms it may import from; editors may use four packages and no more.
MAY_IMPORT = {
    "editors": {"editors", "torch", "safetensors", "transformers", "peft"},
    "validation": {"editors", "validation"},
    "tasks": {"editors", "validation", "tasks"},
    "flows": set(ROOMS),
}
# Heavy, or with side effects of their own: imported where they are used.
LAZY = {
    "mlflow",
    "great_expectations",
    "prefect",
    "datasets",
    "matplotlib",
    "transformers",
    "peft",
    "sklearn",
}
# MLflow runs this file by itself, in the process that serves.
SERVED = "tasks.serving_model"


def modules(room: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the packages that are imported anywhere in the tree."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downwards(room: str) -> None:
    found = list(modules(room))
    assert found
    for path, tree in found:
        names = imported(tree)
        assert not (names & set(ROOMS)) - MAY_IMPORT[room], path
        assert "tests" not in names, path
        if room == "editors":
            assert not names - set(sys.stdlib_module_names) - MAY_IMPORT["editors"], path
        if room in ("editors", "validation"):
            assert "prefect" not in names, path
        if room == "validation":
            assert not names & {"mlflow", "sqlalchemy", "datasets"}, path


IMPORT_ALL = f"""
import importlib, json, pkgutil, random, sys, warnings
warnings.simplefilter("error", ResourceWarning)
import torch
def settings():
    return random.getstate(), torch.initial_seed(), torch.get_num_threads(), torch.get_default_dtype()
first, before, loaded = settings(), set(sys.modules), []
for room in ("editors", "validation", "tasks"):
    package = importlib.import_module(room)
    for found in pkgutil.walk_packages(package.__path__, room + "."):
        if found.name != {SERVED!r} and ".migrations" not in found.name:
            importlib.import_module(found.name)
            loaded.append(found.name)
import logging
print(json.dumps({{
    "loaded": loaded,
    "packages": sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}),
    "handlers": len(logging.getLogger().handlers),
    "touched": settings() != first,
    "cuda": torch.cuda.is_initialized(),
}}))
"""


def test_nothing_happens_at_import(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORT_ALL],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    expected = {
        path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for room in ("editors", "validation", "tasks")
        for path, _ in modules(room)
        if "/migrations/" not in path
    } - {SERVED, "editors", "validation", "tasks"}
    assert set(report["loaded"]) == expected
    assert not set(report["packages"]) & LAZY
    assert report["handlers"] == 0
    assert not report["touched"]
    assert not report["cuda"]
    assert list(tmp_path.iterdir()) == []
