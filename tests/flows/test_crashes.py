"""A run that is killed at random points loses nothing, does nothing twice, and ends as if left alone.

The figures that these tests print are in docs/crashes.md.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from flows.settings import CorrectSettings
from tests.flows.conftest import World
from tests.flows.crashes import Death, Rounds, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

POINTS = 40
# Deaths in a row before a run is let come to its end.
IN_A_ROW = 5
SEED = 20


def test_killed_at_forty_random_points_and_run_again(
    world: World, calm: CorrectSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    chance, numbers = random.Random(SEED), itertools.count()

    def draw(undisturbed: Run) -> Death:
        if next(numbers) % 2:
            return Death(seconds=chance.uniform(0, undisturbed.seconds))
        return Death(change=chance.randint(1, undisturbed.changes))

    rounds = Rounds(world.settings, calm, world.reports, tmp_path / "log")
    rounds.go_on(draw, POINTS, IN_A_ROW)
    with capsys.disabled():
        print(rounds.told())
