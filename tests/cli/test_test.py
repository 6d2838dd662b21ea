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


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
