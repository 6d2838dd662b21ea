"""The options that several commands share, and how a command finds its configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sensor.cli.output import OutputFormat, clean, err
from sensor.config.load import Loaded, load_config

DEFAULT_CONFIG = Path("/etc/harborguard-sensor/config.yaml")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="HARBORGUARD_SENSOR_CONFIG", help=f"Configuration file (default: {DEFAULT_CONFIG})."
    ),
]
OutputOption = Annotated[
    OutputFormat,
    typer.Option("--output", "-o", help="text for people, json for machines (then stdout holds only JSON)."),
]


def load(path: Path | None, *, required: bool) -> Loaded:
    """The configuration of a command: the named file, else the default one if it exists, completed by the environment.

    Raises:
        ConfigError: it is wrong, or `required` and there is none.
    """
    found = path or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    return load_config(found, os.environ, required=required)


def show_warnings(loaded: Loaded) -> None:
    """Say on stderr what is allowed but worth a look."""
    for warning in loaded.warnings:
        err.print(f"[yellow]warning:[/] {clean(warning)}")
