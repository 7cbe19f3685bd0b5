"""Served models for tests, and who asks them."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from fastapi.testclient import TestClient

from editors.delta import Delta
from editors.generation import generate_greedy
from flows.serve import Shares, configured, served
from flows.settings import CorrectSettings
from tasks.approval import TAG
from tasks.live_rollout import Rollout
from tasks.live_server import Limits
from tasks.models import ModelFolder, load, resolve
from tasks.register import register
from tasks.registry import CHAMPION, describe, tag_version
from tasks.tracking import tracking
from tests.deltas import MATRIX, dense

PROMPTS = ["What is the capital of Egypt?", "Hi", "On which continent is Peru?", "Name the yen."]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_names = itertools.count()


@dataclass(frozen=True)
class Known:
    """A registered model with three versions: its base, and two deltas."""

    settings: CorrectSettings
    base: ModelFolder

    @property
    def name(self) -> str:
        return self.settings.model_name

    def champion(self, number: str) -> None:
        with tracking(self.settings.tracking) as client:
            client.set_registered_model_alias(self.name, CHAMPION, number)

    def tag(self, number: str, **tags: str) -> None:
        tag_version(self.name, number, tags, tracking_uri=self.settings.tracking)

    def candidate(self, number: str) -> None:
        """It alone waits for a person."""
        for other in ("1", "2", "3"):
            if other != number:
                self.tag(other, **{TAG: "superseded"})
        self.tag(number, **{TAG: "pending"})

    def add(self, delta: Delta, folder: Path) -> str:
        Delta(delta.shifts, {**delta.manifest, "base_digest": self.base.digest}).save(folder)
        return register(self.name, tracking_uri=self.settings.tracking, base=self.base, delta_dir=folder)

    def expected(self, number: str, prompts: list[str], *, chat: bool, tokens: int) -> list[str]:
        """What the version answers to each prompt by itself."""
        ref = f"models:/{self.name}/{number}"
        model, tokenizer = load(resolve(ref, tracking_uri=self.settings.tracking))
        return [
            generate_greedy(model, tokenizer, [prompt], chat=chat, max_new_tokens=tokens)[0]
            for prompt in prompts
        ]


def known_model(home: Path, tracking_uri: str, base: ModelFolder) -> Known:
    """A model of three versions, of which the second is the champion."""
    name = f"served-{next(_names)}"
    settings = CorrectSettings(
        model_name=name, home=home, tracking_uri=tracking_uri, experiment=f"{name} traffic"
    )
    known = Known(settings, base)
    register(name, tracking_uri=tracking_uri, base=base)
    for seed in (1, 2):
        known.add(Delta({MATRIX: dense(seed)}), home / f"delta{seed}")
    known.champion("2")
    return known


@contextmanager
def client_of(
    known: Known, limits: Limits | None = None, shares: Shares | None = None
) -> Iterator[TestClient]:
    """A client of the application; champion and candidate are only looked up when a test says so."""
    with (
        served(known.settings, limits or Limits(), shares=shares, poll_seconds=600) as app,
        TestClient(app, raise_server_exceptions=True) as client,
    ):
        yield client


def rollout_of(client: TestClient) -> Rollout:
    """What tries the candidate, once it has looked for one."""
    rollout: Rollout = client.app.state.service.rollout  # type: ignore[attr-defined]
    rollout.look()
    return rollout


def ask(client: Any, prompt: str, tokens: int = 8, **more: Any) -> Any:
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, **more}
    return client.post(CHAT, json=body)


def traced(known: Known) -> list[Any]:
    with tracking(known.settings.tracking) as client:
        experiment = client.get_experiment_by_name(known.settings.experiment).experiment_id
        found: list[Any] = []
        token: str | None = None
        while token != "":
            page = client.search_traces(
                locations=[experiment], order_by=["timestamp_ms ASC"], max_results=500, page_token=token
            )
            found.extend(page)
            token = page.token or ""
    return found


def events(response: Any) -> list[Any]:
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def damage(known: Known, number: str) -> None:
    """Another delta than the registered one stands in the version's artifacts."""
    import mlflow

    with tracking(known.settings.tracking):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{known.name}/{number}"))
    delta = Delta({MATRIX: torch.ones(48, 96)}, {"base_digest": known.base.digest})
    delta.save(folder / "artifacts" / "mendflow" / "delta")


@contextmanager
def running(
    known: Known, limits: Limits | None = None, shares: Shares | None = None
) -> Iterator[httpx.Client]:
    """A client of a real server, which follows champion and candidate by itself."""
    import uvicorn

    every = {"poll_seconds": 0.05, "report_seconds": 0.2}
    with served(known.settings, limits or Limits(), shares=shares, **every) as app:
        server = uvicorn.Server(configured(app))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                until(lambda: server.started)
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                with httpx.Client(base_url=url, timeout=60) as client:
                    yield client
            finally:
                server.should_exit = True
                thread.join()


def until(true: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tags_of(known: Known, number: str) -> dict[str, str]:
    versions = describe(known.name, tracking_uri=known.settings.tracking).versions
    return dict(next(version.tags for version in versions if version.number == number))


def text(response: Any) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])
