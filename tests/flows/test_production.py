"""Production on one machine, on real servers and a real worker: schedules and flagged errors start runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from flows.machine import DEPLOYMENTS, Machine
from flows.parts import PARTS, SERVE
from tasks.registry import describe
from tests.flows.production import (
    SCHEDULED,
    THRESHOLD,
    Production,
    free_port,
    in_production,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

OTHER, THIRD, REVIEWED = "flagged", "third model", "reviewed"


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory, tiny_llama) -> Iterator[Production]:
    folder = tmp_path_factory.mktemp("production")
    answers = folder / "answers.jsonl"
    answers.write_text('{"prompt": "What is the capital of Niue?", "target": "Cairo"}\n')
    more = ("--serve", "--serve-port", str(free_port()), "--canary", "0.1")
    more += ("--answerer", f"table:{answers}", "--set", "keep_confirmed=7")
    with in_production(folder, str(tiny_llama(hidden_size=64)), more=more) as made:
        yield made


def test_up_twice_says_that_it_runs_and_starts_nothing(production: Production):
    machine = Machine(production.home)
    before = {name: machine.part(name).about for name in machine.running()}
    assert "is running already" in production.mendflow("up", *production.arguments)
    assert {name: machine.part(name).about for name in machine.running()} == before
    assert list(before) == list(PARTS)


def completed(production: Production) -> list[dict[str, Any]]:
    return [run for run in production.runs("SCHEDULE") if run["state_type"] == "COMPLETED"]


def test_scheduled_runs_are_created_and_completed(production: Production):
    def flows() -> set[str]:
        ids = {run["flow_id"] for run in completed(production)}
        return {httpx.get(f"{production.api}/flows/{id_}").json()["name"] for id_ in ids}

    until(lambda: flows() == {"correct", "revalidate", "decide"})
    runs = production.runs("SCHEDULE")
    assert not [run for run in runs if run["state_type"] in ("FAILED", "CRASHED")]
    assert {run["parameters"]["settings"]["model_name"] for run in runs} == {SCHEDULED}
    # What `up` was given has its place in them.
    assert {run["parameters"]["settings"]["keep_confirmed"] for run in runs} == {7}
    assert {run["parameters"]["settings"]["answerer"]["kind"] for run in runs} == {"table"}


def test_the_model_is_served_beside_them(production: Production):
    url = Machine(production.home).part(SERVE).about["url"]
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).json()["model"] == SCHEDULED
    assert httpx.get(f"{url}/health").json()["candidate"]["version"] is None
    # With other shares it is served anew, at the same place.
    pids = [Machine(production.home).part(SERVE).about["pid"]]
    place = production.arguments.index("--canary") + 1
    others = [*production.arguments[:place], "0.2", *production.arguments[place + 1 :]]
    for given in (others, others, production.arguments):
        production.mendflow("up", *given)
        pids.append(Machine(production.home).part(SERVE).about["pid"])
        assert httpx.get(f"{url}/health").json()["status"] == "ok"
    assert pids[1] == pids[2]
    assert len(set(pids)) == 3


def test_enough_flagged_errors_start_one_run_for_their_model_and_one_less_none(production: Production):
    production.flag(THIRD, THRESHOLD - 1)
    production.post(OTHER, THRESHOLD)
    # Events are counted in their order: the third model's were before these.
    until(lambda: production.models()[OTHER])
    assert production.models() == {OTHER: 1}
    production.flag(THIRD, 1, first=THRESHOLD - 1)
    until(lambda: production.models()[THIRD])
    until(lambda: {run["state_type"] for run in production.runs("AUTOMATION")} == {"COMPLETED"}, 900)
    assert production.models() == {OTHER: 1, THIRD: 1}
    for name in (OTHER, THIRD):
        state = describe(name, tracking_uri=f"sqlite:///{production.home / 'mlflow.db'}")
        assert state.champion == "2", name
        assert "active │ 3" in production.mendflow("status", name)


def test_a_person_approves_on_prefects_page(production: Production):
    production.flag(REVIEWED, THRESHOLD - 1)
    of_tiny = ("--editor", "finetune", "--gates", str(production.home.parent / "gates.yaml"))
    base = production.arguments[production.arguments.index("--base") + 1]
    assert "held: " in production.mendflow("correct", REVIEWED, "--review", "--base", base, *of_tiny)
    id_ = httpx.get(f"{production.api}/deployments/name/approve/approve").json()["id"]

    def run(**parameters: object) -> httpx.Response:
        sent = {"parameters": {"settings": {"model_name": REVIEWED}, **parameters}}
        return httpx.post(f"{production.api}/deployments/{id_}/create_flow_run", json=sent)

    assert run(note="read the report").is_client_error
    assert run(by="ann", note="read the report").is_success
    store = f"sqlite:///{production.home / 'mlflow.db'}"
    until(lambda: describe(REVIEWED, tracking_uri=store).champion == "2")
    status = production.mendflow("status", REVIEWED)
    assert "approved by ann: read the report" in status
    assert "promote" in status


def test_down_stops_every_process_and_up_goes_on_with_the_same_stores(production: Production):
    machine = Machine(production.home)
    parts = [machine.part(name).running() for name in machine.running()]
    urls = [machine.part(name).about.get("url") for name in machine.running()]
    family = [one for part in parts if part for one in (part, *part.children(recursive=True))]
    # It may say that it ended a run besides.
    assert production.mendflow("down").startswith("stopped serve, endpoint, worker, mlflow, prefect\n")
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert "nothing of `mendflow up` runs" in production.mendflow("down")
    said = production.mendflow("up")
    assert "goes on with --model scheduled" in said
    assert [machine.part(name).about.get("url") for name in machine.running()] == urls
    assert production.models() == {OTHER: 1, THIRD: 1}
    before = len(completed(production))
    until(lambda: len(completed(production)) > before)


def test_for_no_model_nothing_is_scheduled_any_more_and_with_one_it_is_again(production: Production):
    def scheduled() -> set[str]:
        found = httpx.post(f"{production.api}/deployments/filter", json={}).json()
        assert len(found) == len(yaml.safe_load(DEPLOYMENTS.read_text())["deployments"])
        return {one["name"] for one in found if one["schedules"]}

    assert scheduled() == {"correct", "decide", "revalidate"}
    said = " ".join(production.mendflow("up", "--model", "").split())
    assert "nothing is scheduled" in said
    assert "scheduled is served until `mendflow down`, and then no more" in said
    assert scheduled() == set()
    # Runs that wait for another one's end are no plans.
    names = {"flow_runs": {"state": {"name": {"any_": ["Scheduled", "Late"]}}}}
    planned = httpx.post(f"{production.api}/flow_runs/filter", json=names)
    assert planned.json() == []
    production.mendflow("up", *production.arguments)
    assert scheduled() == {"correct", "decide", "revalidate"}


def test_a_deployment_that_the_file_leaves_out_is_removed_and_a_users_own_is_not(production: Production):
    def deployed() -> set[str]:
        return {one["name"] for one in httpx.post(f"{production.api}/deployments/filter", json={}).json()}

    file = Path(production.arguments[production.arguments.index("--deployments") + 1])
    flow = httpx.post(f"{production.api}/flows/", json={"name": "mine"}).json()["id"]
    mine = {"name": "my own", "flow_id": flow, "work_pool_name": "mendflow", "entrypoint": "mine:flow"}
    httpx.post(f"{production.api}/deployments/", json=mine).raise_for_status()
    everything = deployed()
    assert {"rollback", "my own"} < everything
    whole = file.read_text()
    content = yaml.safe_load(whole)
    content["deployments"] = [one for one in content["deployments"] if one["name"] != "rollback"]
    file.write_text(yaml.safe_dump(content))
    said = production.mendflow("up", *production.arguments)
    assert "the deployment rollback is removed" in said
    assert deployed() == everything - {"rollback"}
    file.write_text(whole)
    production.mendflow("up", *production.arguments)
    assert deployed() == everything
