"""Streaming blobs through redirects, broken connections and storages of all characters."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from sensor.errors import DataError, NetworkError
from sensor.model.manifest import Descriptor
from sensor.registry.blobs import stream_blob
from sensor.registry.client import RegistryClient
from sensor.registry.errors import RegistryForbidden, RegistryNotFound, RegistryUnavailable, UnexpectedAnswer
from tests.fakes.certificates import Authority
from tests.fakes.proxy import FakeProxy
from tests.fakes.registry import Behaviour, FakeRegistry
from tests.registry.conftest import Connect, Images, Pauses

KNOWN = {"username": "sensor", "password": "secret"}


async def read(client: RegistryClient, images: Images, *, size: int | None = None) -> bytes:
    descriptor = Descriptor(digest=images.app.layers[0], size=len(images.blob) if size is None else size)
    return b"".join([chunk async for chunk in client.blob("team/app", descriptor)])


@pytest.mark.parametrize("ranges", ["honoured", "ignored", "refused"])
@pytest.mark.parametrize("redirect", ["none", "storage"])
async def test_a_broken_connection_is_resumed_at_the_next_byte(
    images: Images, connect: Connect, ranges: str, redirect: str
) -> None:
    behaviour = Behaviour(break_after=300_000, breaks=1, ranges=ranges, redirect=redirect)  # type: ignore[arg-type]
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        assert await read(client, images) == images.blob
        kind = "storage" if redirect == "storage" else "blob"
        ranges_asked = [seen.range for seen in fake.seen if seen.kind == kind]
        assert ranges_asked[0] == ""
        assert ranges_asked[1].startswith("bytes=")
        assert len(ranges_asked) == (3 if ranges == "refused" else 2)


async def test_many_breaks_are_survived_as_long_as_bytes_come(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(break_after=50_000, redirect="storage")
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        assert await read(client, images) == images.blob
        assert fake.count("storage") > 8


async def test_a_blob_that_never_advances_is_given_up(images: Images, connect: Connect, pauses: Pauses) -> None:
    behaviour = Behaviour(break_after=1_000, ranges="ignored")
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        with pytest.raises(NetworkError, match="broke"):
            await read(client, images)
        assert fake.count("blob") <= 8
        assert len(pauses.taken) == fake.count("blob") - 1


async def test_a_range_that_was_not_asked_for_is_an_error(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(break_after=1_000, breaks=1, ranges="shifted")
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        with pytest.raises(DataError, match="got another range"):
            await read(client, images)


async def test_a_blob_of_another_size_is_an_error(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        with pytest.raises(DataError, match="its manifest says 5 bytes"):
            await read(client, images, size=5)
        fake.behaviour.blob_size = "longer"
        with pytest.raises(DataError, match="longer"):
            await read(client, images)
        fake.behaviour.blob_size = "shorter"
        with pytest.raises(DataError, match="shorter"):
            await read(client, images)


async def test_an_expired_signature_is_asked_for_anew(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(redirect="storage", storage_expires_after=2)
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        assert await read(client, images) == images.blob
        assert fake.count("blob") == 3
        fake.behaviour.storage_expires_after = 100
        with pytest.raises(RegistryForbidden, match=r"/storage/.*endpoint policy"):
            await read(client, images)


async def test_a_storage_that_cannot_be_reached_is_named_as_such(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        fake.behaviour.redirect = "storage"
        fake.behaviour.location = "http://127.0.0.1:1/blob"
        with pytest.raises(NetworkError) as away:
            await read(client, images)
    assert away.value.advice.startswith(
        "the registry keeps image data at 127.0.0.1:1: let this machine reach that host"
    )


async def test_no_credential_crosses_to_the_storage(images: Images, connect: Connect) -> None:
    for auth in ("basic", "bearer"):
        behaviour = Behaviour(auth=auth, redirect="storage")  # type: ignore[arg-type]
        async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url, **KNOWN) as client:
            assert await read(client, images) == images.blob
            assert [seen.authorization for seen in fake.seen if seen.kind == "storage"] == [""]
            assert all(seen.authorization for seen in fake.seen if seen.kind == "blob" and seen is fake.seen[-2])


async def test_the_credential_stays_on_a_redirect_within_the_origin(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(auth="basic", redirect="same")
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url, **KNOWN) as client:
        assert await read(client, images) == images.blob
        assert fake.seen[-1].authorization.startswith("Basic ")


@pytest.mark.parametrize("redirect", ["loop", "endless"])
async def test_endless_redirects_are_cut(images: Images, connect: Connect, redirect: str) -> None:
    async with FakeRegistry(images.store.root, Behaviour(redirect=redirect)) as fake, connect(fake.url) as client:  # type: ignore[arg-type]
        with pytest.raises(UnexpectedAnswer, match="more than 5 redirects"):
            await read(client, images)
        assert fake.count("blob", "storage") == 6


async def test_a_redirect_to_the_metadata_service_is_refused(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(redirect="metadata")) as fake, connect(fake.url) as client:
        with pytest.raises(UnexpectedAnswer, match="metadata address"):
            await read(client, images)


async def test_a_public_registry_must_not_lead_to_this_machine_nor_out_in_plain_http(
    images: Images, connect: Connect, tmp_path: Path
) -> None:
    authority = Authority(names=("registry.example",))
    ca_file = authority.write(tmp_path / "ca.pem")
    context = authority.server_context(tmp_path)
    async with FakeRegistry(images.store.root, Behaviour(redirect="storage"), ssl_context=context) as fake:
        async with (
            FakeProxy(hosts={"registry.example:443": fake.host}) as proxy,
            connect("https://registry.example", ca_file=ca_file, proxy=proxy.url) as client,
        ):
            with pytest.raises(UnexpectedAnswer, match="an address of this machine"):
                await read(client, images)
            fake.behaviour.location = "http://storage.example/blob"
            with pytest.raises(UnexpectedAnswer, match="plain HTTP"):
                await read(client, images)
            fake.behaviour.location = ""
            assert (await client.manifest("team/app", "v1")).digest == images.app.digest
        assert fake.count("storage") == 0


async def test_a_certificate_that_is_not_trusted_is_not_tried_again(
    images: Images, connect: Connect, tmp_path: Path
) -> None:
    ours, other = Authority(), Authority("Other")
    ca_file = ours.write(tmp_path / "ca.pem")
    async with (
        FakeRegistry(images.store.root, ssl_context=ours.server_context(tmp_path)) as fake,
        FakeRegistry(images.store.root, ssl_context=other.server_context(tmp_path)) as storage,
        connect(f"https://{fake.host}", ca_file=ca_file) as client,
    ):
        fake.behaviour.redirect = "storage"
        fake.behaviour.location = f"{storage.url}/blob"
        with pytest.raises(NetworkError, match="issued by Other"):
            await read(client, images)
        assert fake.count("blob") == 1


async def test_a_blob_in_a_thousand_pieces_is_given_up(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(break_after=10_000)) as fake, connect(fake.url) as client:
        url = await client.session.url(f"/v2/team/app/blobs/{images.app.layers[0]}")
        with pytest.raises(NetworkError, match="broke off 3 times"):
            async for _ in stream_blob(client.session, url, "", len(images.blob), most_resumes=3):
                pass


async def test_failures_before_the_body_are_repeated_or_told(images: Images, connect: Connect) -> None:
    behaviour = Behaviour(fail={"blob": [500, 503, 429]}, retry_after="1")
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        assert await read(client, images) == images.blob
        fake.behaviour.fail = {"blob": [500] * 9}
        with pytest.raises(RegistryUnavailable):
            await read(client, images)
        fake.behaviour.fail = {"blob": [404]}
        with pytest.raises(RegistryNotFound):
            await read(client, images)


async def test_an_empty_blob_is_read(images: Images, connect: Connect) -> None:
    empty = images.store.blob(b"")
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        assert [chunk async for chunk in client.blob("team/app", Descriptor(digest=empty, size=0))] == []


async def test_a_reader_may_leave_early(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        descriptor = Descriptor(digest=images.app.layers[0], size=len(images.blob))
        async with contextlib.aclosing(client.blob("team/app", descriptor)) as chunks:
            first = await anext(chunks)
        assert images.blob.startswith(first)
        assert await read(client, images) == images.blob


async def test_what_the_reader_raises_is_not_taken_for_a_network_error(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        descriptor = Descriptor(digest=images.app.layers[0], size=len(images.blob))
        with pytest.raises(OSError, match="disk full"):  # noqa: PT012
            async with contextlib.aclosing(client.blob("team/app", descriptor)) as chunks:
                async for _ in chunks:
                    raise OSError("disk full")
