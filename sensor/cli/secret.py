"""`secret set|list|delete|new-key|rekey`: credentials in the operating system's keyring, or in the vault that the environment names.

Both are what `{keyring: NAME}` in the configuration means.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sensor.cli.options import ConfigOption, OutputOption, load
from sensor.cli.output import ExitCode, OutputFormat, clean, err, leave, out, print_json, reporting_errors
from sensor.config.fields import secrets_of
from sensor.config.schema import Config
from sensor.errors import ConfigError, SecretError
from sensor.secret import (
    FromKeyring,
    Secret,
    SecretSource,
    delete_from_keyring,
    describe_source,
    read_secret,
    store_in_keyring,
)
from sensor.vault import VAULT_VARIABLE, open_vault, write_new_key

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help=f"Keep credentials in the operating system's keyring, or in the vault that {VAULT_VARIABLE} names.",
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
    """Show which secrets the configuration uses, where each comes from, and whether it can be read now; and what else is in the vault.

    The secrets themselves are never shown. Exit status 3 when one cannot be read.
    """
    with reporting_errors(output):
        loaded = load(config, required=True)
    sources = _sources(loaded.config)
    rows = [(path, describe_source(source), _problem(source)) for path, source in sources]
    used = {source.name for _, source in sources if isinstance(source, FromKeyring)}
    rows += [("", describe_source(FromKeyring(name)), "") for name in _in_vault() if name not in used]
    if output is OutputFormat.JSON:
        print_json([{"key": path, "source": source, "problem": problem} for path, source, problem in rows])
    else:
        for path, source, problem in rows:
            state = f"[red]{clean(problem)}[/]" if problem else "[green]readable[/]"
            out.print(f"{clean(path or 'not used')}: {clean(source)}: {state}")
        if not rows:
            out.print("the configuration uses no secrets")
    if any(problem for _, _, problem in rows):
        leave(ExitCode.FAILED)


@app.command("new-key", short_help="Make a key for a vault.")
def make_key(file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to make, mode 0600.")]) -> None:
    """Make a random key for a vault, in a new file that only its owner can read. It must lie elsewhere than the vault and the state."""
    with reporting_errors():
        write_new_key(file)
    out.print(
        f"made; without {clean(str(file))} nobody can read what is stored under it, so keep a copy apart from the data"
    )


@app.command("rekey", short_help="Encrypt the vault with the first of its keys.")
def rekey() -> None:
    """Encrypt the vault again, under the first key of the key file.

    A key file may hold several keys, one a line: the first is for writing, all are for reading. So to change the key, put a new one in
    front of the old one, run this, and take the old one out.
    """
    with reporting_errors():
        vault = open_vault(os.environ)
        if vault is None:
            raise ConfigError("there is no vault", f"{VAULT_VARIABLE} names its file; see docs/deploy.md")
        count = vault.rekey()
    out.print(f"{clean(str(vault.path))}: {count} secrets are under the first key now")


def _in_vault() -> tuple[str, ...]:
    """The names of the vault's entries; none where it cannot be read, which the entries that are used say better."""
    try:
        vault = open_vault(os.environ)
        return vault.names() if vault is not None else ()
    except SecretError:
        return ()


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
