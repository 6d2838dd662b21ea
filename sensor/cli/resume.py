"""`resume`: go on with the new images of a registry, after `pause`."""

from __future__ import annotations

from sensor.cli.options import ConfigOption, load
from sensor.cli.output import OutputFormat, clean, out, reporting_errors
from sensor.cli.pause import NameArgument, switch


def resume(registry: NameArgument, config: ConfigOption = None) -> None:
    """Scan the new images of a registry again, after `pause`; a running sensor notices within ten seconds."""
    with reporting_errors(OutputFormat.TEXT):
        switch(load(config, required=True).config, registry, paused=False)
    out.print(f"{clean(registry)} is resumed")
