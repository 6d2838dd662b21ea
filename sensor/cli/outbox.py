"""`outbox list|retry|export|import|key`: results that a control plane has not taken yet, and how they cross an air gap.

Works beside a running sensor, and without one. What the entries mean is `report.desk`'s, the format of the file `report.parcel`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sensor.cli.options import ConfigOption, OutputOption, load
from sensor.cli.output import (
    ExitCode,
    OutputFormat,
    ago,
    clean,
    grid,
    leave,
    out,
    plain,
    print_json,
    reporting_errors,
    show_bytes,
    show_table,
)
from sensor.config.schema import Config
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.links import Link, links_of
from sensor.daemon.engine import limits_of
from sensor.errors import ConfigError, DataError, StateError
from sensor.events import Event, ResultDelivered, ResultRefused
from sensor.model.delivery import OutboxPart
from sensor.report import desk
from sensor.report.deliver import Deliverer
from sensor.report.entries import Entry, State
from sensor.report.outbox import Outbox
from sensor.report.parcel import (
    Head,
    key_text,
    load_signer,
    new_entry,
    own_signer,
    read_entries,
    verify_parcel,
    write_parcel,
)
from sensor.secret import read_secret
from sensor.storage import StateInUse, Storage, open_storage, swap_file
from sensor.version import VERSION

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    help="Results that a control plane has not taken yet: list, retry, export, import.",
)

LinkOption = Annotated[str, typer.Option("--link", help="Only of this link (its name as `status` shows it).")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file that carries the results.")]


@app.command("list", short_help="Show entries.")
def list_entries(
    config: ConfigOption = None,
    link: LinkOption = "",
    everything: Annotated[bool, typer.Option("--all", help="Delivered ones too.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="Refused ones only, with their reasons.")] = False,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Show what waits, what was refused and why. At most 1000 entries, the oldest first."""
    wanted = set(State) if everything else {State.DEAD} if dead else set(State) - {State.DELIVERED}
    with reporting_errors(output):
        directory = _directory(load(config, required=False).config)

        async def read() -> tuple[Entry, ...]:
            async with _storage(directory) as storage:
                return await desk.entries_of(storage, link=link, states=wanted)

        entries = asyncio.run(read())
    if output is OutputFormat.JSON:
        print_json([_document(entry) for entry in entries])
        return
    now = datetime.now(UTC)
    table = grid("id", "link", "kind", "state", "tries", "made", "size", "image", "last error")
    for entry in entries:
        table.add_row(
            str(entry.id), plain(entry.link), entry.kind.value, entry.state.value, str(entry.attempts),
            ago(now, datetime.fromtimestamp(entry.created, UTC)), show_bytes(entry.size), plain(entry.reference),
            plain(entry.last_error or entry.job_error),
        )  # fmt: skip
    if entries:
        show_table(table)
    else:
        out.print("nothing there")


@app.command("retry", short_help="Try entries again.")
def retry(
    ids: Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Entries; none: all that can be.")] = None,
    config: ConfigOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Try entries again after their cause was removed; a running sensor takes them up within a minute.

    Refused results go out under new ids. An exported one is taken back if its id is named. A refused answer to a job goes out as a
    result of its own, because its job has been reported failed. Exit status 3 when nothing could be tried again.
    """
    with reporting_errors(output):
        directory = _directory(load(config, required=False).config)

        async def revive() -> tuple[int, ...]:
            async with _storage(directory) as storage:
                return await desk.try_again(storage, time.time(), ids or ())

        done = asyncio.run(revive())
    if output is OutputFormat.JSON:
        print_json({"retried": done})
    else:
        out.print(f"{len(done)} tried again{': ' if done else ''}{', '.join(map(str, done))}")
    if ids and not done:
        leave(ExitCode.FAILED)


@app.command("key", short_help="Show the key that signs exported results.")
def show_key(config: ConfigOption = None) -> None:
    """Show the public key of this sensor's exports, for `outbox.trusted_keys` on the machine that imports them."""
    with reporting_errors():
        settings = load(config, required=False).config
        out.print(key_text(_signer(settings).public_key()))


@app.command("export", short_help="Write waiting results to a signed file.")
def export(
    file: FileArgument,
    config: ConfigOption = None,
    link: LinkOption = "",
    dead: Annotated[bool, typer.Option("--dead", help="Refused results too.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Results exported before too: the file was lost.")] = False,
    jobs: Annotated[
        bool, typer.Option("--jobs", help="Answers to jobs too: only their own key can give them elsewhere.")
    ] = False,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Write waiting results to a signed file, which a connected machine uploads with `outbox import`.

    They are not sent from here any more; `outbox retry ID` takes one back. Exit status 3 when there is nothing to export.
    """
    states = [State.WAITING, *([State.DEAD] if dead else []), *([State.EXPORTED] if again else [])]
    with reporting_errors(output):
        settings = load(config, required=False).config
        if file.exists():
            message = f"{file} exists"
            raise ConfigError(message, "name a new file: an older export may not have been imported yet")
        taken = asyncio.run(_export(settings, file, link=link, states=states, with_jobs=jobs))
        key = key_text(_signer(settings).public_key())
    if output is OutputFormat.JSON:
        print_json({"exported": len(taken), "file": str(file) if taken else None, "key": key})
    elif taken:
        out.print(f"{len(taken)} results are in {clean(str(file))}, signed by {clean(key)}")
    else:
        out.print("nothing to export")
    if not taken:
        leave(ExitCode.FAILED)


@app.command("import", short_help="Take results over from a signed file, and upload them.")
def import_file(
    file: FileArgument,
    config: ConfigOption = None,
    link: Annotated[str, typer.Option("--link", help="Deliver over this link, whatever link they were made for.")] = "",
    trust: Annotated[
        list[str] | None, typer.Option("--trust", help="A public key to trust besides outbox.trusted_keys.")
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Take results over that `outbox export` wrote elsewhere, and upload them: at once, or by the sensor that runs here.

    The file must be signed by a key of outbox.trusted_keys or --trust. What was imported before is left out. Exit status 3 when the
    file is not to be trusted, or a result was not delivered by the end.
    """
    with reporting_errors(output):
        settings = load(config, required=True).config
        report = asyncio.run(_import(settings, file, link, [*settings.outbox.trusted_keys, *(trust or [])]))
    if output is OutputFormat.JSON:
        print_json(report)
    else:
        out.print(f"{report['taken']} results taken over, {report['known']} left out as known or overtaken")
        if report["running"]:
            out.print("the sensor that runs here delivers them")
        else:
            out.print(f"{report['delivered']} delivered, {report['refused']} refused, {report['waiting']} wait")
    if report["refused"] or report["waiting"]:
        leave(ExitCode.FAILED)


def parts_of(config: Config) -> tuple[OutboxPart, ...]:
    """The outbox by links, for `status --outbox`.

    Raises:
        StateError: there is no state, or it cannot be read.
    """

    async def read() -> tuple[OutboxPart, ...]:
        async with _storage(_directory(config)) as storage:
            return await desk.parts_of(storage)

    return asyncio.run(read())


async def _export(config: Config, file: Path, *, link: str, states: list[State], with_jobs: bool) -> tuple[int, ...]:
    urls = {known.name: known.url for known in links_of(config)}
    now = time.time()
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    signer = _signer(config)
    async with _storage(_directory(config)) as storage:
        try:
            with _new_file(temporary) as handle:
                # in the transaction, so that a running sensor neither sends nor replaces what is being written
                async with storage.transaction() as connection:
                    taken = await write_parcel(
                        handle,
                        signer,
                        desk.packed_bodies(connection, link=link, states=states, with_jobs=with_jobs),
                        sensor=(config.control_plane.name if config.control_plane else "") or socket.gethostname(),
                        version=VERSION,
                        created=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
                        links=urls,
                    )
                    handle.flush()
                    if taken:
                        swap_file(temporary, file)
                    await desk.mark_exported(connection, taken, now)
        except OSError as error:
            message = f"cannot write {file}: {error.strerror}"
            raise StateError(message, "check the path, the rights and the free space; nothing was exported") from error
        finally:
            temporary.unlink(missing_ok=True)
    return taken


async def _import(config: Config, file: Path, link: str, trusted: list[str]) -> dict[str, int | bool]:
    limits = limits_of(config.limits, config.outbox)
    links = links_of(config)
    taken = known = 0
    with _existing_file(file) as handle:
        head, expected = await asyncio.to_thread(verify_parcel, handle, trusted, limits)
        async with _owned(_directory(config)) as (storage, is_alone):
            now = time.time()
            async with storage.transaction() as connection:
                for line, body in read_entries(handle, expected, limits):
                    target = _target(links, link, head, line.link)
                    new = new_entry(line, body, target.name)
                    left_out = await desk.put_imported(connection, new, created=line.created, now=now)
                    taken, known = taken + (not left_out), known + bool(left_out)
            counted = (
                await _deliver(storage, config, links) if is_alone else {"delivered": 0, "refused": 0, "waiting": 0}
            )
    return {"taken": taken, "known": known, "running": not is_alone, **counted}


async def _deliver(storage: Storage, config: Config, links: tuple[Link, ...]) -> dict[str, int]:
    """Empty the outbox once, as the daemon would."""
    limits = limits_of(config.limits, config.outbox)
    told: list[Event] = []
    outbox = Outbox(storage, limits=limits)
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for link in links:
            if not link.is_offline:
                transport = transport_for(link, limits)
                stack.push_async_callback(transport.close)
                clients[link.name] = ControlPlaneClient(link, transport, limits=limits)
        deliverer = Deliverer(outbox, clients, told.append)
        await outbox.recover(time.time())
        for name in clients:
            await deliverer.deliver_once(name)
        waiting = 0
        for part in await desk.parts_of(storage):
            if part.link in clients:
                waiting += sum(part.counts.get(state, 0) for state in ("waiting", "sending", "unknown", "reporting"))
    return {
        "delivered": sum(isinstance(event, ResultDelivered) for event in told),
        "refused": sum(isinstance(event, ResultRefused) for event in told),
        "waiting": waiting,
    }


def _target(links: tuple[Link, ...], asked: str, head: Head, name: str) -> Link:
    """The link of this machine for an entry: the one asked for, the same one, or the only one to the same address.

    Raises:
        ConfigError: none, or more than one.
    """
    online = [link for link in links if not link.is_offline]
    if asked:
        found = [link for link in online if link.name == asked]
    else:
        found = [link for link in online if link.name == name] or [
            link for link in online if link.url == head.links.get(name)
        ]
    if len(found) == 1:
        return found[0]
    what = asked or f"{name} ({head.links.get(name, 'its address is not known')})"
    message = f"{'no' if not found else 'more than one'} link of this configuration is for {what}"
    raise ConfigError(message, f"choose with --link: {', '.join(link.name for link in online) or 'there is none'}")


def _signer(config: Config) -> Ed25519PrivateKey:
    if config.outbox.signing_key is not None:
        return load_signer(read_secret(config.outbox.signing_key).reveal().encode())
    return own_signer(_directory(config))


def _directory(config: Config) -> Path:
    directory = Path(config.state.directory)
    if not directory.is_dir():
        message = f"there is no state directory {directory}"
        raise StateError(message, "start the sensor once, or check state.directory")
    return directory


@contextlib.asynccontextmanager
async def _storage(directory: Path) -> AsyncIterator[Storage]:
    """The state, beside a running sensor."""
    storage = await open_storage(directory, shared=True)
    try:
        yield storage
    finally:
        await storage.close()


@contextlib.asynccontextmanager
async def _owned(directory: Path) -> AsyncIterator[tuple[Storage, bool]]:
    """The state, for this command alone if no sensor runs on it; whether it is."""
    try:
        storage, is_alone = await open_storage(directory), True
    except StateInUse:
        storage, is_alone = await open_storage(directory, shared=True), False
    try:
        yield storage, is_alone
    finally:
        await storage.close()


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        yield handle


@contextlib.contextmanager
def _existing_file(path: Path) -> Iterator[IO[bytes]]:
    try:
        handle = path.open("rb")
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise DataError(message, "check the path and the rights") from error
    with handle:
        yield handle


def _document(entry: Entry) -> dict[str, object]:
    return {
        "id": entry.id,
        "link": entry.link,
        "kind": entry.kind.value,
        "state": entry.state.value,
        "scanId": entry.scan_id,
        "reference": entry.reference,
        "digest": entry.digest,
        "attempts": entry.attempts,
        "created": datetime.fromtimestamp(entry.created, UTC),
        "bytes": entry.size,
        "lastError": entry.last_error,
        "jobError": entry.job_error,
    }
