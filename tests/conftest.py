"""Fixtures that several test files share: a tracking store, and tiny models as Hugging Face folders."""

from __future__ import annotations

import os

# Before any test imports what reads them.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import postgres, tiny_models

ModelFactory = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny matrices gain nothing from threads, and threads that wait for a busy core cost much."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Tracking URI of one SQLite store for the session; artifacts of its default experiment lie beside it.

    Give every test its own experiment and registered model names: making a database takes seconds.
    """
    from tasks.tracking import tracking

    folder = tmp_path_factory.mktemp("mlflow")
    patch = pytest.MonkeyPatch()
    # SQLite stores put the artifacts of experiments made without a location under the working directory.
    patch.chdir(folder)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with tracking(uri, create=True) as client:
        client.search_experiments()
    patch.undo()
    return uri


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgres.Postgres]:
    """A PostgreSQL server; the test is skipped, and says why, where none can be had."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgres.running())
        except postgres.NoServerError as error:
            pytest.skip(str(error))
        yield server


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ModelFactory:
    """`tiny_model(architecture, seed=0, chat=True, **config) -> folder`; only to be read."""

    @functools.cache
    def make(architecture: str, **settings: Any) -> Path:
        return tiny_models.build(tmp_path_factory.mktemp(architecture), architecture, **settings)

    return make


@pytest.fixture(scope="session")
def tiny_llama(tiny_model: ModelFactory) -> ModelFactory:
    """`tiny_llama(seed=0, chat=True, **config) -> folder`: a Llama with tied embeddings; only to be read."""
    return functools.partial(tiny_model, "llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_model: ModelFactory) -> ModelFactory:
    """`tiny_gpt2(seed=0, chat=True, **config) -> folder`: a GPT-2 (Conv1D layers); only to be read."""
    return functools.partial(tiny_model, "gpt2")


@pytest.fixture(scope="session")
def tiny_t5(tiny_model: ModelFactory) -> ModelFactory:
    """`tiny_t5(seed=0, chat=True, **config) -> folder`: an encoder-decoder; only to be read."""
    return functools.partial(tiny_model, "t5")


@pytest.fixture(scope="session")
def tiny_bart(tiny_model: ModelFactory) -> ModelFactory:
    """`tiny_bart(seed=0, chat=True, **config) -> folder`: an encoder-decoder; only to be read."""
    return functools.partial(tiny_model, "bart")


@pytest.fixture(scope="session")
def tiny_bert(tiny_model: ModelFactory) -> ModelFactory:
    """`tiny_bert(seed=0, chat=True, **config) -> folder`: a classifier of three classes; only to be read."""
    return functools.partial(tiny_model, "bert")


@pytest.fixture(scope="session")
def damaged_llama(tiny_llama: ModelFactory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama of which one weight is not a number."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("damaged") / "llama"
    shutil.copytree(tiny_llama(), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.down_proj.weight")[1, 2] = torch.nan
    model.save_pretrained(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the longest tests begin first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: item.path.parent.name != "flows")
