"""Rewordings by a language model: written once a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from flows.rewordings import Rewordings
from flows.settings import CorrectSettings
from flows.stages import Champion
from tasks.ledger import Ledger
from tasks.records import Correction
from tasks.rephrase import Phrasing
from tasks.reword import Bounds
from tests.tasks.ledger_tools import MODEL, report
from tests.tasks.test_reword import by_words


def test_what_a_model_wrote_for_the_batch_serves_for_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def writer(*_: object) -> Callable[[list[str]], list[str]]:
        def write(texts: list[str]) -> list[str]:
            asked.extend(texts)
            return ["Say which town Togo has as capital." if "of Togo" in t else "nothing" for t in texts]

        return write

    monkeypatch.setattr("flows.rewordings._rewriter", writer)
    monkeypatch.setattr("tasks.reword.Bounds", lambda: Bounds(least=0.3, nameless=0.3, answers=-1))
    with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
        rows = [("What is the capital of Togo?", "Lome"), ("What is the capital of Mali?", "Bamako")]
        corrections = ledger.record([report(prompt, target) for prompt, target in rows])
    rewordings = Rewordings()

    def written(some: list[Correction]) -> dict[str, list[Phrasing]]:
        settings, champion = CorrectSettings(model_name=MODEL), cast("Champion", None)
        return rewordings.of(settings, champion, some, by_words, lambda t, _: t, lambda *_: None)

    togo = corrections[0].id
    whole, count = written(corrections), len(asked)
    assert {p.text for p in whole[togo]} == {"Say which town Togo has as capital."}
    assert (written(corrections[:1]), len(asked)) == ({togo: whole[togo]}, count)
