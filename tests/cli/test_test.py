import json
import socket
from pathlib import Path

import pytest

from sensor.cli.test import _show
from sensor.registry.check_report import Notice, Report, Step
from sensor.registry.port import Standing
from tests.cli.conftest import Run, in_thread
from tests.fakes.registry import Behaviour, FakeRegistry


def test_a_usable_registry_reports_the_promised_values(run: Run, config: Path) -> None:
    document = run("test", "-c", str(config), "-o", "json").json()[0]
    assert (document["reachable"], document["authenticated"], document["usable"]) == (True, False, True)
    assert (document["access"], document["canList"], document["canPull"]) == ("anonymous", True, True)
    assert (document["registry"], document["provider"]) == ("demo", "layout")
    assert isinstance(document["latencyMs"], float)
    assert [step["name"] for step in document["steps"]][:4] == ["resolve", "connect", "tls", "ping"]


def test_the_steps_are_shown_in_words(run: Run, config: Path) -> None:
    shown = run("test", "demo", "-c", str(config))
    assert shown.status == 0
    assert "\n  manifest  ok" in shown.stdout
    assert "\n  reachable yes, authenticated no, latencyMs" in shown.stdout
    assert "\n  access    anonymous; can list yes, can pull yes\n" in shown.stdout
    assert "try:" not in shown.stdout


def test_an_unreachable_registry_is_status_3_and_the_last_line_says_what_to_do(run: Run, unused_tcp_port: int) -> None:
    shown = run("test", f"127.0.0.1:{unused_tcp_port}", "--insecure")
    assert shown.status == 3
    lines = shown.stdout.splitlines()
    assert lines[1:4] == [
        "  resolve   ok",
        f"  connect   failed  cannot connect to 127.0.0.1:{unused_tcp_port}: Connection refused",
        "  the rest  skipped not reached",
    ]
    assert lines[4] == "  reachable no, authenticated no"  # why, says the step
    assert lines[5].startswith("  try:      check host, port and firewall")


def test_a_login_is_shown_without_its_secret(run: Run, tmp_path: Path, machine_layout: Path) -> None:
    path = tmp_path / "c.yaml"
    with in_thread(lambda: FakeRegistry(machine_layout, Behaviour(auth="basic"))) as fake:
        path.write_text(
            f"registries:\n- {{name: lab, url: '{fake.url}', insecure: true, username: sensor, password: {{env: LAB}}}}\n"
        )
        shown = run("test", "lab", "-c", str(path), LAB="secret")
        assert shown.status == 0
        assert "reachable yes, authenticated yes, latencyMs" in shown.stdout
        assert "access    authenticated; can list yes, can pull yes, may write unknown" in shown.stdout
        assert "login by  user name and password, as sensor" in shown.stdout
        assert "\n  listing   _catalog\n" in shown.stdout
        assert "warning   the credential is sent in plain HTTP" in shown.stdout
        assert shown.stdout.splitlines()[-1] == "  try:      give the registry TLS"
        shown = run("test", "lab", "-c", str(path), LAB="wr0ng-s3cret")
        assert shown.status == 3
        assert "authenticated no, latencyMs" in shown.stdout
        assert "authentication failed" in shown.stdout
        assert "wr0ng-s3cret" not in shown.stdout + shown.stderr
        assert "check user name and password" in shown.stdout.splitlines()[-1]


def test_plain_http_is_tested_before_it_is_allowed(run: Run, machine_layout: Path) -> None:
    with in_thread(lambda: FakeRegistry(machine_layout)) as fake:
        shown = run("test", fake.url, "-o", "json")
        assert shown.status == 3
        (document,) = shown.json()
        assert (document["reachable"], document["problem"]) == (True, "insecure")
        assert "tested without a credential" in document["detail"]
        assert "--insecure" in document["advice"]
        assert [seen.kind for seen in fake.seen] == ["base"]
        assert run("test", fake.url, "--insecure").status == 0


def test_a_quota_is_shown(run: Run, machine_layout: Path) -> None:
    told = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "93;w=21600"}
    with in_thread(lambda: FakeRegistry(machine_layout, Behaviour(manifest_headers=told))) as fake:
        shown = run("test", fake.url, "--insecure")
        assert "  quota     93 of 100 left in 6 h\n" in shown.stdout


def test_text_from_outside_is_inert(run: Run, machine_layout: Path) -> None:
    page = "<!doctype html><title>[red]\x1b[2J</title>"
    behaviour = Behaviour(raw={"base": page.encode()})
    with in_thread(lambda: FakeRegistry(machine_layout, behaviour)) as fake:
        shown = run("test", fake.url, "--insecure")
        assert shown.status == 3
        assert "\x1b" not in shown.stdout
        assert "[red]" in shown.stdout


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


def test_the_document_is_plain_json(run: Run, config: Path) -> None:
    assert json.loads(run("test", "-c", str(config), "-o", "json").stdout)[0]["warnings"] == []


@pytest.fixture
def unused_tcp_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_is_told_of_an_api_token_stands_beside_the_login(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Standing(identity="alice", expires=1_800_000_000.0, detail="the user of the OAuth token", whose="api.token")
    step = Step(name="login", outcome="failed", detail="authentication failed: no", advice="check it")
    _show(
        Report(
            name="q",
            url="q.example",
            reachable=True,
            authenticated=False,
            access="none",
            method="robot account",
            identity="robot account team+ci",
            other=other,
            detail="authentication failed: no",
            advice="a robot is called organisation+name; check it",
            notices=(Notice(code="credential_form", message="a robot is called organisation+name"),),
            steps=(step,),
        )
    )
    shown = capsys.readouterr().out
    assert "  login by  robot account, as team+ci\n" in shown
    assert "  api.token alice, until 2027-01-15T08:00:00Z; the user of the OAuth token\n" in shown
    assert shown.count("authentication failed: no") == 1  # in the step, not once more behind it
    assert shown.count("a robot is called organisation+name") == 1
