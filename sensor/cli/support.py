"""`support`: one file for a ticket, with what is needed to help and without secrets."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from sensor.advisories.database import AdvisoryDatabase, database_path
from sensor.cli import facts
from sensor.cli.bundle import Bundle, Redaction, described, save
from sensor.cli.options import ConfigOption, StateOption, load, state_directory
from sensor.cli.output import clean, err, reporting_errors
from sensor.cli.secret import unreadable
from sensor.cli.status import ask
from sensor.cli.test import check_all
from sensor.config.load import Loaded
from sensor.config.schema import Config
from sensor.errors import ConfigError, DataError, SensorError
from sensor.registry.check import describe_report

_TEST_SECONDS = 120


def support(
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="File to write; - for stdout. [default: in this directory]"
        ),
    ] = "",
    config: ConfigOption = None,
    state: StateOption = None,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="A file with log lines, instead of systemd's journal.")
    ] = None,
    unit: Annotated[str, typer.Option("--unit", help="The sensor's unit in the journal.")] = "harborguard-sensor",
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Test the connection to every registry, as `test` does.")
    ] = True,
) -> None:
    """Write what a support ticket needs into one archive (tar.gz), readable for its owner only.

    Versions, the configuration with its secrets' sources instead of them, what `check` and `test` say, the last log lines, the running
    sensor's status, counts of the state database, the advisories' age. What cannot be got is said in its README.txt. Changes nothing.
    """
    now = datetime.now(UTC)
    folder = f"harborguard-sensor-support-{now:%Y%m%dT%H%M%SZ}"
    with reporting_errors():
        bundle = _gathered(config, state, log_file, unit, now, test=test)
        data = bundle.packed(folder, now)
        target = Path(output or f"{folder}.tar.gz")
        if output == "-":
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            save(data, target)
    for name, reason in sorted(bundle.missing.items()):
        err.print(f"[yellow]without[/] {clean(name)}: {clean(reason)}")
    if output != "-":
        err.print(f"wrote {clean(str(target))}; its README.txt lists what is in it")


def _gathered(
    path: Path | None, state: Path | None, log_file: Path | None, unit: str, now: datetime, *, test: bool
) -> Bundle:
    """All parts that there are. One that fails takes no other with it: a ticket is written when something is broken."""
    loaded, problem = _loaded(path)
    config = loaded.config
    bundle = Bundle(Redaction(config))
    directory = state_directory(loaded, state)

    def part(name: str, add: Callable[[], None]) -> None:
        try:
            add()
        except SensorError as error:
            bundle.miss(name, str(error))

    bundle.add_json("machine.json", {**facts.machine(), "made": now})
    bundle.add_json("check.json", _checked(loaded, problem))
    if problem is None:
        bundle.add_json("config.json", described(config))
    else:
        bundle.miss("config.json", "the configuration is not valid, see check.json")
    # first: what it reads (a docker configuration, a helper's answer) is masked in the parts behind it
    if not test:
        bundle.miss("test.json", "left out by --no-test")
    elif problem is None:
        part("test.json", lambda: bundle.add_json("test.json", asyncio.run(_tested(loaded))))
    part("state.json", lambda: bundle.add_json("state.json", facts.state(directory)))
    part("advisories.json", lambda: bundle.add_json("advisories.json", _advisories(directory)))
    part("status.json", lambda: bundle.add_json("status.json", _status(config.health.listen)))
    if problem is None:
        part(
            "log.txt", lambda: bundle.add_text("log.txt", facts.log_file(log_file) if log_file else facts.journal(unit))
        )
    else:
        bundle.miss("log.txt", "which words in it are secret is not known before the configuration is valid")
    return bundle


def _loaded(path: Path | None) -> tuple[Loaded, ConfigError | None]:
    """The configuration in force; what the schema gives, and why, if it is wrong."""
    try:
        return load(path, required=False), None
    except ConfigError as error:
        return Loaded(config=Config()), error


def _checked(loaded: Loaded, problem: ConfigError | None) -> dict[str, object]:
    if problem is not None:
        return {"valid": False, "problems": problem.message.split("\n"), "advice": problem.advice}
    warnings = [*loaded.warnings, *unreadable(loaded.config)]
    return {"valid": True, "warnings": warnings, "sources": loaded.sources}


def _advisories(directory: Path) -> object:
    database = AdvisoryDatabase.open(database_path(directory))
    try:
        return database.summary()
    finally:
        database.close()


def _status(listen: str) -> object:
    if listen == "off":
        raise DataError("health.listen is off, so a running sensor cannot be asked")
    body = asyncio.run(ask(f"http://{listen}/status"))
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        message = f"what listens at {listen} is no sensor"
        raise DataError(message) from error


async def _tested(loaded: Loaded) -> object:
    try:
        async with asyncio.timeout(_TEST_SECONDS * max(1, len(loaded.config.registries))):
            reports = await check_all(loaded.config, loaded.config.registries)
    except TimeoutError as error:
        raise DataError("the registries did not answer in time") from error
    return [describe_report(report) for report in reports]
