"""Runs commands in-process, as a shell would: arguments in, exit status and both streams out."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from typer.testing import CliRunner

from sensor.advisories.update import demo_advisories, import_sources
from sensor.cli.commands import app
from sensor.cli.machine import build_machine_layout

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Ran:
    status: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return msgspec.json.decode(self.stdout)


Run = Callable[..., Ran]


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: str, typed: str | None = None, **environment: str) -> Ran:
        result = CliRunner().invoke(app, arguments, input=typed, env=environment, prog_name="harborguard-sensor")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture(scope="session")
def machine_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("machine") / "layout"
    build_machine_layout(target)
    return target


@pytest.fixture
def config(tmp_path: Path, machine_layout: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"""
registries:
  - name: demo
    url: oci:{machine_layout}
    schedule: manual
    repositories: {{exclude: ["scratch/**"]}}
    tags: {{exclude: ["*-dev"]}}
state: {{directory: {tmp_path / "state"}}}
health: {{listen: "off"}}
"""
    )
    return path


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's advisories, built once."""
    target = tmp_path_factory.mktemp("advisories") / "advisories.db"
    import_sources([demo_advisories()], target)
    return target


@pytest.fixture
def state(tmp_path: Path, database: Path) -> Path:
    """A state directory with advisories."""
    directory = tmp_path / "judging"
    directory.mkdir()
    shutil.copy(database, directory / "advisories.db")
    return directory


@contextlib.contextmanager
def in_thread(make: Callable[[], AbstractAsyncContextManager[_T]]) -> Iterator[_T]:
    """Serve something in an event loop of its own while commands run in this thread."""
    ready, stop = threading.Event(), threading.Event()
    served: list[_T] = []

    async def serve() -> None:
        async with make() as value:
            served.append(value)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield served[0]
    finally:
        stop.set()
        thread.join()
