"""How commands speak: results on stdout, everything else on stderr, exit codes as documented, text from outside made inert.

With `--output json` stdout carries one JSON document and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, StrEnum
from typing import NoReturn

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from sensor.errors import ConfigError, SensorError


class ExitCode(IntEnum):
    """What the exit status of every command means."""

    FINE = 0
    FINDINGS = 1
    """Findings at or above --fail-on."""
    USAGE = 2
    """The command line or the configuration is wrong."""
    FAILED = 3
    """It could not be done: network, registry, data."""


class OutputFormat(StrEnum):
    """For people or for machines."""

    TEXT = "text"
    JSON = "json"


_WIDE = 240
"""Columns where the output is no terminal: a table in a file or a pipe must not be folded."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=None if stream.isatty() else _WIDE)


out = _console(stderr=False)
err = _console(stderr=True)


def clean(text: str) -> str:
    """Text from outside, harmless on a terminal: control characters (escapes among them) are shown, not obeyed; no markup."""
    return escape("".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text))


def plain(text: str) -> Text:
    """The same as a rich Text, for tables."""
    return Text("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text))


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2).decode() + "\n")
    sys.stdout.flush()


def show_error(error: SensorError) -> None:
    """Say what happened and what to do."""
    err.print(f"[bold red]error:[/] {clean(error.message)}")
    if error.advice:
        err.print(f"  [bold]try:[/] {clean(error.advice)}")


def leave(code: ExitCode) -> NoReturn:
    """End the command with a status."""
    raise typer.Exit(int(code))


@contextmanager
def reporting_errors() -> Iterator[None]:
    """Turn an expected failure into its message and the documented exit status."""
    try:
        yield
    except ConfigError as error:
        show_error(error)
        leave(ExitCode.USAGE)
    except SensorError as error:
        show_error(error)
        leave(ExitCode.FAILED)


def show_bytes(size: int) -> str:
    """A size for people, in binary units."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    raise AssertionError  # pragma: no cover - GiB is the last unit
