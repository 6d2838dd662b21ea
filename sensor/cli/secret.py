"""`secret set|list|delete`: credentials in the operating system's keyring, for `{keyring: NAME}` in the configuration."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sensor.cli.options import ConfigOption, OutputOption, load
from sensor.cli.output import ExitCode, OutputFormat, clean, err, leave, out, print_json, reporting_errors
from sensor.config.fields import secrets_of
from sensor.config.schema import Config
from sensor.errors import SecretError
from sensor.secret import (
    Secret,
    SecretSource,
    delete_from_keyring,
    describe_source,
    read_secret,
    store_in_keyring,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Keep credentials in the operating system's keyring.",
)

NameArgument = Annotated[str, typer.Argument(help="The name that {keyring: NAME} in the configuration uses.")]


@app.command("set", short_help="Store a secret.")
def set_secret(name: NameArgument) -> None:
    """Store a secret. It is asked for without echo, or read from standard input; never from the command line."""
    value = typer.prompt("secret", hide_input=True) if sys.stdin.isatty() else sys.stdin.read().rstrip("\r\n")
    if not value:
        err.print("[bold red]error:[/] the secret is empty")
        leave(ExitCode.USAGE)
    with reporting_errors():
        store_in_keyring(name, Secret(value))
    out.print(f"stored; use it as {{keyring: {clean(name)}}}")


@app.command("delete", short_help="Remove a secret.")
def delete_secret(name: NameArgument) -> None:
    """Remove a secret."""
    with reporting_errors():
        delete_from_keyring(name)
    out.print("deleted")


@app.command("list", short_help="Which secrets are used, and whether they can be read.")
def list_secrets(config: ConfigOption = None, output: OutputOption = OutputFormat.TEXT) -> None:
    """Show which secrets the configuration uses, where each comes from, and whether it can be read now.

    The secrets themselves are never shown. Exit status 3 when one cannot be read.
    """
    with reporting_errors(output):
        loaded = load(config, required=True)
    rows = [(path, describe_source(source), _problem(source)) for path, source in _sources(loaded.config)]
    if output is OutputFormat.JSON:
        print_json([{"key": path, "source": source, "problem": problem} for path, source, problem in rows])
    else:
        for path, source, problem in rows:
            state = f"[red]{clean(problem)}[/]" if problem else "[green]readable[/]"
            out.print(f"{clean(path)}: {clean(source)}: {state}")
        if not rows:
            out.print("the configuration uses no secrets")
    if any(problem for _, _, problem in rows):
        leave(ExitCode.FAILED)


def _sources(config: Config) -> list[tuple[str, SecretSource]]:
    return [(_shown(config, path), source) for path, source in secrets_of(config)]


def _shown(config: Config, path: tuple[str | int, ...]) -> str:
    """`registries[production].aws.secret_access_key`."""
    shown = ""
    for index, part in enumerate(path):
        if isinstance(part, int):
            of_registry = path[:index] == ("registries",)
            shown += f"[{config.registries[part].name if of_registry else part}]"
        else:
            shown += f".{part}" if shown else part
    return shown


def unreadable(config: Config) -> list[str]:
    """A sentence for each secret of a configuration that cannot be read now, by this user."""
    return [f"{path}: {problem}" for path, source in _sources(config) if (problem := _problem(source))]


def _problem(source: SecretSource) -> str:
    try:
        read_secret(source)
    except SecretError as error:
        return error.message
    return ""
