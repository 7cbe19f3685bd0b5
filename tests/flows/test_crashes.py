"""A run that is killed at random points loses nothing, does nothing twice, and ends as if left alone.

The figures that these tests print are in docs/crashes.md.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.flows.conftest import World
from tests.flows.crashes import Death, Run, broken_after, broken_always, report_more, reported, run, state_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

POINTS = 40
# Deaths in a row before a run is let come to its end.
IN_A_ROW = 8
SEED = 20


def test_killed_at_forty_random_points_and_run_again(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    world.reports.unlink()
    calm = world.settings.model_copy(update={"home": tmp_path / "calm"})
    calm.home.mkdir()
    log = tmp_path / "log"
    chance = random.Random(SEED)
    deaths: list[tuple[Death, Run]] = []
    recoveries: list[float] = []
    rounds = 0
    while len(deaths) < POINTS:
        report_more(world.reports, rounds)
        rounds += 1
        undisturbed = run(calm, log)
        assert undisturbed.code == 0, undisturbed.said
        in_a_row = 0
        while in_a_row < IN_A_ROW and len(deaths) < POINTS:
            # A run that finds work done has fewer changes left, and may end before its death.
            if len(deaths) % 2:
                death = Death(seconds=chance.uniform(0, undisturbed.seconds))
            else:
                death = Death(change=chance.randint(1, undisturbed.changes))
            ended = run(world.settings, log, death)
            assert ended.killed or ended.code == 0, ended.said
            assert not broken_always(world.settings), str(death)
            if not ended.killed:
                break
            deaths.append((death, ended))
            in_a_row += 1
            with capsys.disabled():
                print(f"\n{len(deaths)}: round {rounds}, {death}, {ended.stage}", end="")
        recovered = run(world.settings, log)
        assert recovered.code == 0, recovered.said
        recoveries.append(recovered.seconds)
        assert not broken_after(world.settings, reported(world.reports))
        assert state_of(world.settings) == state_of(calm)
    with capsys.disabled():
        print(f"\n{len(deaths)} deaths in {rounds} rounds; recoveries of {max(recoveries):.1f} s at most")
        for stage, count in Counter(ended.stage for _, ended in deaths).most_common():
            print(f"| {stage} | {count} |")
