"""One attempt: an editor found or trained, applied to the dataset, its candidate registered and judged."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import stages
from flows.console import Narrator
from flows.dataset import build_dataset, traffic_to_train_on
from flows.judge import Judged, gates_digest, judge
from flows.keys import judgement_key, run_key
from flows.overriding import wanted_overrides
from flows.rewordings import Rewordings
from flows.settings import CorrectSettings
from tasks import register
from tasks.apply import Applied, kind_warning, open_any_editor
from tasks.edit_dataset import EditDataset
from tasks.ledger import Ledger
from tasks.models import ModelFolder
from tasks.overriding import overridden, with_overrides
from tasks.records import TrafficRecord
from tasks.runs import run_of
from tasks.train import TrainedEditor
from validation.outcomes import ANSWERED, EDIT, SUPPRESSED, SUPPRESSED_WORST


@dataclass(frozen=True)
class Method:
    """An editor that is ready: its name, what opens it, its digest, and its training where it had one."""

    name: str
    ref: str
    digest: str
    trained: TrainedEditor | None

    def described(self) -> dict[str, Any]:
        """What a result and its report say of it."""
        return {
            "name": self.name,
            "digest": self.digest,
            "origin": self.trained.origin if self.trained else "built in",
            "statement": self.trained.statement if self.trained else "",
        }


@dataclass(frozen=True)
class Attempt:
    """A candidate that was judged, what made it, and where its files are."""

    method: Method
    folder: Path
    run_id: str
    candidate: str
    applied: Applied
    manifest: dict[str, Any]
    judged: Judged
    overridden: tuple[str, ...] = ()

    @property
    def corrections(self) -> frozenset[str]:
        """Ids of what was solved."""
        return frozenset(self.judged.dataset.edits["id"])

    def untaken(self) -> frozenset[str]:
        """Ids of corrections that did not take: their own prompt, or more where a failing gate wants it.

        Of what must never appear the gates bear a little: where one correction's samples show more than any
        may, those that show less are not to blame.
        """
        outcomes, decision = self.judged.outcomes, self.judged.decision
        wanted = {
            name for name in (ANSWERED, SUPPRESSED) for gate in decision.failing if gate.startswith(name)
        }
        edits = outcomes[outcomes["metric"].isin({EDIT, *wanted} - {SUPPRESSED})]
        untaken = set(edits.loc[edits["candidate_ok"] != 1, "id"])
        if SUPPRESSED in wanted:
            samples = outcomes[outcomes["metric"] == SUPPRESSED]
            shares = (samples["candidate_ok"] != 1).groupby(samples["id"]).mean()
            limit = next((m.threshold for m in decision.metrics if m.name == SUPPRESSED_WORST), None) or 0.0
            untaken |= set(shares.index[shares > limit]) or set(shares.index[shares > 0])
        return frozenset(untaken)


@dataclass
class Workshop:
    """All that attempts share: the job, the champion and its base, the traffic, and editors once ready.

    `replay` are recent requests to ask too, and whether they are chat turns; `renew` keeps the lease: nothing
    is changed after another run took it.
    """

    settings: CorrectSettings
    ledger: Ledger
    champion: stages.Champion
    base: ModelFolder
    traffic: Iterable[TrafficRecord]
    replay: list[tuple[str, bool]]
    narrator: Narrator
    renew: Callable[[], None]
    ready: dict[str, Method] = field(default_factory=dict)
    rewordings: Rewordings = field(default_factory=Rewordings)


def attempt(
    shop: Workshop,
    name: str,
    built: Path | None = None,
    aside: frozenset[str] = frozenset(),
    thorough: bool = True,
) -> Attempt:
    """One editor's candidate, judged.

    Args:
        shop: what attempts share.
        name: the editor's name, or the folder of a trained one.
        built: folder of an attempt on the same corrections, whose dataset serves again.
        aside: ids of open corrections to leave out, as if they had failed already: once they have, the same
            attempt is found finished.
        thorough: whether a candidate is to be measured all the same where too few corrections took. One that
            is refused without being asked anything is measured no further in any case.

    Raises:
        CannotEditError: the editor cannot be had for this base, or cannot make these corrections.
        UserError: there is nothing to learn from, a store or file cannot be used, or the candidate cannot be
            measured.
    """
    settings, narrator = shop.settings, shop.narrator
    method = shop.ready.get(name) or _method(shop, name)
    shop.ready[name] = method
    # Training may have taken longer than the lease.
    shop.renew()
    ledger_digest = shop.ledger.digest(settings.model_name, stages.OPEN, without=aside)
    key = run_key(settings, ledger_digest, shop.base.digest, method.digest)
    folder = settings.home / "runs" / settings.model_name / key
    dataset = _dataset(shop, folder, built, aside)
    manifest: dict[str, Any] = {
        # What the data gate took away is gone from the ledger's digest too.
        "ledger_digest": shop.ledger.digest(settings.model_name, stages.OPEN, without=aside),
        "data_digest": dataset.digest,
        "seed": settings.seed,
        "model": settings.model_name,
    }
    with narrator.stage("apply", "Apply all corrections in one solve") as progress:
        applied = stages.apply_corrections(
            shop.base, method.ref, dataset, folder / "delta", manifest, settings.key_statistics, progress
        )
    overrides = wanted_overrides(settings, shop.ledger, shop.champion, aside=aside)
    applied = with_overrides(applied, overrides, folder / "overridden")
    with narrator.stage("register", "Register the candidate"):
        judgement = judgement_key(
            settings,
            key,
            dataset=dataset.digest,
            delta=applied.digest,
            champion=shop.champion.version,
            gates=gates_digest(settings),
            replay=shop.replay,
        )
        run_id = run_of(settings.tracking, f"{settings.experiment}-corrections", judgement)
        manifest["editor_digest"] = method.digest
        candidate = registered(shop, applied, manifest, run_id)
    with narrator.stage("validate", "Validate it as it will be served") as progress:
        judged = judge(
            settings,
            dataset,
            shop.champion,
            candidate,
            applied,
            run_id,
            folder,
            shop.replay,
            shop.ledger.corrections(settings.model_name),
            progress,
            thorough,
        )
    ids = overridden(overrides)
    return Attempt(method, folder, run_id, candidate, applied, manifest, judged, ids)


def registered(shop: Workshop, applied: Applied, manifest: dict[str, Any], run_id: str) -> str:
    """The version of a delta, with the alias `candidate`; registered unless it is already."""
    return register.register(
        shop.settings.model_name,
        tracking_uri=shop.settings.tracking,
        base=shop.base,
        delta_dir=applied.folder,
        manifest=manifest,
        run_id=run_id,
    )


def _method(shop: Workshop, name: str) -> Method:
    settings = shop.settings.model_copy(update={"editor": name})
    corrections = shop.ledger.corrections(settings.model_name, *stages.OPEN)
    with shop.narrator.stage("train", "Find or train an editor") as progress:
        learnable = traffic_to_train_on(settings, shop.ledger, shop.champion, shop.traffic)
        trained = stages.train_or_reuse(settings, shop.base, learnable, progress, shop.narrator.left_out)
        ref = str(trained.folder) if trained else name
        opened = open_any_editor(ref, shop.base, settings.key_statistics, progress)
    shop.narrator.warn(kind_warning(opened, [c.chat for c in corrections]))
    return Method(name, ref, opened.digest(), trained)


def _dataset(shop: Workshop, folder: Path, built: Path | None, aside: frozenset[str]) -> EditDataset:
    """The dataset in this folder: built, or the same as in another attempt's folder."""
    if built is not None:
        for part in ("dataset", "data_docs"):
            shutil.rmtree(folder / part, ignore_errors=True)
            shutil.copytree(built / part, folder / part)
        return EditDataset.load(folder / "dataset")
    name, narrator = shop.settings.model_name, shop.narrator
    with narrator.stage("build", "Build and check the edit dataset") as progress:
        dataset, quarantined = build_dataset(
            shop.settings,
            shop.ledger,
            shop.champion,
            shop.traffic,
            folder,
            progress,
            aside,
            shop.rewordings,
        )
    for warning in dataset.manifest["data_gate"]["warnings"]:
        narrator.warn(warning)
    if quarantined:
        narrator.say(
            f"set aside {len(quarantined)} corrections that must not be taught; "
            f"`mendflow corrections {shlex.quote(name)} --state quarantined` says why"
        )
    return dataset
