"""The image and the job templates: what they copy, name and mount is there, and Prefect's workers take it."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deployments"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOME = "/srv/mendflow"
USER = "10001"


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: each instruction, in capitals, and what follows it on one line."""
    text = (FOLDER / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined]


INSTRUCTIONS = instructions()


def of(instruction: str) -> list[str]:
    return [words for name, words in INSTRUCTIONS if name == instruction]


def copied() -> list[str]:
    """Paths of the checkout that the image is made of."""
    return [path for words in of("COPY") if "--from" not in words for path in words.split()[:-1]]


def template(kind: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{kind}-pool.json").read_text())


def test_what_is_copied_is_there_and_is_all_that_the_package_is_built_of():
    for path in copied():
        assert (ROOT / path).exists(), path
    project = PROJECT["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt"} <= set(
        copied()
    )
    packages = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages == {path.split("/")[0] for path in copied() if (ROOT / path.split("/")[0]).is_dir()}


def test_the_build_sees_what_is_copied_and_no_more():
    lines = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied())
    assert any(fnmatch.fnmatch("flows/__pycache__", rule) for rule in rules[-1:])


def test_the_image_has_the_extras_that_there_are_and_runs_commands_that_it_installs():
    arguments = dict(words.partition("=")[::2] for words in of("ARG"))
    assert arguments["EXTRAS"] in PROJECT["project"]["optional-dependencies"]
    required = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert arguments["BASE"].startswith(f"python:{required}-")
    assert json.loads(of("CMD")[0])[0] in {"prefect", *PROJECT["project"]["scripts"]}
    pins = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^torch==", pins, re.MULTILINE)
    installs = [words for words in of("RUN") if "pip install" in words]
    assert installs
    assert all("--constraint constraints.txt" in words for words in installs)


def test_it_runs_as_nobody_in_a_home_that_is_a_volume():
    assert of("USER") == [f"{USER}:{USER}"]
    assert of("VOLUME") == [HOME]
    assert f"MENDFLOW_HOME={HOME}" in of("ENV")[-1].split()
    assert f"HOME={HOME}" in of("ENV")[-1].split()
    after = [name for name, _ in INSTRUCTIONS[[name for name, _ in INSTRUCTIONS].index("USER") :]]
    assert after == ["USER", "WORKDIR", "VOLUME", "CMD"], "nothing is written as another user"


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_no_address_is_named(path: Path):
    assert "://" not in path.read_text()


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_template_names_this_version_and_every_variable_is_used(kind: str):
    found = template(kind)
    variables = found["variables"]["properties"]
    assert variables["image"]["default"] == f"mendflow:{PROJECT['project']['version']}"
    assert all({"title", "description"} <= set(one) for one in variables.values())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(found["job_configuration"])))
    assert used == set(variables)


def test_both_mount_the_home_of_the_image_for_its_user():
    assert template("docker")["variables"]["properties"]["volumes"]["default"] == [f"mendflow:{HOME}"]
    pod = template("kubernetes")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [(one["name"], one["mountPath"]) for one in container["volumeMounts"]] == [("home", HOME)]
    assert [one["name"] for one in pod["volumes"]] == ["home"]
    assert {pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {int(USER)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_template_takes_what_prefects_own_takes(kind: str):
    """But for what Prefect's worker is told of registries and clusters by its own machine."""
    worker = pytest.importorskip(f"prefect_{kind}.worker", reason=f"prefect-{kind} is not installed")
    theirs = getattr(worker, f"{kind.capitalize()}Worker").get_default_base_job_template()
    ours = template(kind)
    missing = set(theirs["job_configuration"]) - set(ours["job_configuration"])
    assert missing <= {"registry_credentials", "cluster_config"}
    own_words = {"title", "description", "default", "examples"}
    for name, wanted in theirs["variables"]["properties"].items():
        if name in missing or "{{" not in str(ours["job_configuration"].get(name, "{{")):
            continue
        if name not in ours["variables"]["properties"]:
            assert name == "container_create_kwargs", name
            continue
        given = ours["variables"]["properties"][name]
        assert {k: v for k, v in given.items() if k not in own_words} == {
            k: v for k, v in wanted.items() if k not in own_words
        }, name


@pytest.mark.slow
def test_what_is_copied_installs_as_mendflow_with_all_that_it_reads(tmp_path: Path):
    """The build's last step without a container, on the packages that are here."""
    checkout, installed = tmp_path / "checkout", tmp_path / "installed"
    for path in copied():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            ours = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / path, checkout / path, ignore=ours)
        else:
            shutil.copy(ROOT / path, checkout / path)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(installed), str(checkout)], check=True)
    kept = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    packages = [path for path in copied() if (ROOT / path).is_dir()]
    tracked = subprocess.run(
        ["git", "ls-files", *packages], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(tracked.stdout.split()) | {"deployments/prefect.yaml", "bin/mendflow"} <= kept
    asked = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main()", "status", "none", "--home", "home"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (asked.returncode, "nothing is known of a model 'none'" in asked.stderr) == (2, True), asked.stderr
