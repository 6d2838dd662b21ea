"""How commands speak: results on stdout, everything else on stderr, exit codes as documented, text from outside made inert.

With `--output json` stdout carries one JSON document and nothing else.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import IO, NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sensor.errors import ConfigError, SensorError, StateError


class ExitCode(IntEnum):
    """What the exit status of every command means."""

    FINE = 0
    FINDINGS = 1
    """Findings at or above --fail-on."""
    USAGE = 2
    """The command line or the configuration is wrong."""
    FAILED = 3
    """It could not be done: network, registry, data."""
    INTERRUPTED = 130
    """Ctrl-C before the work was done: 128 and the number of the signal, as shells have it."""


class OutputFormat(StrEnum):
    """For people or for machines."""

    TEXT = "text"
    JSON = "json"


_WIDE = 100_000
"""Columns where the output is no terminal: a table in a file or a pipe must not be folded."""


class _Stream(Console):
    """A console whose reader may leave (`| head -1`): what is left to say goes nowhere, and the command ends as it would have."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _let_go(self.file)


def _let_go(stream: IO[str]) -> None:
    """Point a stream's descriptor at nothing, so that not even the last flush of the process complains."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    # no emoji: in `app:b:1` of a server's answer, `:b:` is text too
    return _Stream(
        stderr=stderr, highlight=False, emoji=False, soft_wrap=True, width=None if stream.isatty() else _WIDE
    )


out = _console(stderr=False)
err = _console(stderr=True)


def clean(text: str) -> str:
    """Text from outside, harmless on a terminal: control characters (escapes, line ends) are shown, not obeyed; no markup."""
    return escape(printable(text))


def plain(text: str) -> Text:
    """The same as a rich Text, for tables."""
    return Text(printable(text))


def printable(text: str) -> str:
    """The text with every control character written out."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def grid(*columns: str) -> Table:
    """A table without lines. On a narrow terminal a cell goes on in the next line: identifiers are never cut."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def as_text(table: Table) -> str:
    """The table as plain text, as it would go into a pipe."""
    page = io.StringIO()
    Console(file=page, width=_WIDE, highlight=False, emoji=False, soft_wrap=True, color_system=None).print(table)
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().rstrip("\n").split("\n"))


def show_table(table: Table) -> None:
    """Print a table: coloured on a terminal, elsewhere as plain lines that are never folded."""
    if out.is_terminal:
        out.print(table)
    else:
        write(as_text(table))


def as_json(value: object) -> str:
    """The value as JSON for people and machines: indented, keys sorted."""
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2).decode() + "\n"


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    write(as_json(value))


def write(text: str, target: Path | None = None) -> None:
    """Write a result to a file, else to stdout as it is.

    Raises:
        StateError: the file cannot be written.
    """
    if target is not None:
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            message = f"cannot write {target}: {error.strerror}"
            raise StateError(message, "check the path, the rights and the free space") from error
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        out.on_broken_pipe()


def show_error(error: SensorError) -> None:
    """Say what happened and what to do."""
    # a message of ours may list several problems, one a line
    message = "\n".join(clean(line) for line in error.message.split("\n"))
    err.print(f"[bold red]error:[/] {message}")
    if error.advice:
        err.print(f"  [bold]try:[/] {clean(error.advice)}")


def leave(code: ExitCode) -> NoReturn:
    """End the command with a status."""
    raise typer.Exit(int(code))


@contextmanager
def reporting_errors(output: StrEnum = OutputFormat.TEXT) -> Iterator[None]:
    """Turn an expected failure, Ctrl-C included, into its message and the documented exit status.

    For machines the failure is a document on stdout too: `error` and `advice`.
    """
    try:
        yield
    except KeyboardInterrupt:
        leave(ExitCode.INTERRUPTED)
    except SensorError as error:
        _fail(error, output)
    except BaseExceptionGroup as group:
        expected, other = group.split(SensorError)
        if expected is None or other is not None:
            raise
        _fail(first_error(expected), output)


def _fail(error: SensorError, output: StrEnum) -> NoReturn:
    show_error(error)
    if output is OutputFormat.JSON:
        print_json({"error": error.message, "advice": error.advice})
    leave(ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.FAILED)


def first_error(group: BaseExceptionGroup[SensorError]) -> SensorError:
    """The error to show, out of however many tasks failed."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SensorError)  # noqa: S101 - `split` admits no other leaf
    return error


def show_bytes(size: int) -> str:
    """A size for people, in binary units."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError  # pragma: no cover - GiB is the last unit


def ago(now: datetime, then: datetime) -> str:
    """How long ago something was, in words."""
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
