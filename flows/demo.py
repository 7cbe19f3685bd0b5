"""The demo: a real model, its real mistakes, corrected, gated, promoted, rolled back and forward again."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.console import Narrator, gate_table
from flows.correct import CorrectionRun, correct
from flows.demo_summary import write_summary
from flows.promote import rollback
from flows.questions import Question, as_asked, demo_questions
from flows.settings import DEMO_MODEL, MARKER_FILE, CorrectSettings
from flows.stages import find_champion
from flows.temporary_server import ensure_server
from tasks.export import export_checkpoint
from tasks.ledger import Ledger
from tasks.models import load, resolve
from tasks.records import UserError
from tasks.registry import describe
from tasks.traffic import Answer, Feedback, ask, give_feedback, load_served

MODEL_NAME = "demo-model"
EXPERIMENT = "demo-traffic"
TRAFFIC_FILE = "traffic.json"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class DemoSettings:
    """What the demo asks, and where it keeps everything."""

    home: Path
    retrain: bool
    resume: bool
    capitals: int
    cities: int
    requests: int
    seed: int


def run_demo(demo: DemoSettings) -> CorrectionRun:
    """Run the demo from beginning to end and write `summary.json`.

    Raises:
        UserError: nothing was promoted, with the reason.
    """
    started = time.perf_counter()
    home = demo.home.absolute()
    _prepare(home, resume=demo.resume)
    # It starts while the model is loaded.
    ensure_server()
    settings = CorrectSettings(
        model_name=MODEL_NAME,
        base=DEMO_MODEL,
        home=home,
        # Its own, whatever stores the environment names.
        tracking_uri="",
        ledger_url="",
        experiment=EXPERIMENT,
        retrain=demo.retrain,
        held_out=2,
        equivalents=4,
        far=60,
        keep_confirmed=200,
        seed=demo.seed,
    )
    narrator = Narrator()
    with narrator.stage("model", "Load SmolLM2-135M-Instruct and register it as the first champion"):
        base = resolve(DEMO_MODEL, cache=home / "models")
        with Ledger(settings.ledger) as ledger:
            find_champion.fn(settings, ledger)
    questions = demo_questions(capitals=demo.capitals, cities=demo.cities, seed=demo.seed)
    requests = as_asked(questions, demo.requests, seed=demo.seed)
    answers = _production(settings, requests, narrator)
    flagged = [q for q, a in zip(requests, answers, strict=True) if not q.is_answered_by(a.output)]
    wrong = list(dict.fromkeys(flagged))
    narrator.say(
        f"{len(requests)} requests, {len(flagged)} answered wrongly and flagged by users: "
        f"{len(wrong)} of {len(questions)} different questions"
    )

    run = correct(settings)
    if run.outcome == "nothing to do":
        run = CorrectionRun(**json.loads(_last_result(home).read_text()))
        if run.candidate != describe(MODEL_NAME, tracking_uri=settings.tracking).champion:
            # The demo was interrupted between its rollback and the way forward.
            rollback(settings, "demo", "go on with an interrupted demo")
    elif run.outcome != "promoted":
        raise UserError(f"the candidate was {run.outcome}: {run.reason} (report: {run.report})")
    narrator.console.print(gate_table(f"{run.outcome}: {run.reason}", run.metrics))

    folders = {"base": base.path, "champion": home / "champion"}
    with narrator.stage("export", "Write the champion as a Hugging Face checkpoint"):
        champion = resolve(
            f"models:/{MODEL_NAME}@champion", cache=home / "models", tracking_uri=settings.tracking
        )
        export_checkpoint(champion, None, folders["champion"])
    with narrator.stage("rollback", "Roll back, and forward again"):
        there_and_back = _roll(settings, wrong[:3], champion.digest)
    for line in there_and_back["story"]:
        narrator.say(line)

    seconds = {**narrator.seconds, **run.seconds, "total": time.perf_counter() - started}
    write_summary(home / SUMMARY_FILE, settings, run, folders, seconds, there_and_back)
    narrator.say(f"Report    {run.report}")
    narrator.say(f"Summary   {home / SUMMARY_FILE}")
    narrator.say(f"MLflow    .venv/bin/mlflow ui --backend-store-uri {settings.tracking}")
    narrator.say(f"Undo      .venv/bin/mendflow rollback {MODEL_NAME} --home {demo.home}")
    narrator.say(f"Total     {seconds['total']:.0f} s")
    return run


def _prepare(home: Path, *, resume: bool) -> None:
    """An empty folder but for converted models, unless an interrupted demo goes on."""
    if not resume and home.exists():
        if any(home.iterdir()) and not (home / MARKER_FILE).is_file():
            raise UserError(f"{home} holds something other than a demo; name a new folder with --home")
        for path in home.iterdir():
            if path.name not in ("models", MARKER_FILE):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    home.mkdir(parents=True, exist_ok=True)
    (home / MARKER_FILE).write_text("This folder belongs to `mendflow demo`, which empties it.\n")


def _production(settings: CorrectSettings, questions: list[Question], narrator: Narrator) -> list[Answer]:
    """Serve every question once with tracing on, and let users click on the answers."""
    file = settings.home / TRAFFIC_FILE
    if file.is_file():
        saved = json.loads(file.read_text())
        answers = [Answer(**row) for row in saved["answers"]]
        if not saved["clicked"]:
            _click(settings, questions, answers, narrator)
            _save_traffic(file, answers, clicked=True)
        return answers
    with narrator.stage("traffic", "Answer questions in production, with tracing on") as progress:
        served = load_served(f"models:/{MODEL_NAME}@champion", settings.tracking)
        answers = ask(
            served,
            [q.text for q in questions],
            experiment=EXPERIMENT,
            session="demo",
            progress=lambda done, total: progress(done, total, ""),
        )
    _save_traffic(file, answers, clicked=False)
    _click(settings, questions, answers, narrator)
    _save_traffic(file, answers, clicked=True)
    return answers


def _click(
    settings: CorrectSettings, questions: list[Question], answers: list[Answer], narrator: Narrator
) -> None:
    """What users say of every answer; a trace that is clicked on twice is one report all the same."""
    with narrator.stage("feedback", "Users click on right and wrong answers") as progress:
        clicks = []
        for question, answer in zip(questions, answers, strict=True):
            right = question.is_answered_by(answer.output)
            told = question.accepted[0] if right else question.answer
            clicks.append(Feedback(answer.trace_id, right, "demo-user", told))
        give_feedback(
            clicks,
            tracking_uri=settings.tracking,
            progress=lambda done, total: progress(done, total, ""),
        )


def _save_traffic(file: Path, answers: list[Answer], *, clicked: bool) -> None:
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"answers": [answer.__dict__ for answer in answers], "clicked": clicked}))
    os.replace(partial, file)


def _last_result(home: Path) -> Path:
    results = sorted((home / "runs" / MODEL_NAME).glob("*/result.json"), key=lambda p: p.stat().st_mtime)
    if not results:
        raise UserError(f"{home} holds no finished run; start the demo again without --resume")
    return results[-1]


def _roll(settings: CorrectSettings, asked: list[Question], base_digest: str) -> dict[str, Any]:
    """Roll back and forward; answers must follow, and the base must come back bit for bit."""
    from editors.delta import model_digest

    said: dict[str, list[str]] = {}
    prompts = [q.text for q in asked]
    uri = f"models:/{MODEL_NAME}@champion"
    said["champion"] = load_served(uri, settings.tracking).answer(prompts)
    back = rollback(settings, "demo", "show that a rollback restores the base")
    served = load_served(uri, settings.tracking)
    said["rolled back"] = served.answer(prompts)
    model, _ = load(resolve(uri, cache=settings.home / "models", tracking_uri=settings.tracking))
    identical = model_digest(model) == base_digest
    del model
    forward = rollback(settings, "demo", "and forward again")
    said["forward again"] = load_served(uri, settings.tracking).answer(prompts)
    story = [
        prompt + "".join(f"\n    {when:14} {said[when][i]}" for when in said)
        for i, prompt in enumerate(prompts)
    ]
    story.append(f"The base's weights came back bit for bit: {'yes' if identical else 'NO'}")
    return {
        "rolled_back_to": back,
        "forward_to": forward,
        "base_weights_identical": identical,
        "answers_follow": said["champion"] == said["forward again"] != said["rolled back"],
        "story": story,
        "answers": said,
    }
