"""The real commands against every provider, with right and wrong credentials: nothing that they print or keep holds a secret.

The wrong ones meet a provider that repeats everything it is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.docker_registry import free_port
from tests.fakes.hostile import configured_secrets, held, issued_secrets, repeating, texts_of, twisted
from tests.fakes.registries import FAKES
from tests.fakes.registries.acr import PRINCIPAL
from tests.fakes.registries.ecr_public import EcrPublicFake
from tests.fakes.registries.provider import Login, ProviderFake
from tests.fakes.sensor_process import SensorProcess

PICKED = {"acr": "workload identity", "gar": "key as password"}
"""Logins that get on with each other's environments; of the others the first."""
WRONG: Mapping[str, Mapping[str, Any]] = {
    "acr": {"username": PRINCIPAL},
    "ecr": {"username": "AWS"},
    "gar": {"username": "oauth2accesstoken"},
    "harbor": {"username": "robot$sensor"},
    "quay": {"username": "team+sensor"},
}


@dataclass
class Site:
    """A configuration with all providers."""

    config: Path
    state: Path
    health: str
    environment: dict[str, str] = field(default_factory=dict)
    fakes: list[tuple[ProviderFake, Login]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def given_away(self, text: str) -> list[str]:
        """Secrets in a text."""
        return [f"{fake.kind}: {one}" for fake, login in self.fakes for one in held(text, self.secrets(fake, login))]

    @staticmethod
    def secrets(fake: ProviderFake, login: Login) -> dict[str, str]:
        """All that is secret about one registry."""
        return {**configured_secrets(fake, login), **issued_secrets(fake)}

    async def run(self, *arguments: str) -> str:
        """What a command prints, on both streams."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sensor", *arguments, "--config", str(self.config),
            env=self.environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 100)
        return f"{out.decode()}\n{err.decode()}"


def entry(fake: ProviderFake, login: Login, name: str) -> dict[str, Any]:
    """The configuration of one registry."""
    merged: dict[str, Any] = {"name": name, "url": fake.url, "provider": fake.kind, "insecure": True}
    for key, value in (*fake.base.items(), *login.settings.items()):
        merged[key] = {**merged[key], **value} if isinstance(merged.get(key), dict) else value
    return {**merged, "schedule": {"every": "1h"}}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path / "c.yaml", tmp_path / "state", f"127.0.0.1:{free_port()}")
    made.state.mkdir(mode=0o700)
    made.environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(tmp_path), "COLUMNS": "200"}
    registries = []
    async with contextlib.AsyncExitStack() as stack:
        for fake_type in FAKES:
            if fake_type is EcrPublicFake:
                continue  # has no address of its own on loopback
            for how in ("right", "wrong"):
                room = tmp_path / f"{fake_type.kind}-{how}"
                room.mkdir()
                fake = await stack.enter_async_context(twisted(fake_type)(room))
                login = next(one for one in fake.logins if one.name == PICKED.get(fake.kind, fake.login_names[0]))
                if how == "right":
                    made.environment |= login.env
                else:
                    given = {
                        "username": "sensor",
                        "password": f"wr0ng-and-secret-of-{fake.kind}",
                        **WRONG.get(fake.kind, {}),
                    }
                    login = Login(name="wrong", settings=given)
                    fake.after = repeating((401, 403, 404))  # what is not worth another attempt
                made.fakes.append((fake, login))
                made.names.append(f"{fake.kind}-{how}")
                registries.append(entry(fake, login, made.names[-1]))
        document = {
            "registries": registries,
            "state": {"directory": str(made.state)},
            "health": {"listen": made.health},
            "logging": {"level": "debug", "format": "json"},
        }
        made.config.touch(mode=0o600)
        made.config.write_text(json.dumps(document))
        yield made


async def test_commands_print_no_secret(site: Site) -> None:
    commands = [("test", "-o", "json"), ("test",), ("plan", "-o", "json"), ("check",)]
    for name, output in (("quay-right", "json"), ("quay-wrong", "table"), ("acr-wrong", "json")):
        fake = site.fakes[site.names.index(name)][0]
        commands.append(("scan", f"{fake.address()}/{fake.names[0]}:v1", "--output", output))
    said = await asyncio.gather(*(site.run(*command) for command in commands))
    printed = {" ".join(command): text for command, text in zip(commands, said, strict=True)}
    wrong = site.fakes[site.names.index("quay-wrong")][0]
    reports = {one["registry"]: one for one in json.loads(printed["test -o json"].partition("\n]")[0] + "\n]")}
    assert all(reports[name]["authenticated"] is name.endswith("right") for name in site.names), reports
    assert "status 40" in printed[f"scan {wrong.address()}/{wrong.names[0]}:v1 --output table"]
    for (fake, login), name in zip(site.fakes, site.names, strict=True):
        shown = [text for seen in fake.seen for text in texts_of(seen) if held(text, site.secrets(fake, login))]
        assert shown, f"{name} was shown nothing, so nothing could be given away"
    for what, text in printed.items():
        assert site.given_away(text) == [], what


async def test_the_daemon_logs_and_keeps_no_secret(site: Site) -> None:
    async with SensorProcess(site.config, **site.environment) as sensor:
        for name in site.names:
            await sensor.line("sweep finished", registry=name)
        shown = [
            await asyncio.to_thread(read, f"http://{site.health}/{page}") for page in ("status", "metrics", "readyz")
        ]
        sensor.signal(signal.SIGTERM)
        assert await sensor.ended() == 0
    logged = "\n".join((*(json.dumps(line) for line in sensor.lines), *sensor.other))
    assert any(line.get("level") == "debug" for line in sensor.lines)
    assert site.given_away(logged) == []
    assert site.given_away("\n".join(shown)) == []
    kept = [path for path in site.state.rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        assert site.given_away(path.read_bytes().decode("latin-1")) == [], path


def read(url: str) -> str:
    """A page of the health endpoint."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


ADDRESSES = (
    "https://eve:s3cret-in-url@127.0.0.1:1", "eve:s3cret-in-url@127.0.0.1:1", "https://eve:s3cret-in-url@127.0.0.1:99999",
    "https://eve:s3cret-in-url@[127.0.0.1", "https://127.0.0.1:1/?token=s3cret-in-url", "http://eve:s3cret-in-url@127.0.0.1:1/v2/",
)  # fmt: skip


async def test_an_address_with_a_password_is_not_repeated(tmp_path: Path) -> None:
    site = Site(tmp_path / "c.yaml", tmp_path, "off", {"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    site.config.write_text("logging: {level: debug}\n")
    commands = [("test", "-o", "json", address) for address in ADDRESSES[:5]]
    commands += [("test", ADDRESSES[5]), ("scan", f"{ADDRESSES[1]}/team/app:v1")]
    for text in await asyncio.gather(*(site.run(*command) for command in commands)):
        assert text.strip()
        assert "s3cret" not in text


@pytest.mark.parametrize("where", ["http", "registry"])
async def test_the_password_of_a_proxy_is_not_repeated(where: str, tmp_path: Path) -> None:
    site = Site(tmp_path / "c.yaml", tmp_path, "off", {"PATH": os.environ["PATH"], "HOME": str(tmp_path)})
    proxy = {"proxy": "http://eve:s3cret-of-the-proxy@127.0.0.1:1"}
    registry = {"name": "a", "url": "https://registry.example", **(proxy if where == "registry" else {})}
    site.config.touch(mode=0o600)
    document = {
        "registries": [registry],
        "http": proxy if where == "http" else {},
        "state": {"directory": str(tmp_path / "s")},
    }
    site.config.write_text(json.dumps({**document, "logging": {"level": "debug"}}))
    commands = (
        (("test",), ("plan", "-o", "json"))
        if where == "http"
        else (("test", "-o", "json"), ("scan", "registry.example/team/app:v1"))
    )
    for command, text in zip(
        commands, await asyncio.gather(*(site.run(*command) for command in commands)), strict=True
    ):
        assert "s3cret" not in text
        assert "proxy" in text, command
