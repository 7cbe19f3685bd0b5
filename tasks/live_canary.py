"""Canary: the candidate answers a share of the requests, until what users say of its answers is worse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tasks.collect import FEEDBACK_NAME, VERSION_TAG, said_right
from tasks.live_candidate import Trial, drawn
from tasks.registry import quotable, tag_version
from tasks.tracking import experiment_id, tracking
from validation.sequential import evidence_of_harm
from validation.statistics import wilson

_log = logging.getLogger("mendflow.serve")
# On a version: how it stands.
STANDING_TAG = "mendflow.canary"
# On the traces of both arms: the trial, the canary's share, and who asked, where the request says.
TRIAL_TAG, SHARE_TAG, USER_TAG = "mendflow.canary", "mendflow.canary_share", "mendflow.canary_user"
# The probability with which a canary that is no worse is ever withdrawn for its feedback.
FALSE_ALARM = 0.05
_PAGE = 500


@dataclass(frozen=True)
class Standing:
    """What users said of the answers of both arms: flagged and judged ones, and what follows."""

    canary: tuple[int, int]
    champion: tuple[int, int]
    evidence: float

    @property
    def worse(self) -> bool:
        """Whether the canary is to be withdrawn."""
        return self.evidence >= 1 / FALSE_ALARM

    def told(self, share: float) -> str:
        """The figures in a sentence."""
        return (
            f"it got {share:.3g} of the requests; users flagged {_shown(*self.canary)} of its answers that "
            f"they judged, and {_shown(*self.champion)} of the champion's; evidence that it is worse: "
            f"{self.evidence:.3g} (withdrawn at {1 / FALSE_ALARM:.0f})"
        )


class Canary:
    """Deals requests to the candidate, and withdraws it.

    `withdraw(version, champion, why)` is to leave word of it where people and other servers find it; this
    server gives the candidate no more requests before that.
    """

    def __init__(
        self, share: float, *, tracking_uri: str, experiment: str, withdraw: Callable[[str, str, str], None]
    ) -> None:
        self.share = share
        self._uri, self._experiment, self._withdraw = tracking_uri, experiment, withdraw
        self._out: dict[str, tuple[str, str]] = {}
        self._done: set[str] = set()
        self._told: tuple[str, str] = ("", "")

    def takes(self, trial: Trial, user: str, trace_id: str) -> bool:
        """Whether the candidate answers this request: all of a user's, or by lot where nobody is named."""
        return not self.is_out(trial) and drawn(self.share, "canary", trial.name, user or trace_id)

    def tags(self, trial: Trial, user: str) -> dict[str, str]:
        """What the trace of a request says that was dealt to either arm; nothing once the trial is over."""
        if self.is_out(trial):
            return {}
        who = {USER_TAG: sha256(f"{trial.name}/{user}".encode("utf-8", "surrogatepass")).hexdigest()[:16]}
        return {TRIAL_TAG: trial.name, SHARE_TAG: repr(self.share)} | (who if user else {})

    def is_out(self, trial: Trial) -> bool:
        """Whether it was withdrawn, as far as this server knows."""
        return trial.version.number in self._out

    def failed(self, trial: Trial, error: Exception) -> None:
        """Withdraw it: it failed to answer."""
        self._end(trial, f"it failed to answer a request ({type(error).__name__})")

    def judge(self, trial: Trial) -> Standing:
        """Compare what users said of both arms; withdraw the candidate if its feedback is worse.

        Raises:
            UserError: the store cannot be used.
        """
        standing = stand(_judged(self._uri, self._experiment, trial), trial.version.number)
        told = standing.told(self.share)
        if standing.worse:
            self._end(trial, f"its feedback is worse: {told}")
        if self._told != (trial.name, told):
            tag_version(
                trial.version.name, trial.version.number, {STANDING_TAG: told}, tracking_uri=self._uri
            )
            self._told = (trial.name, told)
        return standing

    def carry_out(self) -> None:
        """Leave word of what was withdrawn; what cannot be left now is tried the next time.

        Raises:
            UserError: a store cannot be used, or a change of champion is under way.
        """
        for number, (champion, why) in list(self._out.items()):
            if number not in self._done:
                self._withdraw(number, champion, why)
                self._done.add(number)

    def _end(self, trial: Trial, why: str) -> None:
        if not self.is_out(trial):
            self._out[trial.version.number] = (trial.champion, why)
            _log.error("version %s is withdrawn as canary: %s", trial.version.number, why)


@dataclass(frozen=True)
class Judgement:
    """What a user said of one answer."""

    user: str
    version: str
    right: bool
    share: float
    at: int


def stand(judgements: list[Judgement], canary: str) -> Standing:
    """How both arms stand. The first complaint of each user is evidence: further ones are not independent."""
    first: dict[str, Judgement] = {}
    for one in sorted(judgements, key=lambda judgement: judgement.at):
        if not one.right:
            first.setdefault(one.user, one)
    evidence = evidence_of_harm((one.version == canary, one.share) for one in first.values())
    by_arm = {arm: [one for one in judgements if (one.version == canary) is arm] for arm in (True, False)}
    counts = {arm: (sum(not one.right for one in rows), len(rows)) for arm, rows in by_arm.items()}
    return Standing(counts[True], counts[False], evidence)


def _judged(tracking_uri: str, experiment: str, trial: Trial) -> list[Judgement]:
    """What users said of the answers in a trial."""
    found = [_judgement(trace) for trace in _traces(tracking_uri, experiment, trial)]
    return [one for one in found if one is not None]


def _judgement(trace: Any) -> Judgement | None:
    tags: Mapping[str, str] = trace.info.tags
    verdict, right = said_right(trace)
    try:
        share = float(tags.get(SHARE_TAG, ""))
    except ValueError:
        return None
    if verdict is None or right is None or not 0 < share < 1:
        return None
    user = tags.get(USER_TAG) or trace.info.trace_id
    return Judgement(user, tags.get(VERSION_TAG, ""), right, share, verdict.last_update_time_ms)


def _traces(tracking_uri: str, experiment: str, trial: Trial) -> Iterator[Any]:
    """The answers of a trial that somebody has judged, without their content."""
    query = f"tags.`{TRIAL_TAG}` = '{quotable(trial.name)}' AND tags.`mendflow.model` = "
    query += f"'{quotable(trial.version.name)}' AND feedback.{FEEDBACK_NAME} IS NOT NULL"
    with tracking(tracking_uri) as client:
        place = experiment_id(client, experiment)
        token: str | None = None
        while token != "":
            page = client.search_traces(
                locations=[place],
                filter_string=query,
                max_results=_PAGE,
                page_token=token,
                include_spans=False,
            )
            yield from page
            token = page.token or ""


def _shown(flagged: int, judged: int) -> str:
    if not judged:
        return "0 of 0"
    interval = wilson(flagged, judged)
    return f"{flagged} of {judged} ({interval.value:.3f}, 95 % {interval.low:.3f} to {interval.high:.3f})"
