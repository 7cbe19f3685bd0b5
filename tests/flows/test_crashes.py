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
from tests.flows.crashes import Fault, Rounds, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SEEDS, DEATHS = 4, 10
# Before a run is let come to its end.
IN_A_ROW = 5


@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_forty_random_points_and_run_again(
    world: World, calm: CorrectSettings, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
):
    chance, numbers = random.Random(seed), itertools.count()

    def draw(undisturbed: Run) -> Fault:
        if next(numbers) % 2:
            return Fault(seconds=chance.uniform(0, undisturbed.seconds))
        return Fault(change=chance.randint(1, undisturbed.changes))

    rounds = Rounds(world.settings, calm, world.reports, tmp_path / "log")
    rounds.go_on(draw, DEATHS, IN_A_ROW)
    with capsys.disabled():
        print(rounds.told())
