import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_a_usable_registry_reports_the_promised_values(run: Run, config: Path) -> None:
    document = run("test", "-c", str(config), "-o", "json").json()[0]
    assert (document["reachable"], document["authenticated"], document["usable"]) == (True, True, True)
    assert document["provider"] == "layout"
    assert isinstance(document["latencyMs"], float)


def test_the_steps_are_shown_in_words(run: Run, config: Path) -> None:
    shown = run("test", "demo", "-c", str(config))
    assert shown.status == 0
    assert "manifest  ok" in shown.stdout
    assert "reachable yes, authenticated yes, latencyMs" in shown.stdout


def test_an_unreachable_registry_is_status_3_with_advice(run: Run, unused_tcp_port: int) -> None:
    shown = run("test", f"127.0.0.1:{unused_tcp_port}", "--insecure")
    assert shown.status == 3
    assert "reachable no" in shown.stdout
    assert "try:" in shown.stdout


def test_an_unknown_name_is_a_configuration_error(run: Run, config: Path) -> None:
    shown = run("test", "nope", "-c", str(config))
    assert shown.status == 2
    assert "configured are: demo" in shown.stderr


def test_all_registries_are_tested_and_a_warning_is_said(run: Run, machine_layout: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"registries:\n- {{name: a, url: 'oci:{machine_layout}'}}\n- {{name: b, url: 'oci:{tmp_path}', provider: layout}}\n"
    )
    shown = run("test", "-c", str(path), REGISTRY_URL="other.example")
    assert shown.status == 3
    assert "REGISTRY_URL" in shown.stderr
    assert f"a oci:{machine_layout}: layout" in shown.stdout
    assert f"b oci:{tmp_path}: layout (as configured)" in shown.stdout


def test_without_registries_there_is_nothing_to_test(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("logging: {level: info}\n")
    shown = run("test", "-c", str(path))
    assert (shown.status, shown.stdout) == (0, "no registries are configured\n")


@pytest.fixture
def unused_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
