"""Task files as gates: the harness's format as far as it is followed, and refused where it is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from editors.requests import render
from tasks.models import load, resolve
from tasks.own_gates import OwnSource, call_all, own_digests, own_files, own_sources
from tasks.own_tasks import check_task, read_task, run_task
from tasks.records import UserError
from validation.likelihood import log_likelihoods
from validation.thresholds import GateFile

WHAT = "the gate trivia"
ROWS: list[dict[str, Any]] = [
    {"question": "Capital of Chad?", "answer": "N'Djamena", "options": ["Lome", "N'Djamena"], "right": 1},
    {"question": "Capital of Peru?", "answer": "Lima", "options": ["Lima", "Quito"], "right": 0},
]
ASKS = {
    "task": "trivia",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data/trivia.jsonl"}},
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
}
CHOOSES = {**ASKS, "output_type": "multiple_choice", "doc_to_choice": "options", "doc_to_target": "right"}


def written(folder: Path, task: dict[str, Any], rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "trivia.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "trivia.yaml").write_text(yaml.safe_dump(task))
    return folder / "trivia.yaml"


class Model:
    """Says what it is told to, and remembers what it was asked."""

    def __init__(self, answers: Sequence[str] = (), likely: Sequence[float] = ()) -> None:
        self.answers, self.likely = list(answers), list(likely)
        self.asked: list[tuple[Any, ...]] = []

    def generate(
        self, prompts: Sequence[str], *, chat: bool = True, max_new_tokens: int = 48, strip: bool = True
    ) -> list[str]:
        self.asked.append((list(prompts), chat, max_new_tokens))
        return [answer.strip() if strip else answer for answer in self.answers]

    def score(self, prompts: Sequence[str], continuations: Sequence[str], *, chat: bool) -> list[float]:
        self.asked.append((list(prompts), list(continuations), chat))
        return self.likely

    def run(self, file: Path, *, chat: bool = False) -> list[float]:
        return run_task(WHAT, file, self.generate, self.score, chat=chat)


def test_answers_are_compared_as_far_as_what_ends_them(tmp_path: Path) -> None:
    kwargs = {"until": "\n", "max_gen_toks": 7}
    file = written(tmp_path, {**ASKS, "generation_kwargs": kwargs, "description": "Be brief.\n"})
    model = Model(["N'Djamena\nQuestion: and", "In Lima"])
    assert model.run(file) == [1.0, 0.0]
    prompts = [f"Be brief.\nQuestion: {row['question']}\nAnswer:" for row in ROWS]
    assert model.asked == [(prompts, False, 7)]


def test_an_answer_that_begins_with_what_ends_it_is_empty(tmp_path: Path) -> None:
    file = written(tmp_path, {**ASKS, "generation_kwargs": {"until": ["\n"]}})
    assert Model(["\nN'Djamena", " Lima \nQuito"]).run(file) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("metric", "answers", "values"),
    [
        ({}, ["n'djamena", "Lima."], [0, 0]),
        ({"ignore_case": True}, ["n'djamena", "Lima."], [1, 0]),
        ({"ignore_punctuation": True}, ["NDjamena", " Lima. "], [1, 1]),
    ],
)
def test_case_and_punctuation_count_unless_the_metric_says_so(
    tmp_path: Path, metric: dict[str, bool], answers: list[str], values: list[float]
) -> None:
    file = written(tmp_path, {**ASKS, "metric_list": [{"metric": "exact_match", **metric}]})
    assert Model(answers).run(file) == values


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.text(min_size=1), st.booleans()), min_size=1, max_size=4))
def test_a_row_is_right_where_the_answer_begins_with_the_target_and_ends_there(
    tmp_path_factory: pytest.TempPathFactory, cases: list[tuple[str, bool]]
) -> None:
    rows = [{"question": "q", "answer": target.replace("\n", " ")} for target, _ in cases]
    task = {**ASKS, "doc_to_target": "answer", "generation_kwargs": {"until": ["\n"]}}
    file = written(tmp_path_factory.mktemp("task"), task, rows)
    answers = [
        row["answer"] + ("\nmore" if right else "x\nmore")
        for row, (_, right) in zip(rows, cases, strict=True)
    ]
    assert Model(answers).run(file) == [float(right) for _, right in cases]


@pytest.mark.parametrize("target", ["right", "answer", "{{right}}", "{{answer}}"])
@pytest.mark.parametrize("choices", ["options", "{{options}}"])
def test_the_likeliest_choice_is_the_answer(tmp_path: Path, choices: str, target: str) -> None:
    file = written(tmp_path, {**CHOOSES, "doc_to_choice": choices, "doc_to_target": target})
    model = Model(likely=[-2.0, -1.0, -3.0, -2.5])
    assert model.run(file) == [1.0, 0.0]
    assert model.asked[0][1] == [" Lome", " N'Djamena", " Lima", " Quito"]
    assert Model(likely=[float("nan"), -1.0, -1.0, -2.0]).run(file) == [0.0, 1.0]
    model.run(file, chat=True)
    assert model.asked[1][1:] == (["Lome", "N'Djamena", "Lima", "Quito"], True)


def test_a_choice_that_is_a_number_is_taken_as_its_column_has_it(tmp_path: Path) -> None:
    rows = [{"question": "2 + 2?", "answer": "4", "options": ["3", "4"]}]
    file = written(tmp_path, {**CHOOSES, "doc_to_target": "answer"}, rows)
    assert Model(likely=[-2.0, -1.0]).run(file) == [1.0]


@pytest.mark.parametrize("text", [json.dumps(ROWS), "\n\n".join(map(json.dumps, ROWS)) + "\n"])
def test_data_is_a_list_or_lines(tmp_path: Path, text: str) -> None:
    file = written(tmp_path, {**ASKS, "dataset_kwargs": {"data_files": "data/trivia.jsonl"}})
    (tmp_path / "data" / "trivia.jsonl").write_text(text)
    assert Model(["N'Djamena", "Lima"]).run(file) == [1.0, 1.0]


@pytest.mark.parametrize("first", ["", "\ufeff"])
def test_lines_end_at_line_feeds_alone_and_a_byte_order_mark_is_none_of_them(
    tmp_path: Path, first: str
) -> None:
    rows = [{**row, "answer": f"{row['answer']}\u2028in\x85Africa"} for row in ROWS]
    file = written(tmp_path, ASKS)
    text = first + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "data" / "trivia.jsonl").write_bytes(text.encode())
    assert Model([row["answer"] for row in rows]).run(file) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"filter_list": [], "process_docs": "x"}, "sets filter_list, process_docs, which mendflow does not"),
        ({"dataset_path": "gsm8k"}, "at dataset_path: 'gsm8k' would have to be fetched; give the rows"),
        ({"dataset_kwargs": {"data_files": "../secret.json"}}, "at dataset_kwargs.data_files"),
        ({"dataset_kwargs": {"data_files": "https://x.org/a.json"}}, "at dataset_kwargs.data_files"),
        ({"dataset_kwargs": {"data_files": "a.json", "field": "rows"}}, "at dataset_kwargs.field"),
        ({"dataset_kwargs": {"data_files": "gates.yaml"}}, "is called gates.yaml too; rename yours"),
        ({"dataset_kwargs": {"data_files": "none.json"}}, "none.json cannot be read: No such file"),
        ({"output_type": "loglikelihood"}, "at output_type"),
        ({"num_fewshot": 5}, "at num_fewshot: Input should be less than or equal to 0"),
        ({"generation_kwargs": {"temperature": 0.7}}, "at generation_kwargs.temperature"),
        ({"metric_list": [{"metric": "bleu"}]}, "at metric_list.0.metric"),
        ({"metric_list": [{"metric": "acc"}]}, "generate_until is measured by exact_match"),
        ({"metric_list": [{"metric": "exact_match", "ignore_numbers": True}]}, "0.ignore_numbers"),
        ({"metric_list": [{"metric": "exact_match"}] * 2}, "at metric_list"),
        ({"output_type": "multiple_choice"}, "doc_to_choice belongs to output_type multiple_choice"),
        ({"doc_to_text": "{{missing}}"}, "row 1 of .*trivia.jsonl does not fit .*'missing' is undefined"),
        ({"doc_to_text": "{{ ''.__class__.__mro__ }}"}, "row 1 of .* is unsafe"),
        ({"doc_to_text": "{% if %}"}, "row 1 of .*: Expected an expression"),
        ({"doc_to_target": "options"}, "doc_to_target gives .* has to give one answer"),
        ({**CHOOSES, "doc_to_target": "{{question}}"}, "'Capital of Chad.', which is none of the choices"),
        ({**CHOOSES, "doc_to_target": 2}, "doc_to_target gives 2, and there are 2 choices"),
        ({**CHOOSES, "doc_to_choice": "{{question}}"}, "row 1 of"),
    ],
)
def test_what_would_mean_something_else_is_refused_in_a_sentence(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    file = written(tmp_path, {**ASKS, **change})
    with pytest.raises(UserError, match=says) as caught:
        check_task(WHAT, file)
    assert str(caught.value).startswith("the gate trivia cannot be used: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"), [("", "has no keys"), ("a: [", "is not YAML"), ("a: !function utils.b", "is not YAML")]
)
def test_what_is_no_task_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "trivia.yaml").write_text(text)
    with pytest.raises(UserError, match=says):
        read_task(WHAT, tmp_path / "trivia.yaml")
    with pytest.raises(UserError, match=r"none.yaml cannot be read"):
        read_task(WHAT, tmp_path / "none.yaml")


@pytest.mark.parametrize("rows", ["[]", "[1]", "{", "3"])
def test_data_without_rows_is_refused(tmp_path: Path, rows: str) -> None:
    file = written(tmp_path, ASKS)
    (tmp_path / "data" / "trivia.jsonl").write_text(rows)
    with pytest.raises(UserError, match=r"trivia.jsonl (has to hold rows|is not JSON)"):
        check_task(WHAT, file)


def test_harmless_keys_change_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, {**ASKS, "tag": ["mine"], "metadata": {"version": 1}, "num_fewshot": 0})
    check_task(WHAT, file)


def test_a_gate_has_a_task_or_a_function_and_names_both_files_of_a_task(tmp_path: Path) -> None:
    written(tmp_path, ASKS)
    gate = {"task": "trivia.yaml", "chat": True, "better": "higher", "min": 0.5}
    critical = {"edit_success_greedy": {"min": 0.9, "minimum_n": 1, "severity": "critical"}}

    def gates(**own: Any) -> GateFile:
        return GateFile.model_validate({"version": 1, "gates": critical, "own": {"trivia": own}})

    sources = own_sources(gates(**gate).own)
    assert sources == {"trivia": OwnSource(task="trivia.yaml", chat=True)}
    files = own_files(sources, tmp_path)
    assert files == {
        "own/trivia": tmp_path / "trivia.yaml",
        "own/trivia/data": tmp_path / "data/trivia.jsonl",
    }
    before = own_digests(sources, tmp_path)
    files["own/trivia/data"].write_text("[]")
    assert {item for item, digest in own_digests(sources, tmp_path).items() if digest != before[item]} == {
        "own/trivia/data"
    }
    assert gates(**gate).digest() != gates(**{**gate, "chat": False}).digest()
    for wrong, says in (
        ({**gate, "function": "m:f"}, "either function or task"),
        ({"better": "higher", "min": 0.5}, "either function or task"),
        ({**gate, "task": None, "function": "m:f"}, "chat belongs to a task"),
        ({**gate, "task": "../trivia.yaml"}, "task"),
        ({**gate, "task": "/etc/trivia.yaml"}, "task"),
        ({**gate, "task": "trivia.json"}, "task"),
    ):
        with pytest.raises(ValueError, match=says):
            gates(**wrong)


def test_a_task_that_goes_wrong_gives_a_sentence_and_never_a_value(tmp_path: Path) -> None:
    own = {"trivia": OwnSource(task="trivia.yaml")}

    def fails(
        prompts: Sequence[str], *, chat: bool = True, max_new_tokens: int = 48, strip: bool = True
    ) -> list[str]:
        raise ValueError("a prompt has no tokens")

    written(tmp_path, ASKS)
    said = call_all(own, tmp_path, fails, Model().score, [])["trivia"]
    assert said == "was not measured: trivia.yaml failed with ValueError: a prompt has no tokens"
    (tmp_path / "trivia.yaml").unlink()
    said = call_all(own, tmp_path, Model().generate, Model().score, [])["trivia"]
    assert isinstance(said, str)
    assert said.startswith("was not measured: the gate trivia cannot be used: ")


@pytest.mark.parametrize("chat", [False, True])
def test_log_likelihoods_are_sums_over_the_tokens_of_the_continuation_alone(tiny_llama, chat: bool) -> None:
    model, tokenizer = load(resolve(str(tiny_llama())))
    # A space at the end of the prompt belongs to the continuation: tokens are split as they are written.
    prompts = ["The capital of Egypt is", "Peru is in ", "Peru is in"]
    continuations = [" Cairo.", "Asia", " Asia"]
    found = log_likelihoods(model, tokenizer, prompts, continuations, chat=chat)
    for prompt, continuation, likelihood in zip(prompts, continuations, found, strict=True):
        text = render(tokenizer, prompt, chat=chat)
        whole = tokenizer(text + continuation, add_special_tokens=not chat)["input_ids"]
        first = len(tokenizer(text if chat else text.rstrip(), add_special_tokens=not chat)["input_ids"])
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        alone = sum(float(logits[place - 1, whole[place]]) for place in range(first, len(whole)))
        assert likelihood == pytest.approx(alone, rel=1e-4)
    if not chat:
        assert found[1] == pytest.approx(found[2], rel=1e-5)
    with pytest.raises(ValueError, match="adds no token"):
        log_likelihoods(model, tokenizer, ["Peru"], [""], chat=chat)
