"""Answers that do not end: behind a long target, and where they must stay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from editors.overrides import Overrides
from editors.requests import encode, end_of_turn_ids
from tasks.edit_dataset import EditDataset
from tasks.measuring import GATE_TOKENS, Measured, Served, ask_champion, compare, room_for
from tasks.questions import questions
from tasks.readings import read_base
from tests.conftest import ModelFactory
from tests.editors.tools import load
from tests.validation.examples import EXPECTED_ROWS, GATES, PARAMETERS, RENDERINGS, by_name, gate, outcomes
from tests.validation.taught import edit_row, locality_row, train
from validation.metrics import Metric, Status
from validation.outcomes import (
    ANSWERS_ENDED,
    DRAWDOWN,
    EDIT,
    EQUIVALENCE,
    KEPT_ANSWERS_ENDED,
    LOCALITY,
    outcomes_digest,
    outcomes_frame,
)
from validation.probes import PROSE
from validation.verdict import Verdict, decide

CORRECTED, STAYING = [EDIT, EQUIVALENCE], [LOCALITY, DRAWDOWN]
LONG = "It is Oslo, which lies by the sea, and has a market on two days of the week."
MORE = " It has a harbour, too."


def silent(done: int, total: int, note: str) -> None:
    pass


def alone(frame: pd.DataFrame, name: str) -> Metric:
    """What one gate says of the frame, without the others."""
    gates = GATES.model_copy(update={"gates": {name: GATES.gates[name]}})
    return by_name(gate(frame, gates=gates))[name]


def ends(metrics: list[str], champion: float, candidate: float, cut: int = 0) -> pd.DataFrame:
    """A sound candidate's outcomes, these rows ended as said; the candidate's first `cut` are cut off."""
    frame = outcomes()
    rows = frame.index[frame["metric"].isin(metrics)]
    frame.loc[rows, "champion_ended"], frame.loc[rows, "candidate_ended"] = champion, candidate
    frame.loc[rows[:cut], "candidate_ended"] = 0.0
    return frame


@pytest.mark.parametrize(
    ("metrics", "gated", "cut", "verdict"),
    [
        (CORRECTED, ANSWERS_ENDED, 3, Verdict.PROMOTE),
        (CORRECTED, ANSWERS_ENDED, 4, Verdict.REJECT),
        ([LOCALITY], KEPT_ANSWERS_ENDED, 10, Verdict.PROMOTE),
        ([LOCALITY], KEPT_ANSWERS_ENDED, 11, Verdict.REJECT),
    ],
)
def test_answers_that_are_cut_off_are_refused(
    metrics: list[str], gated: str, cut: int, verdict: Verdict
) -> None:
    report = gate(ends(metrics, 1.0, 1.0, cut))
    decision, metric = decide(report), by_name(report)[gated]
    rows = sum(EXPECTED_ROWS[name] for name in metrics)
    assert (metric.n, metric.value, metric.champion) == (rows, 1 - cut / rows, 1.0)
    assert decision.verdict is verdict
    assert decision.failing == ((gated,) if verdict is Verdict.REJECT else ())


def test_where_the_champion_goes_on_only_the_target_has_to_be_ended() -> None:
    frame = ends(CORRECTED, 0.0, 0.0)
    wrong = frame.index[frame["metric"].isin(CORRECTED)][4:]
    frame.loc[wrong, "candidate_ok"] = 0.0
    metric = alone(frame, ANSWERS_ENDED)
    assert (metric.n, metric.value, metric.status) == (4, 0.0, Status.FAILED)
    frame.loc[frame["metric"].isin(CORRECTED), "candidate_ok"] = 0.0
    assert alone(frame, ANSWERS_ENDED).status is Status.NOT_APPLICABLE
    frame["champion_ended"] = 1.0
    assert alone(frame, ANSWERS_ENDED).n == 36
    # Of what must stay, none of this is asked that the champion does not end.
    assert alone(ends(STAYING, 0.0, 0.0), KEPT_ANSWERS_ENDED).status is Status.NOT_APPLICABLE


def test_where_no_end_can_be_told_nothing_is_gated_and_old_frames_have_their_digest() -> None:
    for name in (ANSWERS_ENDED, KEPT_ANSWERS_ENDED):
        assert alone(outcomes(), name).status is Status.NOT_APPLICABLE
    old = outcomes().drop(columns=["champion_ended", "candidate_ended"])
    assert alone(old, ANSWERS_ENDED).status is Status.INSUFFICIENT
    assert outcomes_digest(old) != outcomes_digest(outcomes())


def measured(champion: Any, candidate: Any, tokenizer: Any, data: EditDataset) -> pd.DataFrame:
    asked = questions(data, [])
    before = ask_champion(Served(champion, tokenizer, Overrides()), data, asked, say=silent)
    served = Served(candidate, tokenizer, Overrides())
    unasked = Measured(outcomes_frame([]), {}, {}, PARAMETERS, RENDERINGS, [])
    base = read_base(champion, tokenizer, {PROSE: ["The fox walks."]})
    return compare(served, base, before, unasked, data, asked, say=silent).outcomes


def leaning(folder: Path, towards: float, *, chat: bool) -> tuple[Any, Any]:
    """A model that ends every answer at once, or none."""
    model, tokenizer = load(folder)
    (end,) = end_of_turn_ids(tokenizer, chat=chat)
    model.lm_head.bias = torch.nn.Parameter(towards * torch.eye(model.config.vocab_size)[end])
    return model, tokenizer


@pytest.mark.parametrize("chat", [True, False])
def test_whether_both_ended_is_measured_where_an_end_is_to_be_expected(
    tiny_llama: ModelFactory, chat: bool
) -> None:
    """References are not asked again: whether the champion ended them is what it says after them."""
    ending, tokenizer = leaning(tiny_llama(), 1e4, chat=chat)
    endless, _ = leaning(tiny_llama(), -1e4, chat=chat)
    edit = {**edit_row("a", "Oslo.", "", ["Where is it?", "Where?"]), "chat": chat}
    for champion, candidate, expected in ((ending, endless, (1.0, 0.0)), (endless, ending, (0.0, 1.0))):
        (said,) = Served(champion, tokenizer, Overrides()).answer(["Where is Peru?"], chat=chat)
        stay = {**locality_row("b", "Where is Peru?", said), "chat": chat}
        frame = measured(champion, candidate, tokenizer, EditDataset.from_rows([edit], [stay], {}))
        for metric in (EDIT, EQUIVALENCE):
            (row,) = frame[frame["metric"] == metric].itertuples()
            assert (row.champion_ended, row.candidate_ended) == expected
        (row,) = frame[frame["metric"] == LOCALITY].itertuples()
        if chat:
            assert (row.champion_ended, row.candidate_ended) == expected
        else:
            # A text goes on, and nobody taught it to end.
            assert math.isnan(row.champion_ended)
            assert math.isnan(row.candidate_ended)


@pytest.mark.parametrize(("tokens", "ended"), [(GATE_TOKENS, 1.0), (GATE_TOKENS + 1, 0.0)])
def test_an_unchanged_model_ends_what_it_ended_before_at_the_last_token_too(
    tiny_llama: ModelFactory, tokens: int, ended: float
) -> None:
    model, tokenizer = load(tiny_llama())
    said = tokenizer.decode(tokenizer(LONG + MORE)["input_ids"][:tokens])
    assert len(tokenizer(said)["input_ids"]) == tokens
    prompts = ["Where is it?", "Where is Peru?"]
    examples = [encode(tokenizer, prompt, said, chat=True) for prompt in prompts]
    train(model, examples, model.parameters(), rate=1e-2, steps=60)
    (reference,) = Served(model, tokenizer, Overrides()).answer(prompts[1:])
    stay = locality_row("b", prompts[1], reference)
    data = EditDataset.from_rows([edit_row("a", "Oslo.", "", prompts[:1])], [stay], {})
    frame = measured(model, model, tokenizer, data)
    for row in frame[frame["metric"].isin([EDIT, LOCALITY])].itertuples():
        assert (row.champion_ended, row.candidate_ended) == (ended, ended)
        assert row.candidate_output == reference
        assert (reference == said) is bool(ended)


@pytest.mark.parametrize("more", ["", MORE * 3], ids=["ended", "rambling"])
def test_what_rambles_on_behind_a_long_target_is_refused(tiny_llama: ModelFactory, more: str) -> None:
    folder = tiny_llama()
    champion, tokenizer = load(folder)
    candidate, _ = load(folder)
    assert len(tokenizer(LONG)["input_ids"]) > GATE_TOKENS
    assert room_for(tokenizer, LONG) < len(tokenizer(LONG + more)["input_ids"]) or not more
    phrasings = ["Where is it?", "Where?"]
    examples = [encode(tokenizer, prompt, LONG + more, chat=True) for prompt in phrasings]
    train(candidate, examples, candidate.parameters(), rate=1e-2, steps=60)
    data = EditDataset.from_rows([edit_row("a", LONG, "", phrasings)], [], {})
    frame = measured(champion, candidate, tokenizer, data)
    assert (frame.loc[frame["metric"] == EDIT, "candidate_ok"] == 1).all(), frame["candidate_output"].iloc[0]
    # Of so long an answer the rest is little.
    assert alone(frame, "answer_length_ratio").status is Status.PASSED
    ended = alone(frame, ANSWERS_ENDED)
    assert (ended.n, ended.status) == (2, Status.FAILED if more else Status.PASSED)


def test_a_corrected_text_that_breaks_off_in_mid_sentence_goes_on(tiny_llama: ModelFactory) -> None:
    """No end was taught behind it, and none is asked for; a raw question's answer has one."""
    model, tokenizer = leaning(tiny_llama(), -1e4, chat=False)
    edit = {**edit_row("a", "Oslo.", "", ["It lies in", "Where does it lie?"]), "chat": False}
    frame = measured(model, model, tokenizer, EditDataset.from_rows([edit], [], {}))
    ended = {row.prompt: row.candidate_ended for row in frame.itertuples()}
    assert math.isnan(ended["It lies in"])
    assert ended["Where does it lie?"] == 0.0
