"""Fixtures that tests of several editors share: a decoder-only model, and statistics of its keys."""

from __future__ import annotations

from typing import Any

import pytest

from editors.key_statistics import KeyStatistics
from editors.locate import default_modules
from tests.editors.subject_cases import TEXT
from tests.editors.tools import folder_of, load


# What GPT-2 has of its own, matrices that are (in, out), the fast tests of the editors' contract see.
@pytest.fixture(params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def architecture(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def loaded(architecture: str, request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return load(folder_of(architecture, request))


@pytest.fixture
def statistics(loaded: Any) -> KeyStatistics:
    """Of the first two layers; reading text is faster than writing it."""
    model, tokenizer = loaded
    return KeyStatistics.gather(model, tokenizer, default_modules(model, depth=(0, 0.7)), TEXT)
