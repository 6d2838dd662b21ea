"""Schemes, and logging in over the wire."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import ConfigError, NetworkError
from sensor.registry.client import RegistryClient
from sensor.registry.errors import RegistryForbidden, RegistryUnauthorized, UnexpectedAnswer
from sensor.registry.login import Basic, Credential
from sensor.registry.session import Session
from sensor.registry.terms import Terms, parse_address
from sensor.secret import Secret
from sensor.transport import Transport
from tests.fakes.certificates import Authority
from tests.fakes.registry import Behaviour, FakeRegistry
from tests.registry.conftest import Connect, Images

KNOWN = {"username": "sensor", "password": "secret"}


async def test_plain_http_must_be_allowed(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake:
        with pytest.raises(ConfigError, match="plain HTTP"):
            async with connect(fake.url, insecure=False):
                pass
        assert fake.count() == 0


async def test_without_a_scheme_https_is_tried_first(images: Images, connect: Connect, tmp_path: Path) -> None:
    authority = Authority()
    ca_file = authority.write(tmp_path / "ca.pem")
    async with (
        FakeRegistry(images.store.root, ssl_context=authority.server_context(tmp_path)) as fake,
        connect(fake.host, ca_file=ca_file) as client,
    ):
        assert (await client.ping()).scheme == "https"
        assert (await client.manifest("team/app", "v1")).digest == images.app.digest


async def test_http_is_spoken_only_to_an_insecure_registry_that_knows_no_tls(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake:
        async with connect(fake.host, insecure=False) as client:
            with pytest.raises(NetworkError, match="does not speak TLS"):
                await client.ping()
        assert fake.count() == 0
        async with connect(fake.host) as client:
            assert (await client.ping()).scheme == "http"
            assert (await client.ping()).scheme == "http"
        async with connect(f"https://{fake.host}") as client:
            with pytest.raises(NetworkError, match="does not speak TLS"):
                await client.ping()


async def test_an_untrusted_certificate_is_no_reason_to_speak_http(
    images: Images, connect: Connect, tmp_path: Path
) -> None:
    context = Authority("Somebody CA").server_context(tmp_path)
    async with FakeRegistry(images.store.root, ssl_context=context) as fake:
        async with connect(fake.host) as client:
            with pytest.raises(NetworkError, match=r"issued by Somebody CA, Example Org"):
                await client.ping()
        assert fake.count() == 0


async def test_after_https_has_worked_http_is_never_spoken(images: Images, connect: Connect, tmp_path: Path) -> None:
    authority = Authority()
    ca_file = authority.write(tmp_path / "ca.pem")
    async with FakeRegistry(images.store.root, ssl_context=authority.server_context(tmp_path)) as fake:
        host, port = fake.host, int(fake.host.rpartition(":")[2])
        client_context = connect(host, ca_file=ca_file)
        client = await client_context.__aenter__()
        assert (await client.ping()).scheme == "https"
    seen: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(64))
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", port)
    async with server:
        with pytest.raises(NetworkError, match="does not speak TLS"):
            await client.ping()
    await client_context.__aexit__(None, None, None)
    assert seen
    assert not any(data.startswith(b"GET") for data in seen)


# -- logging in over the wire ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["basic", "bearer", "both"])
async def test_logs_in(images: Images, connect: Connect, auth: str) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth=auth)) as fake, connect(fake.url, **KNOWN) as client:  # type: ignore[arg-type]
        assert (await client.ping()).authenticated
        assert len((await client.repositories()).names) == 4
        assert (await client.head("team/app", "v1")).digest == images.app.digest


async def test_the_challenge_may_be_in_capitals(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(auth="basic", scheme_word="BASIC")
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url, **KNOWN) as client:
        assert (await client.ping()).authenticated


async def test_many_requests_at_once_share_one_token(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="bearer")) as fake, connect(fake.url, **KNOWN) as client:
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(client.head("team/app", "v1"))
        assert fake.counts() == {"base": 1, "token": 1, "head": 10}


async def test_an_expired_token_is_renewed_without_anyone_noticing(images: Images, connect: Connect) -> None:
    now = [0.0]
    behaviour = Behaviour(auth="bearer", token_life=300)
    async with (
        FakeRegistry(images.store.root, behaviour, clock=lambda: now[0]) as fake,
        connect(fake.url, **KNOWN) as client,
    ):
        await client.head("team/app", "v1")
        now[0] = 1000.0  # the registry's clock only: to the client the token looks fresh
        assert (await client.head("team/app", "v1")).digest == images.app.digest
        assert fake.count("token") == 2


async def test_a_repository_out_of_reach_is_forbidden_and_the_others_are_not(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(auth="bearer", forbidden=("team/other",))
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url, **KNOWN) as client:
        with pytest.raises(RegistryForbidden, match="repository:team/other:pull"):
            await client.tags("team/other")
        assert (await client.tags("team/app")).names
        assert fake.count("token") == 2


async def test_anonymous_clients_read_what_is_public(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(auth="bearer", anonymous=("team/app",))
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        assert (await client.head("team/app", "v1")).digest == images.app.digest
        with pytest.raises(RegistryUnauthorized, match=r"^reachable but unauthenticated"):
            await client.head("team/other", "v1")


async def test_a_realm_elsewhere_gets_no_secret(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(auth="both", realm="http://token.evil.invalid/token")
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url, **KNOWN) as client:
        assert (await client.head("team/app", "v1")).digest == images.app.digest  # Basic, at home
        assert fake.seen[-1].authorization.startswith("Basic ")


async def test_a_static_token_is_sent(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(auth="bearer", static_token="abc")
    async with FakeRegistry(images.store.root, behaviour) as fake:
        async with connect(fake.url, token="abc") as client:
            assert (await client.ping()).authenticated
            assert len((await client.repositories()).names) == 4
        async with connect(fake.url, token="wrong") as client:
            assert (await client.ping()).detail.startswith("authentication failed")
        assert fake.count("token") == 0


async def test_a_403_that_means_expired_renews_the_login(
    images: Images, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    behaviour = Behaviour(auth="basic")
    async with (
        FakeRegistry(images.store.root, behaviour) as fake,
        connect(
            fake.url,
            username="sensor",
            password={"file": str(secret)},
            expired=lambda answer: b"token has expired" in answer.body,
        ) as client,
    ):
        await client.head("team/app", "v1")
        secret.write_text("rotated")
        behaviour.users["sensor"] = "rotated"
        assert (await client.tags("team/app")).names  # refused once, read anew, sent again
        secret.write_text("again")
        behaviour.users = {"sensor": "again"}
        behaviour.expired_word = False
        assert (await client.manifest("team/app", "v1")).digest == images.app.digest


class Numbered:
    """Passwords as a cloud makes them: another one each time that it is asked to renew."""

    def __init__(self) -> None:
        self.made = 1

    async def credential(self, *, renew: bool) -> Credential | None:
        made = self.made = self.made + renew
        await asyncio.sleep(0)
        return Basic(username="sensor", password=Secret(f"password-{made}"))


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_many_requests_that_are_refused_at_once_renew_the_credential_once(images: Images, auth: Any) -> None:
    now = [0.0]
    behaviour = Behaviour(auth=auth, users={"sensor": "password-1"}, token_life=300)
    async with FakeRegistry(images.store.root, behaviour, clock=lambda: now[0]) as fake:
        source = Numbered()
        session = Session(parse_address(fake.url), Transport(), source, terms=Terms(insecure=True))
        client = RegistryClient(session)
        try:
            await client.head("team/app", "v1")
            behaviour.users["sensor"] = "password-2"
            now[0] += 301
            heads = await asyncio.gather(*(client.head("team/app", "v1") for _ in range(30)))
        finally:
            await client.close()
    assert {head.digest for head in heads} == {images.app.digest}
    assert source.made == 2


async def test_no_error_is_its_own_cause(images: Images, connect: Connect) -> None:
    async with (
        FakeRegistry(images.store.root, Behaviour(auth="basic")) as fake,
        connect(fake.url, username="sensor", password="wrong") as client,
    ):
        with pytest.raises(RegistryUnauthorized) as refused:
            await client.manifest("team/app", "v1")
        assert refused.value.__cause__ is not refused.value


async def test_a_registry_that_redirects_its_base_elsewhere_is_told(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(fail={"base": [301]})) as fake, connect(fake.url) as client:
        with pytest.raises(UnexpectedAnswer, match="301"):
            await client.ping()
