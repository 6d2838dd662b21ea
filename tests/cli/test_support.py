"""The support bundle: everything that helps is in it, nothing that is secret, and what is broken takes nothing else with it."""

from __future__ import annotations

import base64
import io
import json
import os
import sqlite3
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from sensor import events
from sensor.cli import facts
from sensor.cli.bundle import save
from sensor.errors import DataError, StateError
from sensor.health.server import serve_health
from sensor.vault import KEY_FILE_VARIABLE, VAULT_VARIABLE
from tests.cli.conftest import Ran, Run, in_thread
from tests.cli.test_status import NOW, busy_board
from tests.fakes.registry import Behaviour, FakeRegistry

Made = Callable[..., dict[str, bytes]]


def unpacked(data: bytes) -> dict[str, bytes]:
    parts = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive.getmembers():
            folder, _, name = member.name.partition("/")
            assert folder.startswith("harborguard-sensor-support-")
            assert member.mode == 0o600
            file = archive.extractfile(member)
            assert file is not None
            parts[name] = file.read()
    return parts


def made(run: Run, tmp_path: Path, *arguments: str, **environment: str) -> dict[str, bytes]:
    target = tmp_path / "bundle.tar.gz"
    target.unlink(missing_ok=True)
    ran = run("support", "--output", str(target), *arguments, **environment)
    assert ran.status == 0, ran.stderr
    assert ran.stdout == ""
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    return unpacked(target.read_bytes())


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a journalctl of the test's own in front of the machine's."""
    directory = tmp_path / "bin"
    directory.mkdir()

    def write(script: str) -> None:
        path = directory / "journalctl"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return write


# --- secrets ----------------------------------------------------------------------------------------------------------------------

PLANTED = {
    "file": "Fm7-from-a-file/with+signs=",
    "env": "Ev8 from the environment",
    "literal": "Lt9-literally",
    "vault": 'Vt3-"quoted"\\word',
    "short": "hun2er",
    "proxy": "pr0xy/p@ssword",
    "http": "tok3n-as-user",
    "docker": "d0cker-config-word",
    "plugin": "pl9gin-token",
    "key": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=",
    "external": "ext3rnal-identity",
}


@pytest.fixture
def planted(run: Run, tmp_path: Path, machine_layout: Path) -> tuple[Path, dict[str, str]]:
    """A configuration that uses secrets in every way there is."""
    home, etc = tmp_path / "state", tmp_path / "etc"
    home.mkdir(mode=0o700)
    etc.mkdir()
    environment = {
        VAULT_VARIABLE: str(home / "secrets.vault"), KEY_FILE_VARIABLE: str(etc / "key"),
        "PLANTED_ENV": PLANTED["env"], "PLANTED_SHORT": PLANTED["short"],
    }  # fmt: skip
    assert run("secret", "new-key", str(etc / "key")).status == 0
    assert run("secret", "set", "vaulted", typed=PLANTED["vault"], **environment).status == 0
    (etc / "secret").write_text(PLANTED["file"] + "\n")
    pem = f"-----BEGIN PRIVATE KEY-----\n{PLANTED['key']}\n-----END PRIVATE KEY-----\n"
    (etc / "app.pem").write_text(pem)
    login = base64.b64encode(f"ci:{PLANTED['docker']}".encode()).decode()
    (etc / "docker.json").write_text(json.dumps({"auths": {"127.0.0.1:1": {"auth": login}}}))
    path = etc / "config.yaml"
    path.write_text(
        f"""
control_plane: {{url: "http://127.0.0.1:1", api_key: {{file: {etc / "secret"}}}}}
registries:
- {{name: layout, url: "oci:{machine_layout}", schedule: manual}}
- {{name: env, url: "http://127.0.0.1:1", insecure: true, username: ci, password: {{env: PLANTED_ENV}}}}
- {{name: short, url: "http://127.0.0.1:1/short", insecure: true, provider: quay, username: ci, password: {{env: PLANTED_SHORT}}}}
- {{name: vault, url: "http://127.0.0.1:1/vault", insecure: true, provider: quay, username: ci, password: {{keyring: vaulted}}}}
- {{name: literal, url: "http://127.0.0.1:1/literal", insecure: true, provider: quay, username: ci, password: "{PLANTED["literal"]}"}}
- {{name: docker, url: "http://127.0.0.1:1/docker", insecure: true, provider: quay, docker_config: {{path: {etc / "docker.json"}}}}}
- name: plugin
  url: "http://127.0.0.1:1/plugin"
  insecure: true
  provider: quay
  plugin: {{command: /bin/false, args: ["--secret", "{PLANTED["plugin"]}"], env: {{API_TOKEN: "{PLANTED["plugin"]}"}}}}
- {{name: github, url: ghcr.io, proxy: "http://127.0.0.1:1", github_app: {{app_id: "1", private_key: {{file: {etc / "app.pem"}}}}}}}
- name: aws
  url: 123456789012.dkr.ecr.eu-west-1.amazonaws.com
  proxy: "http://127.0.0.1:1"
  aws: {{assume_roles: [{{arn: "arn:aws:iam::123456789012:role/x", external_id: "{PLANTED["external"]}"}}]}}
advisories: {{proxy: "http://ci:{quote(PLANTED["proxy"], safe="")}@127.0.0.1:1"}}
http: {{proxy: "http://{PLANTED["http"]}@127.0.0.1:1"}}
state: {{directory: {home}}}
health: {{listen: "off"}}
"""
    )
    path.chmod(0o600)
    return path, environment


def forms(secret: str) -> set[str]:
    return {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), json.dumps(secret)[1:-1]}


def test_no_planted_secret_is_anywhere_in_the_bundle(
    run: Run, tmp_path: Path, planted: tuple[Path, dict[str, str]], program: Callable[[str], None]
) -> None:
    path, environment = planted
    lines = [
        line
        for secret in PLANTED.values()
        for form in sorted(forms(secret))
        for line in (
            f"said {form} aloud",
            f"GET https://ci:{form}@registry.example/v2/?token={form}&x={form} HTTP/1.1",
            json.dumps({"event": "it failed", "error": f"no entry for {secret}.", "password": secret}),
        )
    ]
    journal = tmp_path / "journal"
    journal.write_text("\n".join(["2026-05-01T00:00:00 the first line", *lines, "the last line"]))
    program(f"cat {journal}")
    state = sqlite3.connect(tmp_path / "state" / "state.db")
    state.execute("CREATE TABLE work (lane INTEGER, error TEXT)")
    state.executemany("INSERT INTO work VALUES (1, ?)", [(f"refused: {secret}",) for secret in PLANTED.values()])
    state.commit()
    state.close()
    parts = made(run, tmp_path, "-c", str(path), **environment)
    assert {"config.json", "log.txt", "state.json", "test.json", "check.json"} <= set(parts)
    for name, data in parts.items():
        text = data.decode()
        for kind, secret in PLANTED.items():
            if kind == "external" and name in {"log.txt", "state.json"}:
                continue  # an identifier, that only the configuration tells
            for form in forms(secret):
                assert form not in text, (name, kind)
    log = parts["log.txt"].decode()
    assert log.startswith("2026-05-01T00:00:00 the first line\n")
    assert log.endswith("the last line\n")
    assert log.count("\n") == len(lines) + 2


def test_the_configuration_names_the_sources_of_secrets(
    run: Run, tmp_path: Path, planted: tuple[Path, dict[str, str]]
) -> None:
    path, environment = planted
    config = json.loads(made(run, tmp_path, "-c", str(path), "--no-test", **environment)["config.json"])
    assert config["control_plane"]["api_key"] == {"source": f"file {path.parent / 'secret'}"}
    by_name = {registry["name"]: registry for registry in config["registries"]}
    assert by_name["env"]["password"] == {"source": "environment variable PLANTED_ENV"}
    assert by_name["vault"]["password"] == {"source": "keyring entry 'vaulted'"}
    assert by_name["literal"]["password"] == {"source": "the configuration file"}
    assert by_name["env"]["username"] == "ci"
    assert by_name["plugin"]["plugin"]["args"] == "2 arguments"
    assert by_name["plugin"]["plugin"]["env"] == {"API_TOKEN": "***"}
    assert by_name["aws"]["aws"]["assume_roles"][0]["external_id"] == "***"
    assert config["http"]["proxy"] == "http://***@127.0.0.1:1"
    assert config["advisories"]["proxy"] == "http://***@127.0.0.1:1"
    assert by_name["layout"]["schedule"] == "manual"


# --- parts ------------------------------------------------------------------------------------------------------------------------


def test_what_each_part_says(
    run: Run, tmp_path: Path, config: Path, state: Path, program: Callable[[str], None]
) -> None:
    program('echo "unit $1"')
    parts = made(run, tmp_path, "-c", str(config), "--state", str(state), "--unit", "sensor@two", HG_ODD="value")
    machine = json.loads(parts["machine.json"])
    assert machine["python"].startswith("3.")
    assert "HG_ODD" in machine["variables"]
    assert machine["packages"]["keyring"]
    assert json.loads(parts["check.json"])["valid"] is True
    assert json.loads(parts["advisories.json"])["records"] > 0
    assert json.loads(parts["test.json"])[0]["usable"] is True
    assert parts["log.txt"] == b"unit --unit=sensor@two\n"
    readme = parts["README.txt"].decode()
    assert "status.json: not here: health.listen is off" in readme
    assert f"test.json: {len(parts['test.json'])} bytes" in readme


def test_a_running_sensor_is_asked(run: Run, tmp_path: Path, config: Path) -> None:
    board = busy_board()
    board.handle(events.LinkChanged(at=NOW, link="cp", state="down", error="Bearer abcdefgh was refused"))
    with in_thread(lambda: serve_health(board, lambda: NOW, "127.0.0.1:0")) as url:
        config.write_text(config.read_text().replace('"off"', f'"{url.removeprefix("http://")}"'))
        status = json.loads(made(run, tmp_path, "-c", str(config), "--no-test")["status.json"])
    assert status["version"] == "1.2.3"
    assert next(link for link in status["links"] if link["name"] == "cp")["error"] == "Bearer *** was refused"


def test_the_state_is_counted_and_nothing_of_it_changed(run: Run, tmp_path: Path, config: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    database = sqlite3.connect(directory / "state.db")
    database.executescript(
        "PRAGMA journal_mode = wal; CREATE TABLE IF NOT EXISTS other (x); INSERT INTO other VALUES (1);"
    )
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir() if not path.name.endswith("-shm")}
    state = json.loads(made(run, tmp_path, "-c", str(config), "--no-test")["state.json"])
    assert state["rows"]["other"] == 1
    assert state["free_bytes"] > 0
    assert "state.db" in state["files"]
    assert {p.name: p.stat().st_mtime_ns for p in directory.iterdir() if not p.name.endswith("-shm")} == before
    database.close()
    names = {path.name for path in directory.iterdir()}
    assert json.loads(made(run, tmp_path, "-c", str(config), "--no-test")["state.json"])["rows"]["other"] == 1
    assert {path.name for path in directory.iterdir()} == names


def test_counts_are_grouped_by_what_the_schema_has(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "state.db")
    database.executescript(
        "CREATE TABLE digests (registry, state); INSERT INTO digests VALUES ('a','scanned'),('a','scanned'),('a','failed');"
        "CREATE TABLE outbox (link, state); INSERT INTO outbox VALUES ('cp','waiting');"
        "CREATE TABLE work (unknown); PRAGMA user_version = 7;"
    )
    database.close()
    found: Any = facts.state(tmp_path)
    assert found["schema"] == 7
    assert found["groups"] == {
        "digests": [
            {"registry": "a", "state": "scanned", "count": 2},
            {"registry": "a", "state": "failed", "count": 1},
        ],
        "outbox": [{"link": "cp", "state": "waiting", "count": 1}],
        "work": [],
    }


def test_a_log_file_instead_of_the_journal(run: Run, tmp_path: Path, config: Path) -> None:
    log = tmp_path / "sensor.log"
    log.write_text("".join(f"line {number} \x1b[2J\n" for number in range(6000)))
    text = made(run, tmp_path, "-c", str(config), "--no-test", "--log-file", str(log))["log.txt"].decode()
    assert text.splitlines()[0] == "line 1000 \\x1b[2J"
    assert text.endswith("line 5999 \\x1b[2J\n")


def test_a_wrong_configuration_is_no_reason_to_fail(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("registries: [{name: a, url: a.example, shedule: daily}]\n")
    log = tmp_path / "sensor.log"
    log.write_text("the password is hunter2\n")
    parts = made(run, tmp_path, "-c", str(path), "--state", str(tmp_path), "--log-file", str(log))
    assert "did you mean schedule" in parts["check.json"].decode()
    assert set(parts) == {"README.txt", "check.json", "machine.json", "state.json"}
    assert "config.json: not here: the configuration is not valid" in parts["README.txt"].decode()


def test_what_is_broken_takes_nothing_else_with_it(
    run: Run, tmp_path: Path, config: Path, program: Callable[[str], None]
) -> None:
    program("exit 1")
    state = tmp_path / "broken"
    state.mkdir()
    for name in ("state.db", "advisories.db"):
        (state / name).write_text("no database at all, but long enough to look like one")
    parts = made(run, tmp_path, "-c", str(config), "--state", str(state))
    readme = parts["README.txt"].decode()
    for reason in ("state database", "advisory database", "journal has nothing of harborguard-sensor"):
        assert reason in readme
    assert "test.json" in parts


def test_other_programs_on_the_port_are_no_sensor(run: Run, tmp_path: Path, config: Path, machine_layout: Path) -> None:
    with in_thread(lambda: FakeRegistry(machine_layout, Behaviour())) as fake:
        config.write_text(config.read_text().replace('"off"', f'"{fake.url.removeprefix("http://")}"'))
        parts = made(run, tmp_path, "-c", str(config), "--no-test")
    assert "status.json: not here: " in parts["README.txt"].decode()


def test_the_bundle_may_go_to_stdout(config: Path) -> None:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "sensor", "support", "-c", str(config), "--no-test", "--output", "-"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert "README.txt" in unpacked(done.stdout)


def test_a_file_that_exists_is_not_overwritten(run: Run, tmp_path: Path, config: Path) -> None:
    target = tmp_path / "there"
    target.write_text("mine")
    ran: Ran = run("support", "-c", str(config), "--no-test", "--output", str(target))
    assert ran.status == 3
    assert "--output -" in ran.stderr
    assert target.read_text() == "mine"
    with pytest.raises(StateError, match="No such file"):
        save(b"", tmp_path / "missing" / "x")


def test_a_name_is_made_up_where_none_is_given(
    run: Run, tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("support", "-c", str(config), "--no-test").status == 0
    assert len(list(tmp_path.glob("harborguard-sensor-support-*Z.tar.gz"))) == 1


# --- where there is nothing -------------------------------------------------------------------------------------------------------


def test_no_journal_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="no journalctl here"):
        facts.journal("harborguard-sensor")


def test_a_journal_that_cannot_be_run(program: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "bin" / "journalctl").write_bytes(b"\x7fELF of no machine")
    (tmp_path / "bin" / "journalctl").chmod(0o755)
    with pytest.raises(DataError, match="could not be asked"):
        facts.journal("harborguard-sensor")


def test_places_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be looked at"):
        facts.state(tmp_path / "missing")
    with pytest.raises(DataError, match="cannot be read"):
        facts.log_file(tmp_path / "missing")
