"""A report is closed as already correct where the champion says what was wanted, and not what was wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from editors.generation import generate_greedy
from flows.already_correct import close_already_correct
from flows.settings import CorrectSettings
from flows.stages import Champion
from tasks.ledger import Ledger
from tasks.measuring import GATE_TOKENS
from tasks.models import load, resolve
from tasks.records import State
from tests.conftest import ModelFactory
from tests.tasks.ledger_tools import MODEL, report
from validation.matching import normalise_answer

PROMPT = "What is the capital of Egypt?"


@pytest.mark.parametrize(
    ("target", "wrong", "state"),
    [
        ("end", "begin", State.ACCEPTED),
        ("end", "", State.ALREADY_CORRECT),
        ("end", "another answer", State.ALREADY_CORRECT),
        ("{whole}!", "whole", State.ACCEPTED),
    ],
    ids=["both", "none reported", "another", "the same"],
)
def test_what_holds_the_wrong_answer_or_is_it_is_not_closed(
    tiny_llama: ModelFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    wrong: str,
    state: State,
) -> None:
    # The tiny model never ends, and would say more to a longer target.
    monkeypatch.setattr("flows.already_correct.room_for", lambda *_: GATE_TOKENS)
    folder = resolve(str(tiny_llama()), cache=tmp_path)
    (said,) = generate_greedy(*load(folder), [PROMPT], chat=True, max_new_tokens=GATE_TOKENS)
    words = normalise_answer(said).split()
    parts = {"begin": " ".join(words[:2]), "end": " ".join(words[-2:]), "whole": said}
    assert len(words) > 4
    settings = CorrectSettings(model_name=MODEL, home=tmp_path)
    wanted = f"{said}!" if target == "{whole}!" else parts[target]
    with Ledger(settings.ledger) as ledger:
        # Of an earlier version: what the champion itself was reported for is not asked again.
        ledger.record([report(PROMPT, wanted, "s1", wrong_output=parts.get(wrong, wrong), model_version="0")])
        close_already_correct.fn(settings, ledger, Champion("1", folder, ()), lambda *_: None)
        (found,) = ledger.corrections(MODEL)
    assert found.state is state
