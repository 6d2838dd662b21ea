"""The sub-commands of `harborguard-sensor`.

Each command lives in a module of its name, which is imported only when it runs: `--help` and `check` must not pay for the daemon.
"""

from __future__ import annotations

import gc
import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sensor.cli.examples import epilog_of
from sensor.cli.output import out
from sensor.version import VERSION

COMMANDS = {
    "run": "Run the daemon: watch the registries, scan what is new, report it.",
    "scan": "Scan one image now.",
    "test": "Test Connection: reach a registry, log in, list, and say what is missing.",
    "plan": "Show what would be scanned, by which rule, and what it would cost.",
    "check": "Validate the configuration without contacting anything.",
    "status": "Show what the running sensor is doing.",
    "pause": "Scan no new image of a registry until `resume`.",
    "resume": "Scan the new images of a registry again.",
    "advisories": "Look after the advisory database: status, update, import.",
    "secret": "Keep credentials in the keyring or in an encrypted vault: set, list, delete.",
    "support": "Write an archive for a support ticket, without secrets.",
    "demo": "Run everything on this machine, with no configuration.",
    "console": "Run the control-plane side, for sites without HarborGuard.",
}


def _imported(name: str) -> Any:
    """Import a command's module without collecting garbage.

    Imports make little garbage and a hundred thousand objects that stay: not to look through those, now and in every later collection,
    took 0.15 s of CPU off a scan.
    """
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        gc.enable()


class _LazyGroup(TyperGroup):
    # the library's own parameter types are private to it (and moved between its releases), hence Any
    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = _imported(f"sensor.cli.{cmd_name}")
        if hasattr(module, "app"):
            command = typer.main.get_command(module.app)
        else:
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(cmd_name)(getattr(module, cmd_name))
            command = typer.main.get_command(single)
        command.name = cmd_name
        command.epilog = epilog_of(cmd_name)
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"harborguard-sensor {VERSION}")
        raise typer.Exit


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # an unexpected error shows no values of variables: a secret may be among them
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 fine, 1 findings at or above --fail-on, 2 usage or configuration, 3 could not do it.",
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Watch container registries, find out what is in their images and what is vulnerable in it, and report to a control plane."""
