"""A sequential test: do the answers of one of two arms, dealt by lot, draw more complaints?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

# How many times as likely the canary's answers are to be complained of, in the alternatives averaged.
RISK_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0)


def evidence_of_harm(complaints: Iterable[tuple[bool, float]]) -> float:
    """How much more likely the complaints are if the canary is worse than if it is not; 1 without any.

    A request is the canary's by lot, with a known probability s. Where its answers are no worse, a complaint
    therefore is about one of them with a probability of at most s, whatever it was about; where they are
    complained of r times as often, with probability s r / (s r + 1 - s). The likelihood ratio of the two,
    averaged over `RISK_RATIOS`, is a non-negative supermartingale if the canary is not worse. So it ever
    exceeds 1 / alpha with a probability of at most alpha (Ville's inequality), however often it is looked at
    and whenever one stops (Ramdas et al., Game-theoretic statistics and safe anytime-valid inference, 2023).

    Args:
        complaints: for each whether it is about the canary, and the probability s (above 0, below 1) with
            which its request was dealt to the canary. They have to be independent: one a user.

    Raises:
        ValueError: a probability is not between 0 and 1.
    """
    rows = list(complaints)
    canary = np.array([about for about, _ in rows], dtype=bool)
    share = np.array([probability for _, probability in rows], dtype=np.float64)
    if not ((share > 0) & (share < 1)).all():
        raise ValueError("a request is dealt to either arm with a probability between 0 and 1")
    ratios = np.array(RISK_RATIOS)[:, None]
    # The same for both arms' complaints, but for the ratio itself.
    logs = np.where(canary, np.log(ratios), 0.0) - np.log(share * ratios + 1 - share)
    # As far as a float goes: beyond it nothing is decided.
    return float(np.exp(np.minimum(logs.sum(axis=1), 600.0)).mean())
