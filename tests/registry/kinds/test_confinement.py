"""What is never asked, never sent and never loaded: plain HTTP, metadata services, other namespaces, hostile names, the clouds' SDKs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensor.config.logins import Api
from sensor.config.schema import Http
from sensor.errors import ConfigError, DataError, SecretError, SensorError
from sensor.model.digest import Digest
from sensor.model.manifest import Descriptor
from sensor.registry.errors import RegistryForbidden
from sensor.registry.kinds import open_registry
from tests.fakes.certificates import Authority
from tests.fakes.gcp import METADATA
from tests.fakes.hostile import Stranger, twisted
from tests.fakes.proxy import FakeProxy
from tests.fakes.registries import FAKES
from tests.fakes.registries.distribution import DistributionFake
from tests.fakes.registries.ecr_public import EcrPublicFake
from tests.fakes.registries.provider import Login, ProviderFake
from tests.registry.kinds.attacks import each, each_fake, environment, everything, opening, sdk_connections

pytestmark = sdk_connections

CLOUDS = {"acr", "ecr", "gar"}
OWN = {"registry", "auth", "api", "gitlab", "open", "storage", "proxy"}
"""Servers that are a provider's own; others are a cloud's identity services."""


# -- plain HTTP ----------------------------------------------------------------------------------------------------------------


@each("login")
async def test_plain_http_is_refused_before_anything_is_sent(
    fake_type: type[ProviderFake], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        login = fake.logins[index]
        environment(login, monkeypatch)
        with pytest.raises(ConfigError, match="plain HTTP"):
            open_registry(fake.settings(login).model_copy(update={"insecure": False}))
        assert fake.seen == []


@pytest.mark.parametrize("credential", [True, False])
@each_fake
async def test_without_a_scheme_http_is_no_way_out_unless_it_is_allowed(
    fake_type: type[ProviderFake], credential: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        login = fake.logins[0] if credential else Login(name="", anonymous=True, settings={"auth": "anonymous"})
        environment(login, monkeypatch)
        settings = fake.settings(login)
        url = fake.address() if fake.kind == "ecr" else settings.url.removeprefix("http://")
        strict = settings.model_copy(update={"url": url, "insecure": False, "api": Api(), "proxy": ""})
        async with opening(strict) as registry:
            walk = await everything(registry, fake, brief=True)
        assert not walk.results or fake.kind in CLOUDS
        assert [seen for seen in fake.seen if seen.server in OWN] == []


def behind_tls(fake_type: type[ProviderFake]) -> type[ProviderFake]:
    """The provider, its registry with a certificate."""

    class Secured(fake_type):  # type: ignore[valid-type, misc]
        def __init__(self, root: Path) -> None:
            super().__init__(root)
            self.tls, self.place = Authority(), root

        async def listen(self, server: str, handler: Any, ssl_context: Any = None) -> None:
            context = self.tls.server_context(self.place) if server == "registry" else ssl_context
            await super().listen(server, handler, context)

        @property
        def url(self) -> str:
            return f"https://{self.address()}"

    return Secured


@pytest.mark.parametrize(
    "fake_type", [fake for fake in FAKES if fake.kind not in {"acr", "distribution"}], ids=lambda fake: fake.__name__
)
async def test_an_api_in_plain_http_gets_nothing(
    fake_type: type[ProviderFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with behind_tls(fake_type)(tmp_path) as fake, Stranger() as stranger:
        login = fake.logins[0]
        environment(login, monkeypatch)
        ca_file = fake.tls.write(tmp_path / "authority.pem")  # type: ignore[attr-defined]
        update = {"url": fake.url, "insecure": False, "ca_file": ca_file, "proxy": ""}
        settings = fake.settings(login).model_copy(update=update)
        settings = settings.model_copy(update={"api": settings.api.model_copy(update={"url": stranger.url})})
        with contextlib.suppress(ConfigError):
            async with opening(settings) as registry:
                await everything(registry, fake)
        assert stranger.seen == []


# -- metadata services ---------------------------------------------------------------------------------------------------------


def metadata_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All clouds' metadata services are at one place."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{address}")
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://{address}")
    monkeypatch.setenv("GCE_METADATA_HOST", address)
    monkeypatch.setenv("GCE_METADATA_IP", address)
    for name in (
        "IDENTITY_ENDPOINT",
        "AWS_ACCESS_KEY_ID",
        "AZURE_FEDERATED_TOKEN_FILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("credential", [True, False])
@pytest.mark.parametrize(
    "fake_type", [fake for fake in FAKES if fake.kind not in CLOUDS], ids=lambda fake: fake.__name__
)
async def test_who_needs_no_identity_of_the_machine_asks_for_none(
    fake_type: type[ProviderFake], credential: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake, Stranger() as metadata:
        metadata_at(metadata.address, monkeypatch)
        login = fake.logins[0] if credential else Login(name="", anonymous=True)
        async with opening(fake.settings(login)) as registry:
            await everything(registry, fake)
        assert metadata.seen == []


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("acr", ("service principal password", "refresh token", "admin user", "anonymous")),
        ("ecr", ("access keys", "authorization token", "anonymous at public.ecr.aws")),
        ("gar", ("key as password", "key by google-auth", "access token", "anonymous")),
    ],
)
async def test_a_configured_credential_needs_none_either(
    kind: str, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, fake_type in enumerate(fake for fake in FAKES if fake.kind == kind):
        (tmp_path / str(number)).mkdir()
        async with fake_type(tmp_path / str(number)) as fake, Stranger() as metadata:
            for login in fake.logins:
                if login.name in names:
                    environment(login, monkeypatch)
                    metadata_at(metadata.address, monkeypatch)
                    async with opening(fake.settings(login)) as registry:
                        await everything(registry, fake, brief=True)
            assert metadata.seen == []


@pytest.mark.parametrize(
    ("kind", "name", "server"),
    [("acr", "managed identity", "imds"), ("ecr", "instance role", "metadata"), ("gar", "metadata service", "")],
)
async def test_no_metadata_service_is_asked_through_a_proxy(
    kind: str, name: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with next(fake for fake in FAKES if fake.kind == kind)(tmp_path) as fake, FakeProxy() as proxy:
        login = next(one for one in fake.logins if one.name == name)
        environment(login, monkeypatch)
        for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        settings = fake.settings(login).model_copy(update={"proxy": proxy.url})
        async with opening(settings, http=Http(proxy=proxy.url)) as registry:
            await everything(registry, fake, brief=True)
        assert any(fake.address() in target for target in proxy.asked)  # the registry is
        addresses = [fake.address(server)] if server else [METADATA]
        assert not [target for target in proxy.asked if "/meta" in target or any(one in target for one in addresses)]
        assert not server or fake.count(server) > 0


# -- what is loaded ------------------------------------------------------------------------------------------------------------

_OPEN = """
import asyncio, json, sys
from sensor.config.schema import Http, Registry
from sensor.registry.kinds import open_registry
from sensor.transport import Retry

async def main(settings):
    registry = open_registry(Registry.model_validate(settings), Http(), retry=Retry(attempts=1))
    try:
        await registry.ping()
    except Exception as error:
        assert type(error).__module__.startswith("sensor."), error
    await registry.close()

for settings in json.loads(sys.argv[1]):
    asyncio.run(main(settings))
print(json.dumps([name for name in ("boto3", "botocore", "google.auth", "azure.core", "azure.identity", "msal") if name in sys.modules]))
"""


def test_no_cloud_is_loaded_for_who_is_in_none() -> None:
    basic = {"name": "a", "url": "https://127.0.0.1:1", "username": "u", "password": "secret"}
    kinds = sorted({fake.kind for fake in FAKES} - CLOUDS)
    opened: list[dict[str, Any]] = [{**basic, "provider": kind} for kind in kinds]
    opened += [{**basic, "provider": kind} for kind in sorted(CLOUDS)]  # a name and a password need no SDK there either
    opened += [{"name": "a", "url": f"oci:/nonexistent/{kind}"} for kind in ("x",)]
    ran = subprocess.run(
        [sys.executable, "-c", _OPEN, json.dumps(opened)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == []


# -- whose the credential is ---------------------------------------------------------------------------------------------------

BLOB = Descriptor(media_type="application/octet-stream", digest=Digest(f"sha256:{'0' * 64}"), size=1)


async def ask_for(registry: Any, repository: str, tag: str = "v1") -> list[SensorError]:
    """Everything that can be asked about one repository; each must be refused."""

    async def blob() -> None:
        async for _ in registry.blob(repository, BLOB):
            pass

    refused = []
    for work in (
        registry.tags(repository), registry.head(repository, tag), registry.manifest(repository, tag), blob(), registry.config(repository, BLOB),
    ):  # fmt: skip
        try:
            await work
        except SensorError as error:
            refused.append(error)
    assert len(refused) == 5
    return refused


@each_fake
async def test_a_credential_is_for_the_namespace_of_its_url_alone(
    fake_type: type[ProviderFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        environment(fake.logins[0], monkeypatch)
        settings = fake.settings()
        namespace = fake.names[0].rpartition("/")[0]
        bound = settings.model_copy(update={"url": f"{settings.url}/{namespace}"})
        if fake.kind == "distribution":
            with pytest.raises(ConfigError, match="no path"):
                open_registry(bound)
            return
        async with opening(bound) as registry:
            for repository in ("elsewhere/app", f"{namespace}x/app", namespace.partition("/")[0] + "x", "app"):
                errors = await ask_for(registry, repository)
                assert {type(error) for error in errors} == {RegistryForbidden}, (repository, errors)
            assert fake.seen == []
            assert (await registry.head(fake.names[0], "v1")).digest == fake.images[fake.names[0]]["v1"].digest


HOSTILE = (
    "", "..", "team/../admin", "team/app/..", "team%2Fapp", "team/app?x=1", "team/app#f", "team//app", "/team/app", "team/app/", "Team/App",
    "team/app\r\nX-Evil: 1", "team/app\n", "team/\x00app", "team/app ", "team\\app", "http://evil/x", "evil.example:80/team/app", "team/äpp",
    "a" * 300,    "team/app/manifests/v1", "@evil/app", "team/app;x", "\u202eteam/app",
)  # fmt: skip
"""Some of these are valid names (`team/app/manifests/v1`): they are asked for under just that name."""
HOSTILE_TAGS = (
    "", "..", "../../v2/_catalog", "v1/../../x", "v1?x=1", "v1#f", "v1%2f..", "v1\r\nX-Evil: 1", "v1\n", "v1\x00", "v1 ", "-v1", ".v1", "v1/x",
    "sha256:xyz", "sha256:" + "0" * 63, "sha256:" + "0" * 64 + "\n", "t" * 129, "v1:v2", "v1@sha256:" + "0" * 64, "vä1",
)  # fmt: skip


@each_fake
async def test_nothing_is_asked_under_a_hostile_name(
    fake_type: type[ProviderFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        environment(fake.logins[0], monkeypatch)
        async with opening(fake.settings()) as registry:
            for repository in HOSTILE:
                if repository != "team/app/manifests/v1":
                    assert {type(error) for error in await ask_for(registry, repository)} == {DataError}, repository
            for tag in HOSTILE_TAGS:
                for work in (registry.head(fake.names[0], tag), registry.manifest(fake.names[0], tag)):
                    with pytest.raises(DataError):
                        await work
            odd = Descriptor(media_type="x", digest=Digest("sha256:../../_catalog"), size=1)
            with pytest.raises(DataError):
                await registry.config(fake.names[0], odd)
        assert not [seen for seen in fake.seen if seen.path != "/v2/" and seen.server in OWN - {"api", "proxy"}]


@pytest.mark.parametrize("secret", ["two\r\nX-Evil: 1", "two\nlines", "nul\x00", "tab\tbed", "escape\x1b[2J"])
@pytest.mark.parametrize("how", ["token", "password", "api"])
@pytest.mark.parametrize(
    "fake_type", [fake for fake in FAKES if fake is not EcrPublicFake], ids=lambda fake: fake.__name__
)
async def test_a_secret_with_control_characters_is_not_sent(
    fake_type: type[ProviderFake], how: str, secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "api" and fake_type.kind in {"acr", "ecr", "distribution"}:
        return  # whose API has no credential of its own
    async with fake_type(tmp_path) as fake:
        own = {"username": "robot", "password": secret} if how == "password" else {"token": secret}
        given: dict[str, Any] = (
            {"username": "robot", "password": "s3cret", "api": {"token": secret}} if how == "api" else own
        )
        merged = {**given, "api": {**fake.base.get("api", {}), **given.get("api", {})}}
        async with opening(fake.settings(Login(name="", settings=merged))) as registry:
            walk = await everything(registry, fake, brief=True)
        assert walk.errors
        assert not [seen for seen in fake.seen if "x-evil" in seen.headers]
        if how != "api":
            assert any(isinstance(error, SecretError) for error in walk.errors)
            assert not [seen for seen in fake.seen if seen.authorization]


@pytest.mark.parametrize("name", ["eve\r\nX-Evil: 1", "eve\n", "eve:adam", "e\x00ve"])
async def test_a_hostile_user_name_is_not_sent(name: str, tmp_path: Path) -> None:
    async with DistributionFake(tmp_path) as fake:
        login = Login(name="", settings={"username": name, "password": "s3cret"})
        async with opening(fake.settings(login)) as registry:
            walk = await everything(registry, fake, brief=True)
        assert any(isinstance(error, SecretError) for error in walk.errors)
        assert not [seen for seen in fake.seen if seen.authorization or "x-evil" in seen.headers]


async def test_a_token_with_a_line_break_from_the_token_service_is_not_sent(tmp_path: Path) -> None:
    async with twisted(DistributionFake)(tmp_path) as fake:

        def instead(_server: str, request: web.Request) -> web.StreamResponse | None:
            return web.json_response({"token": "abc\r\nX-Evil: 1"}) if request.path == "/token" else None

        fake.instead = instead
        async with opening(fake.settings()) as registry:
            walk = await everything(registry, fake)
        assert walk.errors
        assert not [seen for seen in fake.seen if "x-evil" in seen.headers or "abc" in seen.authorization]
