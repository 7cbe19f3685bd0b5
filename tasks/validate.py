"""Measure a candidate as it will be served, in a process of its own, beside the champion on the same rows.

    python -m tasks.validate REQUEST.json

reads which versions to load and which dataset to ask, and writes the outcomes next to the request.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.edit_dataset import EditDataset
from tasks.records import UserError

if TYPE_CHECKING:
    import pandas as pd

    from editors.overrides import Overrides
    from validation.metrics import Perplexities
    from validation.parameters import ParameterChanges

OUTCOMES_FILE = "outcomes.parquet"
MEASURED_FILE = "measured.json"
GATE_TOKENS = 48

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Measured:
    """Everything that gates are computed from."""

    outcomes: pd.DataFrame
    expected_rows: dict[str, int]
    perplexities: Perplexities
    parameters: ParameterChanges
    teacher_forced: list[float]


def measure(
    folder: Path,
    *,
    tracking_uri: str,
    candidate: str,
    champion: str,
    dataset: Path,
    earlier: Sequence[str] = (),
    progress: Progress | None = None,
) -> Measured:
    """Run the measurement in a fresh process, or read it if it was finished before for the same request.

    Args:
        folder: for the request and what is measured.
        tracking_uri: the MLflow store.
        candidate: `models:/NAME/VERSION` of the candidate.
        champion: likewise of the champion.
        dataset: folder of the edit dataset.
        earlier: ids of corrections that the champion already holds.
        progress: called with (prompts answered, prompts, note).

    Raises:
        UserError: the process failed; its last lines say why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    request = {
        "tracking_uri": tracking_uri,
        "candidate": candidate,
        "champion": champion,
        "dataset": str(dataset),
        "dataset_digest": EditDataset.load(dataset).digest,
        "earlier": sorted(earlier),
    }
    request_file = folder / "request.json"
    wanted = json.dumps(request, indent=2, sort_keys=True)
    if not request_file.is_file() or request_file.read_text() != wanted:
        (folder / MEASURED_FILE).unlink(missing_ok=True)
        request_file.write_text(wanted)
    if not (folder / MEASURED_FILE).is_file():
        _in_fresh_process(request_file, progress)
    return _read(folder)


def _in_fresh_process(request_file: Path, progress: Progress | None) -> None:
    command = [sys.executable, "-m", "tasks.validate", str(request_file)]
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("@progress "):
                    done, total, note = line.split(" ", 3)[1:]
                    if progress:
                        progress(int(done), int(total), note.strip())
                else:
                    said.append(line.rstrip())
        except BaseException:
            # Whoever interrupts this run is not made to wait for the end of the measuring.
            process.kill()
            raise
    if process.returncode != 0:
        raise UserError(f"the candidate could not be measured: {' / '.join(said[-3:]) or 'no output'}")


def _read(folder: Path) -> Measured:
    import pandas as pd

    from validation.metrics import Perplexities
    from validation.parameters import ParameterChanges

    measured = json.loads((folder / MEASURED_FILE).read_text())
    pairs = {name: [(nll, int(n)) for nll, n in rows] for name, rows in measured["perplexities"].items()}
    found = measured["parameters"]
    return Measured(
        outcomes=pd.read_parquet(folder / OUTCOMES_FILE),
        expected_rows=measured["expected_rows"],
        perplexities=Perplexities(**pairs),
        parameters=ParameterChanges(
            changed=tuple(found["changed"]),
            undeclared=tuple(found["undeclared"]),
            non_finite=tuple(found["non_finite"]),
            compared=int(found["compared"]),
        ),
        teacher_forced=measured["teacher_forced"],
    )


@dataclass(frozen=True)
class _Question:
    """One row to ask of both models."""

    metric: str
    id: str
    prompt: str
    expected: str
    chat: bool
    wrong_output: str = ""
    kind: str = ""

    @property
    def asked(self) -> tuple[str, bool]:
        """What a model is given: the prompt, and whether it is a chat turn."""
        return self.prompt, self.chat


def _questions(data: EditDataset, earlier: Sequence[str]) -> list[_Question]:
    from validation import outcomes as rows

    questions = []
    held = set(earlier)
    for edit in data.edits.to_dict("records"):
        about = {"id": edit["id"], "expected": edit["target"], "chat": bool(edit["chat"])}
        wrong = edit["wrong_output"] or ""
        questions.append(_Question(rows.EDIT, prompt=edit["prompt"], wrong_output=wrong, **about))
        questions += [_Question(rows.EQUIVALENCE, prompt=p, **about) for p in edit["held_out"]]
        if edit["id"] in held:
            questions.append(_Question(rows.RETENTION, prompt=edit["prompt"], **about))
    for row in data.locality.to_dict("records"):
        about = {"id": row["id"], "prompt": row["prompt"], "expected": row["reference"]}
        about["chat"] = bool(row["chat"])
        # Agreement is asked of prompts unseen by the editor; right answers have to stay right anywhere.
        if row["role"] == "gate":
            questions.append(_Question(rows.LOCALITY, kind=row["kind"], **about))
        if row["confirmed"]:
            gold = row["gold"] or row["reference"]
            questions.append(_Question(rows.DRAWDOWN, kind=row["kind"], **{**about, "expected": gold}))
    return questions


def _measure(request_file: Path) -> None:
    """The work of the fresh process."""
    import dataclasses

    import torch

    from editors.delta import Delta
    from tasks.models import load, load_overrides, resolve
    from validation.divergence import answer_log_probs, locality_kl, teacher_forced_success
    from validation.outcomes import LOCALITY, PROTOCOLS, outcome, outcomes_frame
    from validation.parameters import parameter_changes
    from validation.perplexity import perplexity
    from validation.probes import neutral_prose

    request = json.loads(request_file.read_text())
    data = EditDataset.load(Path(request["dataset"]))
    questions = _questions(data, request["earlier"])
    prose = neutral_prose()
    edits = list(zip(data.edits["prompt"], data.edits["target"], map(bool, data.edits["chat"]), strict=True))
    local = [(q.prompt, q.expected, q.chat) for q in questions if q.metric == LOCALITY]

    folders = {
        role: resolve(request[role], tracking_uri=request["tracking_uri"])
        for role in ("champion", "candidate")
    }
    champion, tokenizer = load(folders["champion"])
    # A reference is the champion's own greedy answer, so only the rest has to be asked.
    rows = data.locality
    known = {
        (prompt, bool(chat)): reference
        for prompt, chat, reference in zip(rows["prompt"], rows["chat"], rows["reference"], strict=True)
    }
    asked = [q for q in questions if q.asked not in known]
    before = known | _answers(champion, tokenizer, load_overrides(folders["champion"]), asked, "champion")
    _say(0, 1, "champion: log-probabilities")
    base_log_probs = _by_rendering(local, partial(answer_log_probs, champion, tokenizer))
    del champion

    # Prose is compared with the pristine base: against each champion in turn, small losses could add up.
    pristine, _ = load(dataclasses.replace(folders["candidate"], delta=None))
    base_nll = perplexity(pristine, tokenizer, prose)
    candidate, tokenizer = load(folders["candidate"])
    declared = Delta.load(folders["candidate"].delta).shifts if folders["candidate"].delta else {}
    parameters = parameter_changes(pristine, candidate, declared)
    del pristine
    after = _answers(candidate, tokenizer, load_overrides(folders["candidate"]), questions, "candidate")
    _say(0, 1, "candidate: log-probabilities")
    divergences = iter(_by_rendering(local, partial(locality_kl, candidate, tokenizer), base_log_probs))
    forced = _by_rendering(edits, partial(teacher_forced_success, candidate, tokenizer))
    frame = outcomes_frame(
        outcome(
            q.metric,
            q.id,
            q.prompt,
            q.expected,
            before[q.asked],
            after[q.asked],
            chat=q.chat,
            wrong_output=q.wrong_output,
            kind=q.kind,
            locality_kl=next(divergences) if q.metric == LOCALITY else float("nan"),
        )
        for q in questions
    )
    folder = request_file.parent
    frame.to_parquet(folder / OUTCOMES_FILE)
    measured = {
        "expected_rows": {name: sum(q.metric == name for q in questions) for name in PROTOCOLS},
        "perplexities": {"champion": base_nll, "candidate": perplexity(candidate, tokenizer, prose)},
        "parameters": dataclasses.asdict(parameters),
        "teacher_forced": forced,
        "torch": torch.__version__,
    }
    unfinished = folder / f".{MEASURED_FILE}"
    unfinished.write_text(json.dumps(measured))
    os.replace(unfinished, folder / MEASURED_FILE)


def _by_rendering(
    rows: Sequence[tuple[str, str, bool]], measured: Callable[..., list[Any]], *more: Sequence[Any]
) -> list[Any]:
    """One result a row of (prompt, answer, chat), each row measured in its own rendering.

    `measured` takes prompts, answers, and the rows' part of everything in `more`, and `chat`.
    """
    results: list[Any] = [None] * len(rows)
    for chat in (True, False):
        chosen = [index for index, row in enumerate(rows) if row[2] is chat]
        if chosen:
            prompts, answers = [rows[i][0] for i in chosen], [rows[i][1] for i in chosen]
            found = measured(prompts, answers, *([column[i] for i in chosen] for column in more), chat=chat)
            for index, result in zip(chosen, found, strict=True):
                results[index] = result
    return results


def _answers(
    model: Any, tokenizer: Any, overrides: Overrides, questions: Sequence[_Question], who: str
) -> dict[tuple[str, bool], str]:
    """The answer to every question as it is served, by prompt and rendering."""
    from editors.generation import generate_greedy

    answers: dict[tuple[str, bool], str] = {}
    for chat in (True, False):
        prompts = list(dict.fromkeys(q.prompt for q in questions if q.chat == chat))
        if prompts:
            generate = partial(
                generate_greedy,
                model,
                tokenizer,
                chat=chat,
                max_new_tokens=GATE_TOKENS,
                progress=lambda done, total: _say(done, total, f"{who} answers"),
            )
            given = overrides.answer(prompts, generate, chat=chat)
            answers.update({(prompt, chat): answer for prompt, answer in zip(prompts, given, strict=True)})
    return answers


def _say(done: int, total: int, note: str) -> None:
    sys.stdout.write(f"@progress {done} {total} {note}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        _measure(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
