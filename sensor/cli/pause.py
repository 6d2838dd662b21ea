"""`pause`: stop scanning the new images of a registry, while the daemon runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sensor.cli.options import ConfigOption, load
from sensor.cli.output import OutputFormat, clean, out, reporting_errors
from sensor.config.schema import Config
from sensor.errors import ConfigError, StateError
from sensor.work.intake import set_paused

NameArgument = Annotated[str, typer.Argument(metavar="REGISTRY", help="Name of a configured registry.")]


def pause(registry: NameArgument, config: ConfigOption = None) -> None:
    """Scan no new image of a registry until `resume`. Sweeps go on; what is pushed or asked for is scanned all the same.

    Works while the sensor runs, and outlives a restart. Images being scanned are finished.
    """
    with reporting_errors(OutputFormat.TEXT):
        switch(load(config, required=True).config, registry, paused=True)
    out.print(f"{clean(registry)} is paused; `harborguard-sensor resume {clean(registry)}` ends it")


def switch(config: Config, registry: str, *, paused: bool) -> None:
    """Pause or resume a configured registry.

    Raises:
        ConfigError: there is no such registry.
        StateError: the state directory is not there, or cannot be written.
    """
    if config.registry(registry) is None:
        known = ", ".join(one.name for one in config.registries) or "none"
        message = f"there is no registry {registry!r} in the configuration"
        raise ConfigError(message, f"configured are: {known}")
    directory = Path(config.state.directory)
    if not directory.is_dir():
        message = f"there is no state directory {directory}"
        raise StateError(message, "start the sensor once, or check state.directory")
    set_paused(directory, registry, paused=paused)
