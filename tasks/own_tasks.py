"""Task files that users write as their own gates: a subset of the lm-evaluation-harness's format.

What a file asks for and mendflow does not do is refused, so that no figure means something else than there.
Nothing is fetched: the data is a file beside.
"""

from __future__ import annotations

import ast
import json
import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tasks.records import UserError

# A path inside the folder of what names it, of plain names.
_INSIDE = r"^\w[\w.-]*(/\w[\w.-]*)*$"
_HARMLESS = frozenset({"tag", "metadata", "task_alias"})
# Names that files have which are kept beside.
_TAKEN = frozenset({"gates.yaml", "verdict.json", "measured.json", "outcomes.parquet", "REDACTED.json"})
# The harness's own, where a file says nothing.
_UNTIL, _TOKENS = ("\n\n",), 256


class Generate(Protocol):
    """Asks a model: (prompts, chat turns or raw text) to its greedy answers, as it serves them."""

    def __call__(
        self, prompts: Sequence[str], *, chat: bool = True, max_new_tokens: int = 48, strip: bool = True
    ) -> list[str]:
        """One answer a prompt, `strip`: without the white space around it."""


class LogLikelihoods(Protocol):
    """Log-likelihoods in nats of continuations, each of the prompt in its place."""

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str], *, chat: bool) -> list[float]:
        """One figure a prompt."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Split(_Part):
    test: str = Field(pattern=_INSIDE)


class _Data(_Part):
    data_files: str | _Split

    @field_validator("data_files")
    @classmethod
    def _inside(cls, files: str | _Split) -> str | _Split:
        _Split(test=files if isinstance(files, str) else files.test)
        return files


class _Generation(_Part):
    until: tuple[str, ...] = _UNTIL
    max_gen_toks: int = Field(default=_TOKENS, ge=1)
    do_sample: Literal[False] = False
    temperature: float = Field(default=0.0, ge=0, le=0)

    @field_validator("until", mode="before")
    @classmethod
    def _several(cls, until: Any) -> Any:
        return (until,) if isinstance(until, str) else until


class _Metric(_Part):
    metric: Literal["exact_match", "acc"]
    aggregation: Literal["mean"] = "mean"
    higher_is_better: Literal[True] = True
    ignore_case: bool = False
    ignore_punctuation: bool = False


class TaskFile(_Part):
    """What is followed of a task file."""

    task: str = ""
    dataset_path: str
    dataset_kwargs: _Data
    test_split: Literal["test", "train"] | None = None
    output_type: Literal["generate_until", "multiple_choice"] = "generate_until"
    description: str = ""
    doc_to_text: str
    doc_to_target: str | int
    doc_to_choice: str | tuple[str, ...] | None = None
    target_delimiter: str = " "
    generation_kwargs: _Generation = _Generation()
    metric_list: tuple[_Metric, ...] = Field(default=(), max_length=1)
    num_fewshot: int | None = Field(default=0, ge=0, le=0)

    @field_validator("dataset_path")
    @classmethod
    def _local(cls, path: str) -> str:
        if path != "json":
            raise ValueError(
                f"{path!r} would have to be fetched; give the rows in a file, with dataset_path: json"
            )
        return path

    @model_validator(mode="after")
    def _fits_together(self) -> TaskFile:
        chosen = self.output_type == "multiple_choice"
        if chosen is (self.doc_to_choice is None):
            raise ValueError("doc_to_choice belongs to output_type multiple_choice, which needs it")
        measured = "acc" if chosen else "exact_match"
        for one in self.metric_list:
            if one.metric != measured or (chosen and (one.ignore_case or one.ignore_punctuation)):
                raise ValueError(f"output_type {self.output_type} is measured by {measured} as it is")
        return self

    @property
    def data(self) -> str:
        """Path of the data, from the task file's folder."""
        files = self.dataset_kwargs.data_files
        return files if isinstance(files, str) else files.test


@dataclass(frozen=True)
class _Item:
    """A row, filled in: what is asked, and the right answer, or choices and the place of the right one."""

    prompt: str
    target: str = ""
    choices: tuple[str, ...] = ()
    right: int = 0


def read_task(what: str, file: Path) -> TaskFile:
    """A task file.

    Args:
        what: it is for, as messages begin: "the gate polite".
        file: of the task.

    Raises:
        UserError: it cannot be read, or asks for what is not followed.
    """
    begin = f"{what} cannot be used: {file}"
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise UserError(f"{begin} is no task file: it has no keys")
        unknown = sorted(str(key) for key in set(found) - set(TaskFile.model_fields) - _HARMLESS)
        if unknown:
            raise UserError(
                f"{begin} sets {', '.join(unknown)}, which mendflow does not follow and which may change the "
                "result; leave it out, or write a function"
            )
        task = TaskFile.model_validate({key: value for key, value in found.items() if key not in _HARMLESS})
        if taken := _TAKEN & {file.name, Path(task.data).name}:
            raise UserError(f"{begin}: what a verdict keeps is called {min(taken)} too; rename yours")
        return task
    except OSError as error:
        raise UserError(f"{begin} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{begin} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        said = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{begin} is refused at {where}: {said}") from error


def check_task(what: str, file: Path) -> None:
    """Fill in all rows of a task.

    Raises:
        UserError: the task file or its data cannot be used.
    """
    _items(what, read_task(what, file), file)


def run_task(
    what: str, file: Path, generate: Generate, log_likelihoods: LogLikelihoods, *, chat: bool
) -> list[float]:
    """1 for every row that a model answers rightly, else 0.

    Args:
        what: it is for, as messages begin.
        file: of the task.
        generate: asks the model.
        log_likelihoods: of the model.
        chat: whether prompts are chat turns, else raw text.

    Raises:
        UserError: the task file or its data cannot be used.
    """
    task = read_task(what, file)
    items = _items(what, task, file)
    if task.output_type == "generate_until":
        # White space that an answer begins with may be what ends it.
        given = generate(
            [item.prompt for item in items],
            chat=chat,
            max_new_tokens=task.generation_kwargs.max_gen_toks,
            strip=False,
        )
        same = _matcher(task)
        return [float(same(answer, item.target)) for answer, item in zip(given, items, strict=True)]
    # In a chat turn nothing stands between the question and the answer.
    delimiter = "" if chat else task.target_delimiter
    asked = [(item.prompt, f"{delimiter}{choice}") for item in items for choice in item.choices]
    found = iter(log_likelihoods([p for p, _ in asked], [c for _, c in asked], chat=chat))
    values = []
    for item in items:
        likely = [next(found) for _ in item.choices]
        known = not any(map(math.isnan, likely))
        values.append(float(known and likely.index(max(likely)) == item.right))
    return values


def _matcher(task: TaskFile) -> Callable[[str, str], bool]:
    """Whether an answer, as far as a text that ends it, is the target; spaces around both do not count."""
    metric = task.metric_list[0] if task.metric_list else _Metric(metric="exact_match")
    dropped = str.maketrans("", "", string.punctuation if metric.ignore_punctuation else "")

    def plain(text: str) -> str:
        return (text.lower() if metric.ignore_case else text).translate(dropped).strip()

    def same(answer: str, target: str) -> bool:
        for end in filter(None, task.generation_kwargs.until):
            answer = answer.split(end)[0]
        return plain(answer) == plain(target)

    return same


def _items(what: str, task: TaskFile, file: Path) -> list[_Item]:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)

    def rendered(template: str, row: dict[str, Any]) -> str:
        return environment.from_string(template).render(row)

    items = []
    for place, row in enumerate(_rows(what, file.parent / task.data), 1):
        try:
            items.append(_item(task, row, rendered))
        except Exception as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{what} cannot be used: row {place} of {file.parent / task.data} does not fit {file}: {why}"
            ) from error
    return items


def _item(task: TaskFile, row: dict[str, Any], render: Callable[[str, dict[str, Any]], str]) -> _Item:
    def filled(template: str) -> Any:
        """The column of that name, else the template with the row's values."""
        return row[template] if template in row else render(template, row)

    prompt = str(filled(task.description)) if task.description else ""
    prompt += str(filled(task.doc_to_text))
    target = filled(task.doc_to_target) if isinstance(task.doc_to_target, str) else task.doc_to_target
    if not isinstance(target, (str, int, float)):
        raise ValueError(f"doc_to_target gives {target!r:.60}, and has to give one answer")
    if task.doc_to_choice is None:
        return _Item(prompt, str(target))
    choices: Any = task.doc_to_choice
    if isinstance(choices, str):
        choices = filled(choices)
        choices = ast.literal_eval(choices) if isinstance(choices, str) else choices
    if not isinstance(choices, (list, tuple)) or len(choices) < 2:
        raise ValueError(f"doc_to_choice gives {choices!r:.60}, and has to give a list of choices")
    texts = tuple(str(choice) for choice in choices)
    # Only a template writes the number of a choice as text; in a column that is the choice itself.
    if isinstance(target, str) and not (target.isdigit() and task.doc_to_target not in row):
        if target not in texts:
            raise ValueError(f"doc_to_target gives {target!r:.60}, which is none of the choices")
        return _Item(prompt, choices=texts, right=texts.index(target))
    right = int(target)
    if not 0 <= right < len(texts):
        raise ValueError(f"doc_to_target gives {right}, and there are {len(texts)} choices, from 0 on")
    return _Item(prompt, choices=texts, right=right)


def _rows(what: str, data: Path) -> list[dict[str, Any]]:
    """The rows of a file that is one JSON list, or JSON by lines."""
    try:
        text = data.read_text(encoding="utf-8-sig")
        try:
            found = json.loads(text)
            found = [found] if isinstance(found, dict) else found
        except json.JSONDecodeError:
            # `splitlines` would split at separators that may stand in the texts of JSON.
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
    except OSError as error:
        raise UserError(f"{what} cannot be used: {data} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{what} cannot be used: {data} is not JSON, whole or by lines: {error}") from error
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) for row in found):
        raise UserError(f"{what} cannot be used: {data} has to hold rows, each an object with named values")
    return found
