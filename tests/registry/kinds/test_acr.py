"""Azure Container Registry: whose URL it is, whose credential is taken, and that nothing secret goes astray."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.schema import Http
from sensor.config.schema import Registry as Settings
from sensor.registry.client import RegistryClient
from sensor.registry.credentials import Anonymous
from sensor.registry.errors import RegistryForbidden
from sensor.registry.kinds import find_kind, open_registry
from sensor.registry.kinds.acr import ACR, detect
from sensor.registry.kinds.acr_login import GivenCredential, MachineCredential
from sensor.registry.kinds.kind import Opening
from sensor.transport import Reply, Retry, Transport
from tests.fakes.registries.acr import PRINCIPAL_SECRET, AcrFake
from tests.fakes.registries.provider import Login

QUICK = Retry(attempts=5, first=0.001, most=0.01)


@contextlib.asynccontextmanager
async def opened(
    fake: AcrFake, monkeypatch: pytest.MonkeyPatch, chosen: str = "managed identity", **more: Any
) -> AsyncIterator[RegistryClient]:
    login = next(one for one in fake.logins if one.name == chosen)
    for name, value in login.env.items():
        monkeypatch.setenv(name, value)
    registry = open_registry(fake.settings(login).model_copy(update=more), Http(), retry=QUICK)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


def settings_of(**more: object) -> Settings:
    return Settings.model_validate({"name": "one", "url": "myregistry.azurecr.io", **more})


@given(st.text(max_size=80) | st.from_regex(r"[a-z0-9.:/@-]{0,60}azurecr\.[a-z]{2}.{0,20}", fullmatch=True))
@settings(max_examples=150, deadline=None)
def test_detection_takes_any_text_and_only_azures_hosts(url: str) -> None:
    found = detect(url)
    if found is not None:
        assert found.facts["registry"].isalnum()
        assert found.facts["cloud"].startswith("Azure")
        assert find_kind(settings_of(url=url)) is ACR


@pytest.mark.parametrize(
    "url", ["myregistry.azurecr.io.", "HTTPS://MYREGISTRY.AZURECR.IO", "a" * 50 + ".azurecr.io", "12345.azurecr.io"]
)
def test_odd_but_valid_hosts(url: str) -> None:
    assert detect(url) is not None


@pytest.mark.parametrize(
    "url",
    ["a" * 51 + ".azurecr.io", "my_registry.azurecr.io", "-myregistry.azurecr.io", "myregistry-.azurecr.io",
     "myregistry.a.b.geo.azurecr.io", "xn--registry.azurecr.io.", "myregistry.azurecr.com", "https://[::1", ""],
)  # fmt: skip
def test_impossible_hosts(url: str) -> None:
    assert detect(url) is None


def test_the_sdk_is_not_loaded_for_those_who_do_not_need_it() -> None:
    code = (
        "import sys; from sensor.registry.kinds import detect; detect('myregistry.azurecr.io');"
        "sys.exit(any(name.split('.')[0] in ('azure', 'msal') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_is_recognised_by_its_help_pages() -> None:
    def reply(body: bytes) -> Reply:
        return Reply(status=401, url="https://registry.example/v2/", headers={}, body=body)

    assert ACR.recognise(reply(b'{"errors":[{"message":"visit https://aka.ms/acr/authorization for more"}]}'))
    assert ACR.recognise(reply(b'{"errors":[]}')) is None


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, MachineCredential),
        ({"auth": "azure", "username": "u", "password": "p"}, MachineCredential),
        ({"azure": {"client_secret": "s"}, "password": "p"}, MachineCredential),
        ({"azure": {"certificate": "s"}}, MachineCredential),
        ({"username": "u", "password": "p"}, GivenCredential),
        ({"token": "t"}, GivenCredential),
        ({"docker_config": {}}, GivenCredential),
        ({"auth": "anonymous"}, Anonymous),
    ],
)
async def test_who_logs_in(more: Mapping[str, object], expected: type) -> None:
    transport = Transport()
    source = ACR.credentials(Opening(settings=settings_of(**more), http=Http()), transport)
    assert isinstance(source, expected)
    await transport.close()


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("myregistry.azurecr.io", ""),
        ("myregistry.azurecr.cn", "login.chinacloudapi.cn"),
        ("myregistry.azurecr.us", "login.microsoftonline.us"),
        ("registry.stack.example", ""),
    ],
)
async def test_the_token_service_is_that_of_the_registrys_cloud(url: str, authority: str) -> None:
    transport = Transport()
    source = ACR.credentials(Opening(settings=settings_of(url=url), http=Http()), transport)
    assert isinstance(source, MachineCredential)
    assert source.identity.authority == authority
    await source.close()
    await transport.close()


async def test_a_path_in_the_url_is_the_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AcrFake(tmp_path) as fake, opened(fake, monkeypatch, url=f"{fake.url}/team/app") as registry:
        assert (await registry.repositories()).names == ("team/app",)


async def test_secrets_go_to_the_registry_and_its_token_service_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AcrFake(tmp_path) as fake:
        for login in fake.logins:
            if login.anonymous:
                continue
            async with opened(fake, monkeypatch, login.name) as registry:
                await registry.ping()
        exchanged = [one for one in fake.seen if one.path == "/oauth2/exchange"]
        assert exchanged
        assert all(b"containerregistry" not in one.body for one in exchanged)
        assert not any("access_token" in one.path or "refresh_token" in one.path for one in fake.seen)
        assert all(one.server == "registry" for one in exchanged)
        machines = [one for one in fake.seen if one.server in {"imds", "msi", "entra"}]
        assert machines
        assert not any(one.authorization for one in machines)


async def test_nobody_asks_the_metadata_service_without_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AcrFake(tmp_path) as fake:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://{fake.address('imds')}")
        for name in ("service principal password", "AAD token", "anonymous", "service principal secret"):
            async with opened(fake, monkeypatch, name) as registry:
                await registry.ping()
        assert fake.count("imds") == 0


async def test_a_machine_without_identity_reaches_the_registry_but_is_not_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AcrFake(tmp_path) as fake:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")
        registry = open_registry(fake.settings(Login(name="none")), Http(), retry=QUICK)
        ping = await registry.ping()
        assert (ping.reachable, ping.authenticated) == (True, False)
        assert "authentication failed" in ping.detail
        assert "auth: anonymous" in ping.advice
        await registry.close()


async def test_plain_basic_is_not_needed_for_a_principal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AcrFake(tmp_path) as fake:
        async with opened(fake, monkeypatch, "service principal password") as registry:
            await registry.manifest("team/app", "v1")
        basics = {one.path.partition("?")[0] for one in fake.seen if one.authorization.startswith("Basic ")}
        assert basics == {"/oauth2/token"}
        assert PRINCIPAL_SECRET not in repr(fake.settings(fake.logins[6]))
        assert fake.count("imds") == 0


async def test_many_requests_at_once_survive_the_end_of_their_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AcrFake(tmp_path) as fake, opened(fake, monkeypatch) as registry:
        await registry.ping()
        fake.expire()
        heads = await asyncio.gather(*(registry.head(name, "v1") for name in fake.names * 4))
        assert len({head.digest for head in heads}) == len(fake.names)
        assert fake.count("registry", "/oauth2/exchange") <= 6


async def test_many_repositories_without_a_right_cost_few_exchanges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AcrFake(tmp_path) as fake:
        fake.refuse_at_token = True
        async with opened(fake, monkeypatch) as registry:
            await registry.ping()
            fake.forbidden.update(f"gone/n{number}" for number in range(30))
            for number in range(30):
                with pytest.raises(RegistryForbidden):
                    await registry.head(f"gone/n{number}", "v1")
            assert (await registry.head("team/app", "v1")).digest
        assert fake.count("registry", "/oauth2/exchange") <= 6
        assert fake.count("imds") <= 6
