from pathlib import Path

import pytest

from sensor.work.intake import is_paused
from tests.cli.conftest import Run


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


@pytest.fixture
def file(tmp_path: Path, state: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(f"registries: [{{name: prod, url: a.example}}]\nstate: {{directory: {state}}}\n")
    return str(path)


def test_a_registry_is_paused_and_resumed(run: Run, file: str, state: Path) -> None:
    shown = run("pause", "prod", "--config", file)
    assert shown.status == 0
    assert "resume prod" in shown.stdout
    assert is_paused(state, "prod")
    assert run("resume", "prod", "--config", file).status == 0
    assert not is_paused(state, "prod")


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_only_a_configured_registry_can_be_paused(run: Run, file: str, state: Path, command: str) -> None:
    shown = run(command, "../prod", "--config", file)
    assert shown.status == 2
    assert "configured are: prod" in shown.stderr
    assert list(state.iterdir()) == []


def test_without_a_state_directory_there_is_nothing_to_pause(run: Run, file: str, state: Path) -> None:
    state.rmdir()
    shown = run("pause", "prod", "--config", file)
    assert shown.status == 3
    assert "state.directory" in shown.stderr
