"""Shadow: the candidate answers what the champion has answered, nobody sees it, and the two are compared."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tasks.evidence import Redact, redacted
from tasks.live_answer import Answer, Asked, Places, Turns
from tasks.live_candidate import Trial, drawn
from tasks.registry import tag_version
from tasks.runs import run_of
from tasks.tracking import tracking
from validation.statistics import wilson

_log = logging.getLogger("mendflow.serve")
SHADOW_TAG = "mendflow.shadow"
# Artifact path in the candidate's run; one file for each champion that it was compared with.
FILE = "shadow/beside-version-{}.json"
# Answers that wait for their comparison, and pairs that are kept, at most.
_MOST_WAITING, _MOST_PAIRS = 256, 200
_COUNTS = ("compared", "differing", "skipped", "failed")
_LONGEST_STOP = 30.0


@dataclass
class Tally:
    """What was compared and not yet logged."""

    compared: int = 0
    differing: int = 0
    skipped: int = 0
    failed: int = 0
    pairs: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Shown:
    """An answer that was sent. It holds no version, so that one that serves no more leaves the memory."""

    trace_id: str
    asked: Asked
    text: str


class _StoppedError(Exception):
    """The server ends."""


class Shadow:
    """Asks the candidate what the champion was asked, whenever no request is under way.

    Attributes:
        share: of the requests, the probability with which one is asked again.
        compared: answers so far.
    """

    def __init__(
        self,
        share: float,
        *,
        name: str,
        limit: int,
        places: Places,
        turns: Turns,
        tracking_uri: str,
        experiment: str,
        wanted: Callable[[Trial], bool],
        for_others: Callable[[], Redact],
    ) -> None:
        """Prepare.

        Args:
            share: of the requests, the probability with which one is asked again.
            name: registered model.
            limit: most tokens of an answer.
            places: of the requests that must not be slowed.
            turns: of those who compute.
            tracking_uri: the MLflow store.
            experiment: of the run that keeps comparisons, where the candidate has none of its own.
            wanted: whether a trial is still the one to ask.
            for_others: what is done now to prompts and answers before they are logged, as others read them.
        """
        self.share, self.compared = share, 0
        self._name, self._limit, self._places, self._turns = name, limit, places, turns
        self._uri, self._experiment, self._wanted = tracking_uri, experiment, wanted
        self._for_others = for_others
        self._waiting: queue.Queue[tuple[Trial, _Shown]] = queue.Queue(_MOST_WAITING)
        self._lock = threading.Lock()
        self._tallies: dict[str, tuple[Trial, Tally]] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mendflow-shadow", daemon=True)

    def start(self) -> None:
        """Begin to compare."""
        self._thread.start()

    def stop(self) -> None:
        """End; what waits is not compared any more."""
        self._ending.set()
        self._thread.join(_LONGEST_STOP)

    def offer(self, trial: Trial, answer: Answer) -> None:
        """Have an answer that the champion gave compared, if the lot falls on it; never waits.

        Only greedy answers that came to their end are: others differ from themselves.
        """
        ended = answer.finish and answer.asked.sampling.temperature == 0
        if not ended or not drawn(self.share, "shadow", answer.trace_id):
            return
        try:
            self._waiting.put_nowait((trial, _Shown(answer.trace_id, answer.asked, answer.text)))
        except queue.Full:
            with self._lock:
                self._tally(trial).skipped += 1

    def write(self) -> None:
        """Add what was compared since the last time to the candidate's run, and say it on the version.

        Raises:
            UserError: the store cannot be used; it is added the next time.
        """
        with self._lock:
            taken = list(self._tallies.values())
            self._tallies = {}
        for position, (trial, tally) in enumerate(taken):
            try:
                self._add_to_run(trial, tally)
            except Exception:
                for trial, tally in taken[position:]:
                    self._put_back(trial, tally)
                raise

    def _put_back(self, trial: Trial, tally: Tally) -> None:
        with self._lock:
            now = self._tally(trial)
            for count in _COUNTS:
                setattr(now, count, getattr(now, count) + getattr(tally, count))
            now.pairs = (tally.pairs + now.pairs)[-_MOST_PAIRS:]

    def _tally(self, trial: Trial) -> Tally:
        return self._tallies.setdefault(trial.name, (trial, Tally()))[1]

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                trial, shown = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            if self._wanted(trial):
                try:
                    self._compare(trial, shown)
                except _StoppedError:
                    return

    def _compare(self, trial: Trial, shown: _Shown) -> None:
        try:
            other = Answer(trial.version, shown.asked, self._limit)
            for _ in other.pieces(self._turn):
                pass
        except _StoppedError:
            raise
        except Exception as error:
            _log.error("version %s failed in shadow: %s", trial.version.number, type(error).__name__)
            with self._lock:
                self._tally(trial).failed += 1
            return
        with self._lock:
            tally = self._tally(trial)
            tally.compared += 1
            self.compared += 1
            if other.text.strip() != shown.text.strip():
                tally.differing += 1
                tally.pairs.append(
                    {
                        "trace": shown.trace_id,
                        "asked": list(shown.asked.messages) or shown.asked.prompt,
                        "champion": shown.text,
                        "candidate": other.text,
                    }
                )
                del tally.pairs[:-_MOST_PAIRS]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A turn while no request is under way: one that comes meanwhile waits for a token at most."""
        while not self._places.wait_until_idle(0.2):
            if self._ending.is_set():
                raise _StoppedError
        with self._turns.turn():
            yield

    def _add_to_run(self, trial: Trial, tally: Tally) -> None:
        number = trial.version.number
        run_id = trial.run_id or run_of(self._uri, self._experiment, f"shadow-{self._name}-{number}")
        file, redact = FILE.format(trial.champion), self._for_others()
        new = [{**redacted(pair, redact), "trace": pair["trace"]} for pair in tally.pairs]
        with tracking(self._uri) as client:
            import mlflow
            from mlflow.entities import Metric

            # What this server logged before, or another one beside it, counts too.
            there = {one.path for one in client.list_artifacts(run_id, file.partition("/")[0])}
            known = mlflow.artifacts.load_dict(f"runs:/{run_id}/{file}") if file in there else {}
            counts = {count: known.get(count, 0) + getattr(tally, count) for count in _COUNTS}
            pairs = [*known.get("pairs", []), *new][-_MOST_PAIRS:]
            about = {"candidate": number, "champion": trial.champion}
            client.log_dict(run_id, {**about, **counts, "pairs": pairs}, file)
            at = mlflow.utils.time.get_current_time_millis()
            metrics = [Metric(f"shadow_{count}", value, at, 0) for count, value in counts.items()]
            client.log_batch(run_id, metrics=metrics)
            where = f"{client.get_run(run_id).info.artifact_uri}/{file}"
        text = _told(counts, trial.champion, where)
        tag_version(self._name, number, {SHADOW_TAG: text}, tracking_uri=self._uri)


def _told(counts: dict[str, int], champion: str, where: str) -> str:
    differing = wilson(counts["differing"], counts["compared"])
    text = f"{counts['compared']} answers compared with version {champion}'s"
    if counts["compared"]:
        text += (
            f", {counts['differing']} differ ({differing.value:.3f}, 95 % {differing.low:.3f} to "
            f"{differing.high:.3f})"
        )
    for count, why in (("skipped", "not compared, for want of time"), ("failed", "not answered, for errors")):
        if counts[count]:
            text += f", {counts[count]} {why}"
    return f"{text}: {where}"
