"""Verifying a verdict: every input has the digest that the verdict names, and the same verdict follows."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from tasks.edit_dataset import EditDataset
from tasks.evidence import fetch_evidence, redacted_files
from tasks.models import ModelFolder, resolve
from tasks.own_gates import own_digests, own_sources
from tasks.records import StoreFailedError, UserError
from tasks.register import DELTA_TAG, NO_DELTA
from tasks.registry import describe, resolve_version
from tasks.validate import (
    MEASURED_FILE,
    OUTCOMES_FILE,
    Progress,
    measure,
    measured_digest,
    read_measured,
)
from tasks.verdicts import (
    COMPARED_TAG,
    DATASET_FOLDER,
    DIGEST_TAG,
    GATES_FILE,
    MADE_OF,
    REASON_LENGTH,
    REASON_TAG,
    RUN_TAG,
    VERDICT_FILE,
    VERDICT_FOLDER,
    VERDICT_TAG,
    WEIGHTS_TAG,
    delta_digest,
    take,
)
from validation.metrics import Metric
from validation.verdict import Decision, read_decision

if TYPE_CHECKING:
    from tasks.measuring import Measured

# Another number of threads, or another machine, adds up in another order.
_REMEASURED_WITHIN = 1e-3


class VerdictDiffersError(ValueError):
    """A verdict does not follow from what it names; the message is a sentence that names the item."""


def verify(
    name: str,
    version: str,
    *,
    tracking_uri: str,
    models: Path | None = None,
    evidence: Path | None = None,
    remeasure: bool = False,
    progress: Progress | None = None,
) -> Decision:
    """Hold a version's verdict against its inputs as they are now, and take it again from them.

    Args:
        name: registered model.
        version: its number, or an alias.
        tracking_uri: the MLflow store.
        models: where conversions of base models are kept.
        evidence: where the home keeps what is redacted in MLflow.
        remeasure: ask both models again too, in a fresh process. How long their answers take is no property
            of the version: those timings are not compared, and the kept ones stand.
        progress: of measuring again: called with (prompts answered, prompts, note).

    Returns:
        The verdict that was kept, once all of it is found to be so.

    Raises:
        VerdictDiffersError: an input has another digest now, another verdict follows from them, or the
            version's tags say another one.
        UserError: there is no such version, or nobody kept a verdict on it.
    """
    number = resolve_version(name, version, tracking_uri=tracking_uri)
    described = describe(name, tracking_uri=tracking_uri).versions
    tags = next(found.tags for found in described if found.number == number)
    if VERDICT_TAG not in tags:
        why = "it is the base itself" if tags.get(DELTA_TAG) == NO_DELTA else "its run did not come so far"
        if WEIGHTS_TAG in tags:
            why = f"it has the weights of version {tags[WEIGHTS_TAG]} behind other overrides; verify that one"
        raise UserError(f"version {number} of {name} has no verdict to verify: {why}")
    if RUN_TAG not in tags:
        raise UserError(
            f"the verdict on version {number} of {name} was taken before its measurements were kept with it; "
            "only what `mendflow correct` judges from now on can be verified"
        )
    with tempfile.TemporaryDirectory() as scratch:
        kept = _Kept(Path(scratch), name, number, tags, tracking_uri, models, evidence)
        decision = kept.decision()
        kept.check_tags(decision)
        kept.check_inputs(decision)
        measured = read_measured(kept.verdict)
        _compare(decision, kept.taken_again(decision, measured))
        if remeasure:
            again = kept.measured_again(measured, decision, progress)
            measured = dataclasses.replace(again, answer_seconds=measured.answer_seconds)
            _compare(decision, kept.taken_again(decision, measured), within=_REMEASURED_WITHIN)
    return decision


@dataclass(frozen=True)
class _Kept:
    """What is kept of one verdict; its files are fetched into `scratch` when they are needed."""

    scratch: Path
    name: str
    version: str
    tags: Mapping[str, str]
    tracking_uri: str
    models: Path | None
    evidence: Path | None

    @cached_property
    def verdict(self) -> Path:
        """Folder of the verdict, the gate file and the measurements."""
        return self._fetched(VERDICT_FOLDER)

    @cached_property
    def dataset(self) -> Path:
        """Folder of the dataset that was asked."""
        return self._fetched(DATASET_FOLDER)

    @cached_property
    def candidate(self) -> ModelFolder:
        """The version that was judged."""
        return self._resolved(self.version)

    def decision(self) -> Decision:
        """The verdict, once it is known to be the one that the version's tag has."""
        decision: Decision = self._read(VERDICT_FILE, lambda: read_decision(self.verdict / VERDICT_FILE))
        _same(VERDICT_FILE, decision.digest(), self.tags.get(DIGEST_TAG))
        return decision

    def check_tags(self, decision: Decision) -> None:
        """Hold the tags that promotion goes by, and shows, against the verdict."""
        said = {VERDICT_TAG: decision.verdict.value}
        if REASON_TAG in self.tags and VERDICT_FILE not in redacted_files(self.verdict):
            said[REASON_TAG] = shorten(decision.reason, REASON_LENGTH)
        for tag, then in said.items():
            if self.tags[tag] != then:
                raise VerdictDiffersError(
                    f"the tag {tag} of version {self.version} says {self.tags[tag]!r}, and the verdict that "
                    f"was kept {then!r}: set the tag back before anybody promotes the version"
                )

    def check_inputs(self, decision: Decision) -> None:
        """Hold every input against the digest that the verdict has of it."""
        import pandas as pd

        from validation.outcomes import outcomes_digest
        from validation.thresholds import load_gates

        folder, beside = self.verdict, self.tags[COMPARED_TAG]
        inputs: dict[str, tuple[str, Callable[[], str]]] = {
            "gates": (GATES_FILE, lambda: load_gates(folder / GATES_FILE).digest()),
            "measured": (MEASURED_FILE, lambda: measured_digest(folder)),
            "outcomes": (
                OUTCOMES_FILE,
                lambda: outcomes_digest(pd.read_parquet(folder / OUTCOMES_FILE)),
            ),
            "dataset": ("the edit dataset", lambda: EditDataset.load(self.dataset).digest),
            "base": (f"the base of version {self.version}", lambda: self.candidate.digest),
            "delta": (f"the delta of version {self.version}", lambda: delta_digest(self.candidate)),
            "champion": (f"the delta of version {beside}", lambda: delta_digest(self._resolved(beside))),
        }
        for item, (what, digest_now) in inputs.items():
            _same(what, self._read(what, digest_now), decision.digests.get(item))
        for item, tag in MADE_OF.items():
            # Older verdicts do not name them.
            if item in decision.digests:
                what = f"the {item} that version {self.version} was made of"
                _same(what, self.tags.get(tag, "none"), decision.digests[item])
        # Code of the users' own is known to be theirs before any of it is imported; an installed module's is
        # nobody's to keep, and no file may stand in its place.
        try:
            now = own_digests(own_sources(decision.gates.own), folder)
        except UserError as error:
            raise VerdictDiffersError(str(error).replace(f"{self.scratch}/", "")) from error
        then = {item: digest for item, digest in decision.digests.items() if item.startswith("own/")}
        for item in sorted(now | then):
            name, _, part = item.removeprefix("own/").partition("/")
            kind = part or ("task file" if decision.gates.own[name].task else "code")
            _same(f"the {kind} of the gate {name}", now.get(item, "none"), then.get(item))

    def taken_again(self, decision: Decision, measured: Measured) -> Decision:
        """The verdict that follows from measurements, and from the gate file that was kept."""
        from validation.thresholds import load_gates

        return take(
            measured,
            load_gates(self.verdict / GATES_FILE),
            digests={},
            needs_approval=decision.needs_approval,
            seed=decision.seed,
        )

    def measured_again(self, before: Measured, decision: Decision, progress: Progress | None) -> Measured:
        """Both models' answers to the same questions, given once more."""
        from validation.outcomes import EDIT, NEW, REPLAY

        asked = before.outcomes
        # What is not new is held already; where nothing was asked, nothing is asked of either.
        edited, new = (asked.loc[asked["metric"] == metric, "id"] for metric in (EDIT, NEW))
        replayed = asked[asked["metric"] == REPLAY]
        again = measure(
            self.scratch / "measured",
            tracking_uri=self.tracking_uri,
            candidate=f"models:/{self.name}/{self.version}",
            champion=f"models:/{self.name}/{self.tags[COMPARED_TAG]}",
            dataset=self.dataset,
            earlier=sorted(set(edited) - set(new)),
            replay=[(prompt, kind == "chat") for prompt, kind in replayed[["prompt", "kind"]].to_numpy()],
            own=own_sources(decision.gates.own),
            beside=self.verdict,
            stop_at=decision.gates if before.stopped else None,
            stops=[before.stopped] if before.stopped else [],
            progress=progress,
        )
        # Texts that an older version did not have read are in no gate of its verdict.
        read = {name: again.perplexities[name] for name in before.perplexities if name in again.perplexities}
        again = replace(again, perplexities=read)
        # What was to be asked had it not stopped is not known.
        return replace(again, expected_rows=before.expected_rows) if again.stopped else again

    def _fetched(self, path: str) -> Path:
        try:
            run_id = self.tags[RUN_TAG]
            return fetch_evidence(self.tracking_uri, run_id, path, self.scratch, evidence=self.evidence)
        except StoreFailedError:
            raise
        except UserError as error:
            raise VerdictDiffersError(str(error)) from error

    def _resolved(self, version: str) -> ModelFolder:
        ref = f"models:/{self.name}/{version}"
        return resolve(ref, cache=self.models, tracking_uri=self.tracking_uri)

    def _read(self, what: str, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (VerdictDiffersError, StoreFailedError):
            raise
        except (OSError, ValueError, KeyError) as error:
            why = " ".join(str(error).replace(f"{self.scratch}/", "").split())[:300]
            raise VerdictDiffersError(f"{what} cannot be read as it was: {why}") from error


def _same(what: str, now: str, then: str | None) -> None:
    if now != then:
        known = f"digest {then[:12]}" if then else "no digest of it"
        raise VerdictDiffersError(f"{what} has digest {now[:12]}, and the verdict was kept with {known}")


def _compare(kept: Decision, again: Decision, *, within: float = 0.0) -> None:
    """Refuse another verdict; reasons are words and not compared, figures are within a relative tolerance."""
    before, now = ({metric.name: metric for metric in one.metrics} for one in (kept, again))
    for name in before | now:
        for field in (field for field in Metric.model_fields if field != "reason"):
            then, found = (getattr(metrics.get(name), field, None) for metrics in (before, now))
            _equal(f"the {field} of {name}", then, found, within)
    for field in ("verdict", "failing", "insufficient", "warnings"):
        _equal(f"the field {field}", getattr(kept, field), getattr(again, field), within)


def _equal(what: str, then: object, now: object, within: float) -> None:
    if isinstance(then, float) and isinstance(now, float):
        same = math.isclose(then, now, rel_tol=within, abs_tol=within / 1000)
        same = same or (math.isnan(then) and math.isnan(now))
    else:
        same = then == now
    if not same:
        raise VerdictDiffersError(f"{what} is {now} as computed again, and {then} in the verdict")
