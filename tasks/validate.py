"""Measure a candidate as it will be served, in a process of its own, beside the champion on the same rows.

    python -m tasks.validate REQUEST.json

reads which versions to load and which dataset to ask, and writes the outcomes next to the request.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.edit_dataset import EditDataset
from tasks.measuring import Measured, Served, ask_champion, compare
from tasks.own_gates import OwnSource, call_all, own_digests, paired
from tasks.questions import answered, questions, rows_expected
from tasks.records import UserError
from tasks.sampling import sampled, samples_expected, with_samples
from tasks.timing import time_answers
from tasks.unasked import measure_unasked, refusal

if TYPE_CHECKING:
    from tasks.models import ModelFolder
    from validation.early import Stop
    from validation.thresholds import GateFile

OUTCOMES_FILE = "outcomes.parquet"
MEASURED_FILE = "measured.json"
# Raised when more is measured: what was measured in an earlier format is measured again.
FORMAT = 6

Progress = Callable[[int, int, str], None]


def measure(
    folder: Path,
    *,
    tracking_uri: str,
    candidate: str,
    champion: str,
    dataset: Path,
    earlier: Sequence[str] = (),
    replay: Sequence[tuple[str, bool]] = (),
    own: Mapping[str, OwnSource] | None = None,
    beside: Path | None = None,
    stop_at: GateFile | None = None,
    stops: Sequence[Stop] = (),
    readings: Path | None = None,
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
        replay: recent requests to ask too, and whether they are chat turns.
        own: what gives the values of the user's own gates, by metric.
        beside: folder of the gate file, where their modules are looked for first, and their tasks.
        stop_at: what is cheap is measured first, and nothing more where one of these gates refuses it.
        stops: where to see whether they do.
        readings: folder where it is kept how a base reads the texts of the gates; without, it reads anew.
        progress: called with (prompts answered, prompts, note).

    Raises:
        UserError: the process failed; its last lines say why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    request: dict[str, Any] = {
        "format": FORMAT,
        "tracking_uri": tracking_uri,
        "candidate": candidate,
        "champion": champion,
        "dataset": str(dataset),
        "dataset_digest": EditDataset.load(dataset).digest,
        "earlier": sorted(earlier),
    }
    if replay:
        request["replay"] = [list(one) for one in replay]
    if own:
        request["own"] = {name: dataclasses.asdict(source) for name, source in own.items()}
        request["own_digests"] = own_digests(own, beside)
        request["beside"] = None if beside is None else str(beside.absolute())
    if stop_at is not None:
        request["stop_at"] = stop_at.model_dump(mode="json")
        request["stops"] = list(stops)
    if readings is not None:
        request["readings"] = str(readings.absolute())
    request_file = folder / "request.json"
    if not _serves(request_file, request):
        (folder / MEASURED_FILE).unlink(missing_ok=True)
        request_file.write_text(json.dumps(request, indent=2, sort_keys=True))
    if not (folder / MEASURED_FILE).is_file():
        _in_fresh_process(request_file, progress)
    return read_measured(folder)


def _serves(request_file: Path, request: Mapping[str, Any]) -> bool:
    """Whether what was measured, or begun, was asked for so; a whole one serves wherever it was to stop."""
    try:
        before = json.loads(request_file.read_text())
    except (FileNotFoundError, ValueError):
        return False
    asked = json.loads(json.dumps(request))
    if before != asked:
        measured = request_file.with_name(MEASURED_FILE)
        if not measured.is_file() or json.loads(measured.read_text()).get("stopped"):
            return False
        for one in (before, asked):
            one.pop("stop_at", None)
            one.pop("stops", None)
            one.pop("readings", None)
    return bool(before == asked)


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


def measured_digest(folder: Path) -> str:
    """SHA-256 of the file of what was measured besides the outcomes, which have a digest of their own."""
    return hashlib.sha256((folder / MEASURED_FILE).read_bytes()).hexdigest()


def read_measured(folder: Path) -> Measured:
    """What a measurement left in its folder, or in a copy of its two files."""
    import pandas as pd

    from validation.early import Stop
    from validation.latency import AnswerSeconds
    from validation.metrics import Perplexities
    from validation.own_gates import OwnValues
    from validation.parameters import ParameterChanges
    from validation.probes import PROSE
    from validation.renderings import RenderingChanges

    measured = json.loads((folder / MEASURED_FILE).read_text())
    read, stopped = measured["perplexities"], measured.get("stopped")
    if "champion" in read:
        # As it was before code and arithmetic were read too, and stops were told apart.
        read, stopped = {PROSE: read}, Stop.CORRECTIONS if stopped else None
    pairs = {
        name: {who: [(nll, int(n)) for nll, n in rows] for who, rows in of.items()}
        for name, of in read.items()
    }
    found = measured["parameters"]
    names = {name: tuple(found[name]) for name in ("changed", "undeclared", "non_finite")}
    return Measured(
        outcomes=pd.read_parquet(folder / OUTCOMES_FILE),
        expected_rows=measured["expected_rows"],
        perplexities={name: Perplexities(**of) for name, of in pairs.items()},
        parameters=ParameterChanges(**{**found, **names}),
        renderings=RenderingChanges(**measured["renderings"]),
        teacher_forced=measured["teacher_forced"],
        answer_seconds=AnswerSeconds(**measured["answer_seconds"]) if "answer_seconds" in measured else None,
        own={name: OwnValues(**found) for name, found in measured.get("own", {}).items()},
        stopped=Stop(stopped) if stopped else None,
    )


def _write(measured: Measured, folder: Path) -> None:
    """Write what `read_measured` reads.

    The JSON file is written last, so that an interrupted write is not taken for a whole one.
    """
    import torch

    measured.outcomes.to_parquet(folder / OUTCOMES_FILE)
    seconds = measured.answer_seconds
    values = {
        "expected_rows": measured.expected_rows,
        "perplexities": {name: dataclasses.asdict(of) for name, of in measured.perplexities.items()},
        "parameters": dataclasses.asdict(measured.parameters),
        "renderings": dataclasses.asdict(measured.renderings),
        "teacher_forced": measured.teacher_forced,
        "own": {name: dataclasses.asdict(found) for name, found in measured.own.items()},
        **({"stopped": measured.stopped} if measured.stopped else {}),
        **({"answer_seconds": dataclasses.asdict(seconds)} if seconds else {}),
        "torch": torch.__version__,
    }
    unfinished = folder / f".{MEASURED_FILE}"
    unfinished.write_text(json.dumps(values))
    os.replace(unfinished, folder / MEASURED_FILE)


def _measure(request_file: Path) -> None:
    """The work of the fresh process."""
    from tasks.models import resolve

    request = json.loads(request_file.read_text())
    folders = {
        role: resolve(request[role], tracking_uri=request["tracking_uri"])
        for role in ("champion", "candidate")
    }
    _write(_measured(request, folders), request_file.parent)


def _measured(request: Mapping[str, Any], folders: Mapping[str, ModelFolder]) -> Measured:
    """Candidate and pristine base, then candidate and champion, so that no more than two are in memory."""
    from tasks.models import load, load_overrides
    from validation.early import Stop
    from validation.outcomes import EDIT, NEW, SUPPRESSED

    data = EditDataset.load(Path(request["dataset"]))
    replay = [(prompt, chat) for prompt, chat in request.get("replay", [])]
    asked = questions(data, request["earlier"], replay)
    expected = {**rows_expected(asked), SUPPRESSED: samples_expected(data)}
    refused = refusal(request)

    candidate, tokenizer = load(folders["candidate"])
    judged = Served(candidate, tokenizer, load_overrides(folders["candidate"]))
    kept = Path(request["readings"]) if request.get("readings") else None
    unasked, base = measure_unasked(
        judged, folders["candidate"], asked, expected, refused, kept=kept, say=_say
    )
    if unasked.stopped or base is None:
        return unasked

    champion, tokenizer = load(folders["champion"])
    served = Served(champion, tokenizer, load_overrides(folders["champion"]))
    if Stop.CORRECTIONS in request.get("stops", []):
        few = [q for q in asked if q.metric in (EDIT, NEW)]
        first = compare(judged, base, ask_champion(served, data, few, say=_say), unasked, data, few, say=_say)
        if refused(first, Stop.CORRECTIONS):
            return dataclasses.replace(first, expected_rows=expected, stopped=Stop.CORRECTIONS)

    own = {name: OwnSource(**source) for name, source in request.get("own", {}).items()}
    beside = Path(request["beside"]) if request.get("beside") else None
    before = ask_champion(served, data, asked, say=_say)
    drawn = sampled(served, data, "champion", _say)
    outputs = [before.answers[q.asked] for q in asked]
    theirs = call_all(own, beside, served.answer, served.log_likelihoods, answered(asked, outputs))
    seconds = time_answers(served, judged, asked, say=_say)
    del champion, served

    measured = compare(judged, base, before, unasked, data, asked, say=_say)
    outputs = measured.outcomes["candidate_output"].tolist()
    ours = call_all(own, beside, judged.answer, judged.log_likelihoods, answered(asked, outputs))
    measured = with_samples(measured, data, drawn, sampled(judged, data, "candidate", _say))
    return dataclasses.replace(measured, own=paired(theirs, ours), answer_seconds=seconds)


def _say(done: int, total: int, note: str) -> None:
    sys.stdout.write(f"@progress {done} {total} {note}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        _measure(Path(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
