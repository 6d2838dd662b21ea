"""Runs commands in-process, as a shell would: arguments in, exit status and both streams out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from sensor.cli.machine import build_machine_layout
from sensor.cli.main import app


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
