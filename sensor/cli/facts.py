"""What can be found out about this machine, its state directory and its log without changing anything: for `support`."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

from sensor.errors import DataError
from sensor.version import VERSION

_MOST_LOG = 4 * 1024 * 1024
_MOST_LINES = 5000
_JOURNAL_SECONDS = 20
_BUSY_SECONDS = 5
_MOST_ROWS = 200
_SMALL = 64 * 1024

_GROUPS = (
    ("digests", ("registry", "state")),
    ("tags", ("registry", "state")),
    ("repositories", ("registry", "state")),
    ("work", ("lane", "attempts", "crashes", "error")),
    ("outbox", ("link", "kind", "state", "last_error")),
)
"""Tables of the state database, and what their rows are counted by. What a version does not have is left out."""


def machine() -> dict[str, object]:
    """Versions, the platform and its bounds."""
    return {
        "sensor": VERSION,
        "python": sys.version,
        "platform": platform.platform(),
        "architecture": platform.machine(),
        "distribution": _first_line("/etc/os-release", "PRETTY_NAME="),
        "processors": os.cpu_count(),
        "memory": _first_line("/proc/meminfo", "MemTotal:"),
        "cgroup": {name: _first_line(f"/sys/fs/cgroup/{name}") for name in ("memory.max", "memory.current", "cpu.max")},
        "container": Path("/.dockerenv").exists()
        or Path("/run/.containerenv").exists()
        or "KUBERNETES_PORT" in os.environ,
        "user": os.geteuid(),
        "time zone": time.tzname,
        "locale": os.environ.get("LC_ALL") or os.environ.get("LANG") or "",
        # names only: a value may be a secret
        "variables": sorted(name for name in os.environ if name.upper().startswith(_TELLING)),
        "packages": dict(sorted((found.metadata["Name"], found.version) for found in metadata.distributions())),
    }


_TELLING = ("HARBORGUARD", "HG_", "REGISTRY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "AWS_", "AZURE_", "GOOGLE_",
            "SENSOR_", "LOG_LEVEL", "SSL_CERT", "CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "DOCKER_CONFIG")  # fmt: skip


def _first_line(path: str, prefix: str = "") -> str:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_SMALL).splitlines()
    except OSError:
        return ""
    found = next((line for line in lines if line.startswith(prefix)), "")
    return found.removeprefix(prefix).strip().strip('"')


def state(directory: Path) -> dict[str, object]:
    """Files of the state directory, free space, and counts of what is in the state database.

    Raises:
        DataError: there is no such directory, or its database cannot be read.
    """
    try:
        files = {path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.is_file()}
        free = shutil.disk_usage(directory).free
    except OSError as error:
        message = f"the state directory {directory} cannot be looked at: {error.strerror}"
        raise DataError(message) from error
    found: dict[str, object] = {"directory": str(directory), "files": files, "free_bytes": free}
    if "state.db" in files:
        found |= _counts(directory / "state.db")
    return found


def _counts(path: Path) -> dict[str, object]:
    wal, shared = (path.with_name(path.name + end) for end in ("-wal", "-shm"))
    # without the files of the write-ahead log a reader would make them, and if root does, the sensor cannot open them afterwards
    how = "mode=ro" if wal.exists() and shared.exists() else "immutable=1"
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=_BUSY_SECONDS)
        ) as database:
            database.execute("PRAGMA query_only = 1")
            schema = database.execute("PRAGMA user_version").fetchone()[0]
            tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608 - names of our own schema
            groups = {name: _grouped(database, name, by) for name, by in _GROUPS if name in tables}
    except sqlite3.Error as error:
        message = f"the state database {path} cannot be read: {error}"
        raise DataError(message) from error
    return {"schema": schema, "rows": rows, "groups": groups}


def _grouped(database: sqlite3.Connection, table: str, by: tuple[str, ...]) -> list[dict[str, object]]:
    known = {row[1] for row in database.execute(f'PRAGMA table_info("{table}")')}
    columns = [name for name in by if name in known]
    if not columns:
        return []
    names = ", ".join(columns)
    query = f"SELECT {names}, count(*) FROM {table} GROUP BY {names} ORDER BY count(*) DESC LIMIT {_MOST_ROWS}"  # noqa: S608 - as above
    return [dict(zip((*columns, "count"), row, strict=True)) for row in database.execute(query)]


def log_file(path: Path) -> str:
    """The last lines of a log file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST_LOG))
            return _last_lines(file.read(_MOST_LOG))
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise DataError(message) from error


def journal(unit: str) -> str:
    """The last lines of a systemd unit in the journal.

    Raises:
        DataError: there is no journal here, it cannot be read, or it takes too long.
    """
    program = shutil.which("journalctl")
    if program is None:
        raise DataError("there is no journalctl here (in a container, `docker logs` or `kubectl logs` has the lines)")
    command = [program, f"--unit={unit}", f"--lines={_MOST_LINES}", "--no-pager", "--output=short-iso", "--quiet"]
    with tempfile.TemporaryFile() as lines:
        try:
            done = subprocess.run(  # noqa: S603 - the unit is one argument, whatever is in it
                command, stdin=subprocess.DEVNULL, stdout=lines, stderr=subprocess.DEVNULL, timeout=_JOURNAL_SECONDS, check=False
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it took longer than {_JOURNAL_SECONDS} s"
            message = f"journalctl could not be asked: {reason}"
            raise DataError(message) from error
        lines.seek(max(0, lines.seek(0, os.SEEK_END) - _MOST_LOG))
        text = _last_lines(lines.read(_MOST_LOG))
    if done.returncode or not text:
        message = f"the journal has nothing of {unit} for this user (journalctl ended with {done.returncode})"
        raise DataError(message)
    return text


def _last_lines(data: bytes) -> str:
    lines = data.decode("utf-8", "replace").splitlines()
    return "".join(f"{line}\n" for line in lines[-_MOST_LINES:])
