"""The options that several commands share, and how a command finds its configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sensor.cli.output import OutputFormat, clean, err
from sensor.config.load import Loaded, load_config
from sensor.registry.kinds import unused

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
        ConfigError: it is wrong, or there is none although it is `required` or was named.
    """
    found = path or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    return load_config(found, os.environ, required=required or path is not None, examine=unused)


def show_warnings(loaded: Loaded) -> None:
    """Say on stderr what is allowed but worth a look."""
    for warning in loaded.warnings:
        err.print(f"[yellow]warning:[/] {clean(warning)}")


StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="HARBORGUARD_SENSOR_STATE",
        help="State directory (default: state.directory of the configuration; without one, the user's cache directory).",
    ),
]


def state_directory(loaded: Loaded, override: Path | None) -> Path:
    """Where a command keeps its state: what was asked for, else what the configuration says, else the user's cache directory.

    The schema's default (/var/lib/...) belongs to the daemon; a user without a configuration must not need it.
    """
    if override is not None:
        return override
    if "state" in loaded.config.model_fields_set or DEFAULT_CONFIG.exists():
        return Path(loaded.config.state.directory)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "harborguard-sensor"
