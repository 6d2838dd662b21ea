"""Identities of Azure: the real azure-identity against fakes of the metadata service, App Service and Entra."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sensor.config.logins import Azure
from sensor.errors import ConfigError, NetworkError, SecretError, SensorError
from sensor.identity.azure import AzureIdentity, AzureRefused, way_of
from sensor.route import Route
from sensor.secret import FromFile
from sensor.transport import Transport
from tests.fakes import azure
from tests.fakes.certificates import Authority
from tests.fakes.proxy import FakeProxy

SCOPE = "https://containerregistry.azure.net/.default"


class Pauses:
    """Instead of asyncio.sleep."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


@pytest.fixture
def cloud() -> azure.AzureCloud:
    return azure.AzureCloud()


@contextlib.asynccontextmanager
async def machine(cloud: azure.AzureCloud, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A machine whose metadata service is the fake."""
    async with azure.serve(cloud.imds) as url:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
        yield url


@contextlib.asynccontextmanager
async def tenant(cloud: azure.AzureCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Entra with a certificate of a private authority; gives the authority's file."""
    authority = Authority()
    async with azure.serve(cloud.entra, authority.server_context(tmp_path)) as url:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", url)
        yield authority.write(tmp_path / "ca.pem")


@contextlib.asynccontextmanager
async def identity(
    settings: dict[str, Any], *, ca_file: str = "", proxy: str = "", pauses: Pauses | None = None, **more: Any
) -> AsyncIterator[AzureIdentity]:
    sleep = pauses or Pauses()
    transport = Transport(Route(ca_file=ca_file, proxy=proxy), sleep=sleep)
    made = AzureIdentity(
        Azure.model_validate(settings), transport, local=Transport(Route(proxy="direct"), sleep=sleep), **more
    )
    try:
        yield made
    finally:
        await made.close()
        await transport.close()


PRINCIPAL = {"tenant_id": azure.TENANT, "client_id": azure.APP}


def test_the_sdk_is_not_loaded_before_it_is_needed() -> None:
    code = "import sys, sensor.identity.azure; sys.exit(any(m.split('.')[0] in ('azure', 'msal') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("settings", "env", "expected"),
    [
        ({}, {}, "managed"),
        ({}, {"AZURE_FEDERATED_TOKEN_FILE": "/x"}, "workload"),
        ({"identity": "managed"}, {"AZURE_FEDERATED_TOKEN_FILE": "/x"}, "managed"),
        ({"identity": "workload"}, {}, "workload"),
        ({"client_secret": "s"}, {"AZURE_FEDERATED_TOKEN_FILE": "/x"}, "secret"),
        ({"certificate": "s"}, {}, "certificate"),
    ],
)
def test_the_way_is_chosen_by_settings_and_environment(
    settings: dict[str, Any], env: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert way_of(Azure.model_validate(settings)) == expected


async def test_managed_identity_asks_the_metadata_service_once(
    cloud: azure.AzureCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(cloud, monkeypatch), identity({}) as one:
        first = await one.token(SCOPE)
        again = await one.token(SCOPE)
    assert first == again
    assert first.value.reveal() in cloud.issued
    assert first.value.reveal() not in repr(first)
    assert first.expires == pytest.approx(time.time() + cloud.life, abs=10)
    assert [one["resource"] for one in cloud.asked] == [azure.RESOURCE]


async def test_a_user_assigned_identity_is_named_by_its_client_id(
    cloud: azure.AzureCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.system = False
    async with machine(cloud, monkeypatch), identity({"client_id": azure.USER_ASSIGNED}) as one:
        await one.token(SCOPE)
    assert cloud.asked[0]["client_id"] == azure.USER_ASSIGNED


async def test_managed_is_managed_even_where_workload_identity_is_set_up(
    cloud: azure.AzureCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AZURE_AUTHORITY_HOST", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.setenv(name, "https://127.0.0.1:1")
    async with machine(cloud, monkeypatch), identity({"identity": "managed"}) as one:
        assert (await one.token(SCOPE)).value.reveal() in cloud.issued


async def test_app_service_and_container_apps(cloud: azure.AzureCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    async with azure.serve(cloud.app_service) as url, identity({}) as one:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{url}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", azure.MSI_HEADER)
        assert (await one.token(SCOPE)).value.reveal() in cloud.issued


async def test_the_metadata_service_is_never_asked_through_a_proxy(
    cloud: azure.AzureCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeProxy() as proxy, machine(cloud, monkeypatch):
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        transport = Transport(Route(proxy=proxy.url))
        one = AzureIdentity(Azure(), transport)
        await one.token(SCOPE)
        await one.close()
        await transport.close()
        assert proxy.asked == []


@pytest.mark.parametrize(
    ("settings", "assigned", "said", "advice"),
    [
        ({}, set(), "Identity not found", "system-assigned"),
        ({"client_id": azure.APP}, {azure.USER_ASSIGNED}, "Identity not found", "correct azure.client_id"),
        ({}, {"a", "b"}, "Multiple user assigned identities", "azure.client_id"),
    ],
)
async def test_an_unclear_identity_is_explained(
    settings: dict[str, Any],
    assigned: set[str],
    said: str,
    advice: str,
    cloud: azure.AzureCloud,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cloud.system, cloud.assigned = False, assigned
    async with machine(cloud, monkeypatch), identity(settings) as one:
        with pytest.raises(AzureRefused, match=said) as refused:
            await one.token(SCOPE)
    assert advice in refused.value.advice
    assert not refused.value.retryable


async def test_a_busy_metadata_service_is_asked_again(cloud: azure.AzureCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.faults = [
        lambda: web.Response(status=429),
        lambda: web.Response(status=503),
        lambda: web.Response(status=404),
    ]
    pauses = Pauses()
    async with machine(cloud, monkeypatch), identity({}, pauses=pauses) as one:
        assert await one.token(SCOPE)
    assert len(cloud.asked) == 4
    assert sum(pauses.taken) > 1


async def test_a_metadata_service_out_of_order_may_be_asked_later(
    cloud: azure.AzureCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.faults = [lambda: web.Response(status=500, text="no")] * 9
    async with machine(cloud, monkeypatch), identity({}) as one:
        with pytest.raises(NetworkError, match="status 500") as failed:
            await one.token(SCOPE)
    assert failed.value.retryable


async def test_no_metadata_service_means_not_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")
    async with identity({}) as one:
        with pytest.raises(NetworkError, match="cannot connect") as failed:
            await one.token(SCOPE)
    assert "auth: anonymous" in failed.value.advice
    assert "network policy" in failed.value.advice


@pytest.mark.parametrize("settings", [{}, {**PRINCIPAL, "client_secret": "s"}])
async def test_silence_is_bounded(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    authority = Authority()
    context = authority.server_context(tmp_path)
    async with azure.serve(silent) as plain, azure.serve(silent, context) as secure:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", plain)
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", secure)
        async with identity(settings, ca_file=authority.write(tmp_path / "ca.pem"), seconds=0.1) as one:
            with pytest.raises(NetworkError, match="no token within"):
                await one.token(SCOPE)


@pytest.mark.parametrize(
    "answer",
    ["[]", "{}", '{"access_token": "x"}', '{"access_token": "x", "expires_in": "soon", "resource": "r"}', "<html>",
     '{"access_token": "x", "expires_in": "60"}', "\ufffd"],
)  # fmt: skip
async def test_a_hostile_metadata_service_is_refused(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hostile(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=answer, content_type="application/json")

    async with azure.serve(hostile) as url, identity({}) as one:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
        with pytest.raises(SensorError):
            await one.token(SCOPE)


async def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=b" " * 100_000, content_type="application/json")

    async with azure.serve(endless) as url, identity({}) as one:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
        with pytest.raises(SensorError, match=r"larger than|no response"):
            await one.token(SCOPE)


async def test_a_service_principal_with_a_secret(
    cloud: azure.AzureCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**PRINCIPAL, "client_secret": azure.APP_SECRET}
    async with tenant(cloud, tmp_path, monkeypatch) as ca_file, identity(settings, ca_file=ca_file) as one:
        given = await one.token(SCOPE)
        assert given == await one.token(SCOPE)
        assert one.expires is None
    assert given.value.reveal() in cloud.issued
    assert len(cloud.asked) == 1
    assert cloud.asked[0]["client_secret"] == azure.APP_SECRET


async def test_a_service_principal_with_a_certificate_knows_its_end(
    cloud: azure.AzureCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem = azure.application_certificate()[0]
    async with (
        tenant(cloud, tmp_path, monkeypatch) as ca_file,
        identity({**PRINCIPAL, "certificate": pem}, ca_file=ca_file) as one,
    ):
        assert (await one.token(SCOPE)).value.reveal() in cloud.issued
        assert one.expires == azure.CERTIFICATE_ENDS.timestamp()


async def test_workload_identity_shows_the_pods_token(
    cloud: azure.AzureCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(azure.FEDERATED)
    async with tenant(cloud, tmp_path, monkeypatch) as ca_file:
        monkeypatch.setenv("AZURE_TENANT_ID", azure.TENANT)
        monkeypatch.setenv("AZURE_CLIENT_ID", azure.APP)
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
        async with identity({}, ca_file=ca_file) as one:
            assert one.way == "workload"
            assert (await one.token(SCOPE)).value.reveal() in cloud.issued
    assert cloud.asked[0]["client_assertion"] == azure.FEDERATED


async def test_an_unreadable_pod_token_is_told(
    cloud: azure.AzureCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant(cloud, tmp_path, monkeypatch) as ca_file:
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "none"))
        async with identity(PRINCIPAL, ca_file=ca_file) as one:
            with pytest.raises(SecretError, match="No such file") as failed:
                await one.token(SCOPE)
    assert "AZURE_FEDERATED_TOKEN_FILE" in failed.value.advice


async def test_the_configured_authority_wins(
    cloud: azure.AzureCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = azure.AzureCloud()
    authority = Authority()
    settings = {**PRINCIPAL, "client_secret": azure.APP_SECRET}
    async with (
        tenant(other, tmp_path, monkeypatch),
        azure.serve(cloud.entra, authority.server_context(tmp_path)) as url,
    ):
        ca_file = authority.write(tmp_path / "other.pem")
        async with identity({**settings, "authority": url}, ca_file=ca_file, authority="127.0.0.1:1") as one:
            await one.token(SCOPE)
        async with identity(settings, ca_file=ca_file, authority=url.removeprefix("https://")) as one:
            await one.token(SCOPE)
    assert (len(cloud.asked), len(other.asked)) == (2, 0)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AADSTS700016: Application with identifier 'x' was not found in the directory", "azure.client_id"),
        ("AADSTS7000215: Invalid client secret provided", "value, not its ID"),
        ("AADSTS7000222: The provided client secret keys are expired", "expired"),
        ("AADSTS700213: No matching federated identity record found", "system:serviceaccount"),
        ("AADSTS500011: The resource principal was not found in the tenant", "tenant"),
        ("AADSTS53003: Access has been blocked by Conditional Access policies", "Conditional Access"),
        ("AADSTS999999: Something new", "login.microsoftonline.com/error"),
    ],
)
async def test_entras_codes_are_passed_on_with_advice(
    code: str,
    advice: str,
    cloud: azure.AzureCloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cloud.error = ("invalid_client", code)
    async with (
        tenant(cloud, tmp_path, monkeypatch) as ca_file,
        identity({**PRINCIPAL, "client_secret": "s3cret-value"}, ca_file=ca_file) as one,
    ):
        with pytest.raises(AzureRefused) as refused:
            await one.token(SCOPE)
    assert code.partition(":")[0] in refused.value.message
    assert advice in refused.value.advice
    assert not [record for record in caplog.records if record.name.startswith("azure")]
    assert "Trace ID" not in refused.value.message
    assert "s3cret-value" not in f"{refused.value}{refused.value.__cause__}"


async def test_a_private_authority_must_be_named(
    cloud: azure.AzureCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant(cloud, tmp_path, monkeypatch), identity({**PRINCIPAL, "client_secret": azure.APP_SECRET}) as one:
        with pytest.raises(NetworkError, match="not trusted") as failed:
            await one.token(SCOPE)
    assert "ca_file" in failed.value.advice
    assert cloud.asked == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<html>log in</html>", "text/html"),
        ("[1]", "application/json"),
        ("null", "application/json"),
        ('{"access_token": "x", "expires_in": "soon"}', "application/json"),
        ("{", "application/json"),
    ],
)
async def test_something_else_instead_of_entra(
    text: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def portal(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=kind)

    authority = Authority()
    async with azure.serve(portal, authority.server_context(tmp_path)) as url:
        settings = {**PRINCIPAL, "client_secret": "s", "authority": url}
        async with identity(settings, ca_file=authority.write(tmp_path / "ca.pem")) as one:
            with pytest.raises(SensorError) as failed:
                await one.token(SCOPE)
    assert "azure.authority" in failed.value.advice
    assert not failed.value.retryable


@pytest.mark.parametrize(
    ("settings", "env", "says"),
    [
        ({"client_secret": "s", "client_id": "x"}, {}, "tenant_id is missing"),
        ({"client_secret": "s", "tenant_id": "x"}, {}, "client_id is missing"),
        ({"client_secret": "s", "tenant_id": "no tenant!", "client_id": "x"}, {}, "cannot be used"),
        ({**PRINCIPAL, "client_secret": "s", "authority": "http://entra.example"}, {}, "not an HTTPS URL"),
        ({**PRINCIPAL, "client_secret": "s"}, {"AZURE_AUTHORITY_HOST": "http://x"}, "not an HTTPS URL"),
        ({**PRINCIPAL, "certificate": "no certificate"}, {}, "certificate cannot be used"),
        ({"identity": "workload"}, {}, "AZURE_FEDERATED_TOKEN_FILE is missing"),
    ],
)
async def test_what_is_configured_wrongly(
    settings: dict[str, Any], env: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    async with identity(settings) as one:
        with pytest.raises(ConfigError, match=says) as wrong:
            await one.token(SCOPE)
    assert wrong.value.advice


async def test_a_rotated_secret_is_read_when_the_old_one_was_refused(
    cloud: azure.AzureCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "secret"
    stored.write_text("old")
    settings = {**PRINCIPAL, "client_secret": FromFile(str(stored))}
    async with tenant(cloud, tmp_path, monkeypatch) as ca_file, identity(settings, ca_file=ca_file) as one:
        with pytest.raises(AzureRefused):
            await one.token(SCOPE)
        stored.write_text(azure.APP_SECRET)
        first = await one.token(SCOPE, renew=True)
        second = await one.token(SCOPE, renew=True)
    assert first != second
    assert [form["client_secret"] for form in cloud.asked] == ["old", azure.APP_SECRET, azure.APP_SECRET]


async def test_a_missing_secret_is_no_refusal(tmp_path: Path) -> None:
    async with identity({**PRINCIPAL, "client_secret": FromFile(str(tmp_path / "none"))}) as one:
        with pytest.raises(SecretError) as missing:
            await one.token(SCOPE)
    assert not isinstance(missing.value, AzureRefused)


async def test_many_at_once_ask_once(cloud: azure.AzureCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine(cloud, monkeypatch), identity({}) as one:
        given = await asyncio.gather(*(one.token(SCOPE) for _ in range(20)))
    assert len(set(given)) == len(cloud.asked) == 1
