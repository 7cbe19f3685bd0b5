"""Reaching MLflow at one tracking URI, with its failures said in words."""

from __future__ import annotations

import glob
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from tasks.records import StoreFailedError, UserError
from tasks.urls import sqlite_file, without_password

_CONNECT_SECONDS = 5.0
_DATABASES = frozenset({"postgresql", "mysql", "mssql"})
# MLflow's own words, whatever error it came upon first.
_REFUSALS = ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE")
# So it tells of files that are there and could not be fetched, with no error below.
_NOT_FETCHED = "The following failures occurred while downloading"
# As `mlflow server` has it from its environment.
ROOT_VARIABLE = "MLFLOW_DEFAULT_ARTIFACT_ROOT"


@contextmanager
def tracking(tracking_uri: str | None, *, create: bool = False) -> Iterator[Any]:
    """An `MlflowClient` for the store, whose URI is MLflow's own (for both stores) inside the block.

    Many of MLflow's functions, even some of a client of another store, go by the global URI alone: no two
    threads may use two stores at once. A SQLite store is only made where `create` says so, not out of a
    misspelt path.

    Raises:
        StoreFailedError: the store cannot be reached or used.
    """
    import mlflow
    from mlflow.environment_variables import MLFLOW_REGISTRY_URI
    from mlflow.exceptions import MlflowException
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
    from sqlalchemy.exc import SQLAlchemyError

    present = mlflow.get_tracking_uri()
    before = present if mlflow.is_tracking_uri_set() else None
    registry, inherited = mlflow.get_registry_uri(), MLFLOW_REGISTRY_URI.get_raw()
    uri = tracking_uri or present
    _check_reachable(uri, create=create)
    if create:
        _make_sqlite_store(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        with _quiet_client():
            yield mlflow.MlflowClient()
    except (SQLAlchemyError, ConnectionError, UnsupportedModelRegistryStoreURIException) as error:
        raise _unusable(uri, error) from error
    except MlflowException as error:
        # What fails below MLflow it wraps; its own refusals are the caller's to tell.
        below = _below(error)
        if below is not None:
            raise _unusable(uri, below) from error
        raise
    finally:
        # An empty registry URI follows the tracking URI.
        mlflow.set_registry_uri("" if registry == present else registry)
        # What processes that are started later inherit, which MLflow leaves as it was set last.
        if inherited is None:
            MLFLOW_REGISTRY_URI.unset()
        else:
            MLFLOW_REGISTRY_URI.set(inherited)
        mlflow.set_tracking_uri(before)


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Without what MLflow prints, unless the user asked for it.

    That is a progress bar for every small file, and the address of a run: with the password, if it has one.
    """
    from mlflow import environment_variables as variables

    with ExitStack() as stack:
        for setting, quiet in (
            (variables.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, False),
            (variables.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT, True),
        ):
            if not setting.is_set():
                setting.set(quiet)
                stack.callback(setting.unset)
        yield


def has_store(uri: str) -> bool:
    """Whether there may be a store: false where its SQLite file was not made yet."""
    file = sqlite_file(uri)
    return file is None or file.is_file()


def _check_reachable(uri: str, *, create: bool) -> None:
    """Fail in seconds where MLflow would try again for minutes, or make an empty store."""
    file = sqlite_file(uri)
    if file is not None and not create and not file.is_file():
        raise _unusable(uri, FileNotFoundError(f"there is no file {file}; `mendflow correct` makes it"))
    address = urlsplit(uri)
    if address.scheme not in ("http", "https"):
        return
    try:
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unusable(uri, error) from error


def _make_sqlite_store(uri: str) -> None:
    """Make a new SQLite store, there whole or not at all: MLflow cannot go on with a part of its tables.

    In write-ahead mode: its tables, and every trace, take a third of the time.
    """
    file = sqlite_file(uri)
    if file is None or file.exists():
        return
    from filelock import FileLock
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")):
            if file.exists():
                return
            making = f".{file.name}.making-"
            for left in file.parent.glob(f"{glob.escape(making)}*"):
                shutil.rmtree(left)
            # Another name each time: MLflow keeps connections to a file of a name.
            with tempfile.TemporaryDirectory(prefix=making, dir=file.parent) as scratch:
                unfinished = Path(scratch) / file.name
                with closing(sqlite3.connect(unfinished)) as connection:
                    connection.execute("PRAGMA journal_mode = WAL")
                artifacts = file.absolute().parent / "artifacts"
                SqlAlchemyStore(f"sqlite:///{unfinished}", artifacts.as_uri()).engine.dispose()
                os.replace(unfinished, file)
    except (OSError, sqlite3.Error, SQLAlchemyError) as error:
        raise _unusable(uri, error) from error


def store_failed(error: Exception) -> bool:
    """Whether a database, network or disk failed, and not only what was asked for is missing."""
    below = _below(error)
    status = getattr(getattr(below, "response", None), "status_code", None)
    return below is not None and not isinstance(below, FileNotFoundError) and status != 404


def _below(error: Exception) -> Exception | None:
    """What failed below MLflow, if it is not MLflow itself that refuses something."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    below: BaseException | None = error
    if isinstance(error, MlflowException):
        if error.error_code in _REFUSALS:
            return None
        if error.message.startswith(_NOT_FETCHED):
            return error
        below = error.__cause__ or error.__context__
    return below if isinstance(below, (SQLAlchemyError, OSError)) else None


def _unusable(uri: str, error: Exception) -> StoreFailedError:
    cause = without_password(" ".join(str(getattr(error, "orig", None) or error).split()))[:300]
    return StoreFailedError(
        f"MLflow at {without_password(uri)} cannot be used ({cause}); correct the tracking URI "
        "(sqlite:///path/to/mlflow.db or http://host:port), or see that the server runs and has room"
    )


def experiment_id(client: Any, name: str, *, root: str = "") -> str:
    """The id of an experiment, made if there is none; a SQLite store's artifacts go beside its file.

    Those of another database go below the URI `root`, or what MLFLOW_DEFAULT_ARTIFACT_ROOT names. MLflow
    would put them under the directory that the process happens to run in.

    Raises:
        UserError: the store is another database, and nothing says where files are to lie.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    file = sqlite_file(client.tracking_uri)
    if file is not None:
        location = (file.absolute().parent / "artifacts" / quote(name, safe="")).as_uri()
    elif urlsplit(client.tracking_uri).scheme.partition("+")[0] in _DATABASES:
        root = root or os.environ.get(ROOT_VARIABLE, "")
        if not root:
            raise UserError(
                f"MLflow at {without_password(client.tracking_uri)} has no experiment {name!r}, and its "
                "database has no place for files; name an `mlflow server` on it that has "
                f"--artifacts-destination, or say with {ROOT_VARIABLE}=URI where they are to lie"
            )
        location = f"{root.rstrip('/')}/{quote(name, safe='')}"
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        # Another run has made it meanwhile.
        return str(client.get_experiment_by_name(name).experiment_id)
