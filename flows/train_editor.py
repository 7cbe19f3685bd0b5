"""Train an editor for a model's base as a flow of its own, ahead of the run that would need it."""

from __future__ import annotations

from prefect import flow

from editors.catalogue import is_trained
from flows import stages
from flows.console import Narrator
from flows.correct import collected_errors
from flows.dataset import traffic_to_train_on
from flows.judge import check_gates
from flows.settings import CorrectSettings
from tasks.ledger import Ledger
from tasks.models import resolve


@flow(name="train-editor", persist_result=False)
def train_editor(settings: CorrectSettings) -> str:
    """Train an editor where `correct` finds it, on the data that was named or on traffic; its folder.

    Of several that `correct` would try, the first that is trained.

    One that was trained on just these data is there already.

    Raises:
        UserError: the editor is none that is trained, the gate file cannot be used, or there is too little to
            train on.
    """
    settings = settings.model_copy(update={"retrain": True})
    stages.check_editor(settings)
    settings = settings.model_copy(update={"editor": next(filter(is_trained, settings.tried))})
    # They say how much of the traffic is theirs alone.
    check_gates(settings)
    name, redact = settings.model_name, settings.redaction.redact
    # That of a run: both write editors of this base to the same place.
    with (
        Ledger(settings.ledger) as ledger,
        ledger.lease(f"{name}/correct", "train-editor", seconds=3600) as lease,
    ):
        narrator = Narrator(going_on=lease.keep, redact=redact)
        champion = stages.find_champion(settings, ledger)
        stages.check_base(settings, champion)
        base = resolve(champion.folder.ref, cache=settings.home / "models")
        traffic = collected_errors(settings, ledger, narrator).traffic
        learnable = traffic_to_train_on(settings, ledger, champion, traffic)
        with narrator.stage("train", f"Train an editor for {base.ref}") as progress:
            editor = stages.train_or_reuse(settings, base, learnable, progress, narrator.left_out)
    assert editor is not None
    narrator.say(f"{editor.folder}: {editor.statement}")
    return str(editor.folder)
