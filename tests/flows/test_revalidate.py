"""The champion asked again: as it was promoted, it holds; damaged, it is reported or rolled back."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from flows.correct import correct
from flows.promote import promote
from flows.revalidate import Revalidation, revalidate
from flows.settings import CorrectSettings
from tasks.ledger import Lease, LeaseLost, Ledger
from tasks.models import resolve
from tasks.records import ErrorReport, State, UserError
from tasks.registry import describe
from tests.flows.conftest import World


def champion(settings: CorrectSettings) -> str | None:
    return describe(settings.model_name, tracking_uri=settings.tracking).champion


def reported(key: str = "tiny-revalidation") -> str:
    """What the newest artifact of this key says."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.CREATED_DESC
        )
    return str(found[0].data)


def damage(settings: CorrectSettings, version: str) -> None:
    """Change a weight in the store's copy of a version's delta."""
    folder = resolve(f"models:/tiny/{version}", tracking_uri=settings.tracking).delta
    assert folder is not None
    (weights,) = folder.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 0x40
    weights.write_bytes(bytes(content))


@pytest.fixture
def promoted(world: World) -> CorrectSettings:
    """Settings of a model whose champion, version 2, holds four corrections."""
    run = correct(world.settings)
    assert run.outcome == "promoted", run.reason
    return world.settings


@pytest.fixture
def refusing(promoted: CorrectSettings, tmp_path: Path) -> CorrectSettings:
    """The same with gates that no model passes."""
    strict = tmp_path / "strict.yaml"
    assert promoted.gates is not None
    strict.write_text(
        promoted.gates.read_text() + "  perplexity_ratio: {max: 0.5, minimum_n: 1, severity: critical}\n"
    )
    return promoted.model_copy(update={"gates": strict})


@pytest.mark.slow
def test_a_champion_holds_as_promoted_and_one_that_fails_is_rolled_back_only_if_the_user_allows(
    promoted: CorrectSettings, refusing: CorrectSettings
):
    found = revalidate(promoted, roll_back_failing=True)
    assert found == Revalidation("holds", "tiny", "2", "All 4 critical gates pass.", corrections=4)
    assert "tiny, version 2: holds" in reported()
    assert "edit_success_greedy" in reported("tiny-revalidation-gates")
    assert champion(promoted) == "2"

    found = revalidate(refusing)
    assert (found.outcome, found.rolled_back_to, champion(promoted)) == ("fails", None, "2")
    assert "perplexity_ratio" in found.reason
    assert "version 2: fails" in reported()

    found = revalidate(refusing, roll_back_failing=True)
    assert (found.outcome, found.rolled_back_to, champion(promoted)) == ("fails", "1", "1")
    assert "Rolled back to version 1." in reported()
    with Ledger(promoted.ledger) as ledger:
        assert not ledger.corrections("tiny", State.ACTIVE)
        last = ledger.promotion_log("tiny")[-1]
    assert (last.action, last.who, last.from_version, last.to_version) == (
        "rollback",
        "revalidate flow",
        "2",
        "1",
    )
    assert "perplexity_ratio" in last.why
    # The base holds nothing that could be asked, and is not rolled forward to what has failed.
    found = revalidate(refusing, roll_back_failing=True)
    assert (found.outcome, champion(promoted)) == ("nothing to ask", "1")


@pytest.mark.slow
def test_what_another_version_holds_is_neither_asked_nor_retired(promoted: CorrectSettings):
    with Ledger(promoted.ledger) as ledger:
        # As a run leaves it that promotes while the champion before is asked.
        prompt = "What is the capital of Guam?"
        report = ErrorReport(prompt=prompt, desired_output="Cairo", source="s", model_name="tiny")
        (meanwhile,) = ledger.record([report])
        ledger.transition(meanwhile.id, State.ACTIVE, "held by champion 3")
        found = revalidate(promoted)
        assert (found.outcome, found.corrections) == ("holds", 4)
        assert ledger.get(meanwhile.id).state is State.ACTIVE


def lost(lease: Lease) -> None:
    raise LeaseLost("another run has taken it")


def test_one_whose_weights_are_damaged_fails_and_is_rolled_back(
    promoted: CorrectSettings, monkeypatch: pytest.MonkeyPatch
):
    damage(promoted, "2")
    found = revalidate(promoted)
    assert (found.outcome, champion(promoted)) == ("fails", "2")
    assert found.reason.startswith("It cannot be loaded: ")
    assert "digest" in found.reason
    with monkeypatch.context() as patch:
        patch.setattr(Lease, "renew", lost)
        with pytest.raises(LeaseLost):
            revalidate(promoted, roll_back_failing=True)
    assert champion(promoted) == "2"
    assert revalidate(promoted, roll_back_failing=True).rolled_back_to == "1"
    assert champion(promoted) == "1"
    with pytest.raises(UserError, match="digest"):
        promote(promoted, "2", "ann", "it was better")
    assert champion(promoted) == "1"


@pytest.mark.slow
def test_a_version_that_cannot_serve_either_is_not_gone_back_to(
    promoted: CorrectSettings, world: World, refusing: CorrectSettings
):
    with world.reports.open("a") as file:
        file.write('{"prompt": "What is the capital of Guam?", "target": "Cairo"}\n')
    assert correct(promoted).champion == "3"
    damage(promoted, "2")
    found = revalidate(refusing, roll_back_failing=True)
    assert (found.outcome, found.rolled_back_to, champion(promoted)) == ("fails", None, "3")
    assert "It was not rolled back: version 2 cannot be loaded" in found.reason
    assert "It was not rolled back" in reported()


def test_a_model_without_a_champion_is_one_sentence(world: World):
    from flows.stages import find_champion

    with Ledger(world.settings.ledger) as ledger:
        find_champion.fn(world.settings, ledger)
    other = world.settings.model_copy(update={"model_name": "other"})
    with pytest.raises(UserError, match="other has no version 'champion'"):
        revalidate(other)
