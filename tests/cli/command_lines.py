"""Checks a command line against the commands and options that exist, without running it."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from sensor.cli.commands import app

PROGRAM = "harborguard-sensor"


def problem_of(line: str) -> str:
    """Why `harborguard-sensor ...` could not be typed so; empty when it could. Comments behind it are left out."""
    words = shlex.split(line, comments=True)
    assert words, line
    assert words.pop(0).endswith(PROGRAM), line
    command: Any = typer.main.get_command(app)
    context = command.make_context(PROGRAM, [], resilient_parsing=True)
    while hasattr(command, "get_command"):
        if not words or words[0].startswith("-"):
            break
        name = words.pop(0)
        found = command.get_command(context, name)
        if found is None:
            return f"there is no command {name!r}"
        command = found
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    known = {option: not parameter.is_flag for parameter in command.params for option in _options(parameter)}
    known.update({"--help": False, "-h": False})
    arguments = 0
    while words:
        word = words.pop(0)
        name = word.partition("=")[0]
        if not word.startswith("-"):
            arguments += 1
        elif name not in known:
            return f"{command.name} has no option {name}"
        elif known[name] and "=" not in word:
            if not words:
                return f"{name} needs a value"
            words.pop(0)
    takes = [parameter for parameter in command.params if not _options(parameter)]
    if arguments > len(takes) and not any(parameter.nargs == -1 for parameter in takes):
        return f"{command.name} takes {len(takes)} arguments"
    return ""


def _options(parameter: Any) -> list[str]:
    return [name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-")]
