"""What is delivered besides the Python package: the systemd units, the container and Compose files, the locks, the set-up script.

The unit is judged by systemd's own tools, and the real `run` and `scan` live under what it forbids and speak the notify protocol. Building
the image and the wheel, and both commands on a bare machine, are the business of `make image`, `make check` and `make fresh`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Self

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sensor.config.load import load_config
from sensor.config.schema import Config
from tests.fakes.control_plane import FakeControlPlane
from tests.fakes.images import ImageStore
from tests.fakes.layers import file, layer
from tests.fakes.sandbox import kernel_has_memory_rule
from tests.fakes.sensor_process import SensorProcess

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "harborguard-sensor.service"
TEMPLATE = ROOT / "systemd" / "harborguard-sensor@.service"
PROGRAM = str(Path(sys.executable).parent / "harborguard-sensor")
STATE = Config().state.directory


def settings(name: str) -> list[str]:
    """The values of one setting of the unit, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


# --- the systemd unit ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[UNIT, TEMPLATE], ids=["one", "several"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit, or an instance of the template, with the command of this environment in the place of the installed one."""
    text = request.param.read_text()
    assert text.count("/opt/harborguard-sensor/bin/harborguard-sensor") == 1
    copy = tmp_path / request.param.name.replace("@.", "@production.")
    copy.write_text(text.replace("/opt/harborguard-sensor/bin/harborguard-sensor", PROGRAM))
    return copy


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    ran = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_systemd_judges_the_units_exposure_at_most_one_and_a_half(unit: Path) -> None:
    ran = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", ran.stdout)
    assert found is not None, ran.stdout + ran.stderr
    assert float(found[1]) <= 1.5
    assert ran.returncode == 0


def test_the_template_differs_in_its_paths_alone(tmp_path: Path) -> None:
    def lines(path: Path) -> set[str]:
        return {line for line in path.read_text().splitlines() if line and not line.startswith("#")}

    one, several = lines(UNIT), lines(TEMPLATE)
    changed = {"Description", "ExecStart", "StateDirectory", "ConfigurationDirectory", "LoadCredential"}
    assert {line.partition("=")[0] for line in one - several} == changed
    assert {line.partition("=")[0] for line in several - one} == {*changed, "User"}
    assert all("%i" in line for line in several - one)
    # what its comment tells an instance to set
    told = re.findall(r"^#   (.*)$", TEMPLATE.read_text(), re.MULTILINE)
    config = tmp_path / "config.yaml"
    config.write_text("\n".join([*told, "registries: []"]))
    state = load_config(config, {}).config.state.directory
    assert f"StateDirectory={Path(state).name}" in {line.replace("%i", "production") for line in several}


def test_the_units_paths_are_those_of_the_sensor() -> None:
    assert settings("StateDirectory") == [Path(STATE).name]
    assert settings("ExecStart")[0].split()[1:] == ["run", "--config", "/etc/harborguard-sensor/config.yaml"]
    assert settings("DynamicUser") == ["yes"]


def allowed_calls() -> list[str]:
    """What the unit's SystemCallFilter lines leave, expanded as systemd.exec(5) says: the first line decides, later ones add or take away."""

    def expand(names: str) -> set[str]:
        calls: set[str] = set()
        for name in names.split():
            if name.startswith("@"):
                text = subprocess.run(
                    ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
                ).stdout
                inner = [line.strip() for line in text.splitlines()[1:] if line.strip() and "#" not in line]
                calls |= expand(" ".join(inner))
            else:
                calls.add(name)
        return calls

    lines = settings("SystemCallFilter")
    assert lines
    assert not lines[0].startswith("~")
    allowed: set[str] = set()
    for line in lines:
        allowed = allowed - expand(line[1:]) if line.startswith("~") else allowed | expand(line)
    return sorted(allowed | expand("@default"))


@pytest.fixture(scope="module")
def sandboxed() -> list[str]:
    """The start of a command line that runs the rest under the unit's system call filter."""
    return [sys.executable, "-m", "tests.fakes.sandbox", json.dumps({"allow": allowed_calls()})]


def test_the_filter_refuses_what_the_sensor_never_does(sandboxed: list[str]) -> None:
    probe = """
import json, os
from tests.fakes.sandbox import writes_and_executes
def refused(call, *arguments):
    try:
        call(*arguments)
    except PermissionError:
        return True
    return False
print(json.dumps({"chroot": refused(os.chroot, "/"), "nice": refused(os.nice, 1), "memory": not writes_and_executes()}))
"""
    ran = subprocess.run(
        [*sandboxed, sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == {"chroot": True, "nice": False, "memory": kernel_has_memory_rule()}


def test_scanning_works_under_the_units_filter(sandboxed: list[str], tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "layout")
    store.image(
        "team/app", "v1",
        [layer(file("opt/lib/python3.11/site-packages/jinja2-2.10.dist-info/METADATA", b"Name: Jinja2\nVersion: 2.10\n\n"))],
    )  # fmt: skip
    environ = {"PATH": os.environ["PATH"], "HARBORGUARD_SENSOR_STATE": str(tmp_path / "state"), "HOME": str(tmp_path)}
    for arguments in (
        ["advisories", "import", "--demo"],
        ["scan", f"oci:{tmp_path}/layout:team/app:v1", "--output", "json"],
    ):
        ran = subprocess.run(
            [*sandboxed, sys.executable, "-m", "sensor", *arguments],
            cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    assert "Jinja2" in ran.stdout
    assert "CVE-" in ran.stdout


class Supervisor:
    """The other end of NOTIFY_SOCKET. It always reads: a full socket would hold the sensor up, as it would with systemd."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(str(path))
        self._channel.setblocking(False)
        self._told: asyncio.Queue[str] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._channel, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()

    def _read(self) -> None:
        for line in self._channel.recv(4096).decode().splitlines():
            self._told.put_nowait(line)

    async def told(self, state: str) -> list[str]:
        """Everything told since the last call, until `state` was."""
        seen: list[str] = []
        async with asyncio.timeout(60):
            while state not in seen:
                seen.append(await self._told.get())
        return seen


async def test_the_daemon_tells_systemd_how_it_goes_and_reads_its_credential(tmp_path: Path) -> None:
    assert settings("Type") == ["notify"]
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "api-key").write_text("hg_ak_from_the_unit\n")
    (tmp_path / "layout").mkdir()
    ImageStore(tmp_path / "layout")
    async with FakeControlPlane(key="hg_ak_from_the_unit") as plane, Supervisor(tmp_path / "notify") as supervisor:
        config = tmp_path / "config.yaml"
        config.write_text(
            f"""
control_plane: {{url: {plane.url}, api_key: {{file: api-key}}}}
registries: [{{name: disk, url: "oci:{tmp_path}/layout", schedule: manual}}]
state: {{directory: {tmp_path / "state"}}}
health: {{listen: "127.0.0.1:0"}}
"""
        )
        async with SensorProcess(
            config,
            NOTIFY_SOCKET=str(supervisor.path),
            WATCHDOG_USEC="400000",
            CREDENTIALS_DIRECTORY=str(tmp_path / "credentials"),
        ) as sensor:
            assert "STOPPING=1" not in await supervisor.told("READY=1")
            await supervisor.told("WATCHDOG=1")
            await sensor.line("link changed", state="registered")
            sensor.signal(signal.SIGHUP)
            assert "READY=1" not in await supervisor.told("RELOADING=1")
            await supervisor.told("READY=1")
            sensor.signal(signal.SIGTERM)
            await supervisor.told("STOPPING=1")
            assert await sensor.ended() == 0
    (agent,) = plane.agents.values()
    assert agent.registration


async def test_a_wrong_configuration_ends_with_the_status_that_is_not_restarted(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("registries: [{name: x}]\n")
    async with SensorProcess(config) as sensor:
        status = await sensor.ended()
    assert [str(status)] == settings("RestartPreventExitStatus")


# --- the container ------------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    last = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return found[last:]


def test_the_image_runs_without_root_and_without_a_shell() -> None:
    stage = dict(final_stage())
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage["USER"])
    assert "RUN" not in stage, "a final stage that runs nothing needs no shell in its base"
    for word in ("ENTRYPOINT", "CMD"):
        assert all(isinstance(argument, str) for argument in json.loads(stage[word]))
    health = re.search(r"CMD (\[.*\])$", stage["HEALTHCHECK"])
    assert health is not None
    assert json.loads(health[1]) == ["harborguard-sensor", "status", "--probe"]
    assert json.loads(stage["VOLUME"]) == [STATE]
    assert stage["EXPOSE"] == Config().health.listen.rpartition(":")[2]


def test_the_image_is_built_from_given_bases_and_hashed_packages() -> None:
    found = instructions()
    bases = [rest.split()[0] for word, rest in found if word == "FROM"]
    assert bases == ["${BUILD_BASE}", "${BASE}"]
    assert {rest.partition("=")[0] for word, rest in found if word == "ARG"} == {
        "BUILD_BASE",
        "BASE",
        "LOCK",
        "PIP_OPTIONS",
    }
    assert not [rest for word, rest in found if word == "ADD"]
    installs = re.findall(
        r"pip install (.*?)(?:&&|$)", " ".join(f"{rest}\n" for word, rest in found if word == "RUN"), re.MULTILINE
    )
    assert len(installs) == 2
    for options in installs:
        assert "--require-hashes" in options or ("--no-deps" in options and "--no-build-isolation" in options)


def test_everything_that_the_image_copies_is_sent_to_the_builder() -> None:
    wanted = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in [part for part in rest.split() if not part.startswith("--")][:-1]
    }
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert wanted
    for source in wanted:
        assert (ROOT / source).exists(), source
        assert any(source == path or source.startswith(f"{path}/") for path in sent), source


# --- orchestrators ------------------------------------------------------------------------------------------------------------


def test_the_compose_file_is_as_strict() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    service = compose["services"]["sensor"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & service.keys()
    image = dict(final_stage())
    assert service["user"] == image["USER"]
    assert f"state:{STATE}" in service["volumes"]
    assert not [mount for mount in service["volumes"] if "docker.sock" in mount]
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert service["healthcheck"]["test"] == ["CMD", *json.loads(image["HEALTHCHECK"].partition("CMD ")[2])]
    assert set(service["secrets"]) == set(compose["secrets"])
    assert all(secret["file"] == f"./secrets/{name}" for name, secret in compose["secrets"].items())
    assert set(compose["volumes"]) == {"state"}


# --- locks and set-up ---------------------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, str]:
    """Distribution to version; every entry must carry hashes."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert "://" not in text, "the name of an index must not stand in a lock"
    entries = re.findall(
        r"^([A-Za-z0-9._-]+)==(\S+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}[ \\]*\n)+)", text, re.MULTILINE
    )
    pins = re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)
    assert [entry[0] for entry in entries] == pins
    return {canonicalize_name(distribution): version for distribution, version, _ in entries}


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime, dev = locked("runtime"), locked("dev")
    for lock, wanted in ((runtime, project["dependencies"]), (dev, project["optional-dependencies"]["dev"])):
        for text in wanted:
            requirement = Requirement(text)
            assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), text
    assert runtime.items() <= dev.items(), "the tests must run on the versions that users get"
    assert set(locked("build")) == {"setuptools"}


def test_the_slim_lock_is_the_other_one_without_the_sdks() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / ".ci/slim-lock", "--print"], capture_output=True, text=True, check=True
    )
    assert (ROOT / "requirements" / "slim.lock").read_text() == ran.stdout
    runtime, slim = locked("runtime"), locked("slim")
    assert slim.items() <= runtime.items()
    assert {
        "boto3",
        "botocore",
        "google-auth",
        "azure-identity",
        "msal",
        "requests",
        "urllib3",
    } <= runtime.keys() - slim.keys()
    sdks = {"boto3", "google-auth", "azure-identity"}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {canonicalize_name(Requirement(text).name) for text in wanted} - sdks <= slim.keys()
    assert {"cryptography", "idna", "typing-extensions"} <= slim.keys(), "others need them as well"


def test_the_installed_command_is_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ran = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["harborguard-sensor", version]


@pytest.mark.parametrize(
    ("platform", "damage", "says"),
    [
        ("vax 3.11", "", "these wheels are not for"),
        ("", "changed", "config.example.yaml: FAILED"),
    ],
)
def test_the_archive_refuses_before_it_changes_anything(platform: str, damage: str, says: str, tmp_path: Path) -> None:
    archive, place = tmp_path / "archive", tmp_path / "place"
    archive.mkdir()
    for name in ("deploy/install.sh", "config.example.yaml"):
        (archive / Path(name).name).write_bytes((ROOT / name).read_bytes())
    (archive / "PLATFORMS").write_text(f"{platform}\n")
    sums = subprocess.run(
        ["sha256sum", "config.example.yaml", "PLATFORMS"], cwd=archive, capture_output=True, check=True
    )
    (archive / "SHA256SUMS").write_bytes(sums.stdout)
    with (archive / "config.example.yaml").open("a") as file:
        file.write(damage)
    place.mkdir()
    ran = subprocess.run(
        ["sh", archive / "install.sh"], env={"PATH": os.environ["PATH"], "PREFIX": str(place), "PYTHON": sys.executable},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert says in ran.stdout + ran.stderr
    assert not list(place.iterdir())


def test_set_up_tells_a_user_what_is_missing() -> None:
    command = [ROOT / ".ci/setup", "tools", "no-such-command-here"]
    user = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    ran = subprocess.run([*user, "/bin/sh", *command], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "apt-get install --no-install-recommends no-such-command-here" in ran.stderr
