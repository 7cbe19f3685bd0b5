"""What commands share: their options, the settings made of them, and the machine made ready."""

from __future__ import annotations

import getpass
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from editors.catalogue import EDITORS, listed, no_such
from flows.machine import use_running_server
from flows.settings import HOME as HOME
from flows.settings import HOME_VARIABLE, LEDGER_VARIABLE, TRACKING_VARIABLE
from flows.settings import typed as typed
from flows.temporary_server import ensure_server
from tasks.records import UserError

if TYPE_CHECKING:
    from flows.settings import CorrectSettings


def known_editor(name: str) -> str:
    """The editor as it was named: a misspelt one is refused before anything is imported or loaded for it.

    Raises:
        UserError: it is neither an editor's name nor a folder.
    """
    if name not in EDITORS and not Path(name).is_dir():
        raise UserError(no_such(name))
    return name


def known_editors(names: str) -> str:
    """The editors of `a,b,c`, each held to be known."""
    for name in filter(None, map(str.strip, names.split(","))):
        known_editor(name)
    return names


def editor_or_auto(name: str) -> str:
    """The editor as it was named, or `auto`."""
    from flows.settings import AUTO

    return name if name == AUTO else known_editor(name)


def regular_expression(text: str | None) -> str | None:
    """The text, held to be a regular expression."""
    try:
        re.compile(text or "")
    except re.error as error:
        raise UserError(f"{text!r} is no regular expression ({error}); correct --modules") from error
    return text


def instant(text: str | None) -> str | None:
    """A date or an instant to come, as an instant with its offset from UTC."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(
            f"{text!r} is no date; write 2027-01-31, or an instant as 2027-01-31T12:00+01:00"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= datetime.now(UTC):
        raise UserError(f"{text} is past, so nothing would ever hold; name a later date with --expires")
    return moment.isoformat()


Name = Annotated[str, typer.Argument(help="Registered model name.")]
Home = Annotated[Path, typer.Option(help="Folder for stores, caches and runs.", envvar=HOME_VARIABLE)]
Tracking = Annotated[
    str,
    typer.Option(
        help="MLflow tracking URI; by default SQLite in the home folder.",
        envvar=TRACKING_VARIABLE,
        show_envvar=False,
    ),
]
LedgerUrl = Annotated[
    str,
    typer.Option(
        help="Ledger database URL; by default SQLite in the home folder.",
        envvar=LEDGER_VARIABLE,
        show_envvar=False,
    ),
]
# By two names each: whoever remembers one command's options knows the others'.
Who = Annotated[
    str, typer.Option("--who", "--by", help="The person who decides; by default the user at the machine.")
]
Why = Annotated[str, typer.Option("--why", "--note", help="The reason, which is logged.")]
AnyEditor = Annotated[
    str, typer.Option(help=f"The folder of an editor, or one of {listed()}.", callback=known_editor)
]
OneOrAuto = Annotated[
    str,
    typer.Option(
        help=f"The folder of an editor, one of {listed()}, or `auto`: the first of several that passes.",
        callback=editor_or_auto,
    ),
]
SHADOW = typer.Option(
    metavar="SHARE", help="Of the requests, have the candidate answer this share too, unseen."
)
CANARY = typer.Option(
    metavar="SHARE", help="Have the candidate answer this share of the requests, until its feedback is worse."
)
Shadow = Annotated[float, SHADOW]
Canary = Annotated[float, CANARY]
Chat = Annotated[bool, typer.Option("--chat/--text", help="Prompts are chat turns, or raw text.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, or auto for CUDA where there is one.", show_default=True)
]
Dtype = Annotated[
    str,
    typer.Option(help="Of the model's weights: float32, bfloat16 or float16. Editors compute in float32."),
]
Modules = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Edit the linear maps whose name matches; by default the editor's own choice.",
        callback=regular_expression,
    ),
]
Expires = Annotated[
    str | None,
    typer.Option(
        metavar="DATE",
        help="Until when the answers of `override` hold: a date or an ISO 8601 instant, UTC unless it says.",
        callback=instant,
    ),
]
DEMO_HOME = HOME / "demo"


def settings_of(
    name: str, home: Path, *, tracking: str = "", ledger: str = "", **more: object
) -> CorrectSettings:
    """The settings of a run; child processes are told of its home."""
    from pydantic import ValidationError

    from flows.settings import CorrectSettings

    home = home.absolute()
    os.environ[HOME_VARIABLE] = str(home)
    try:
        # Of commands without the options, too, the environment says where the stores are.
        stores = {"tracking_uri": tracking, "ledger_url": ledger}
        named = {option: url for option, url in stores.items() if url}
        return CorrectSettings.model_validate({"model_name": name, "home": home, **named, **more})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def user() -> str:
    """The user at the machine; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"


def prepare_prefect(home: Path) -> None:
    """Give Prefect a folder in the home folder, and a server, unless the user has them."""
    if "PREFECT_HOME" not in os.environ:
        folder = home.absolute() / "prefect"
        try:
            # Prefect makes no parents of its own.
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be made ({error.strerror}); name another home with --home"
            ) from error
        os.environ["PREFECT_HOME"] = str(folder)
    use_running_server(home)
    ensure_server()
