"""Our client against a real registry: Debian's docker-registry, filled by skopeo."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sensor.config.schema import Http, Registry
from sensor.errors import NetworkError
from sensor.model.manifest import DOCKER_MANIFEST, OCI_INDEX, Index, Manifest
from sensor.registry.errors import (
    CannotEnumerate,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
)
from sensor.registry.kinds import open_registry
from sensor.registry.port import Registry as Port
from sensor.secret import InPlace, Secret
from sensor.tls import ClientRefused
from tests.fakes.docker_registry import DockerRegistry
from tests.fakes.images import Built, ImageStore
from tests.fakes.layers import digest_of, directory, file, layer

pytestmark = pytest.mark.real_registry


@contextlib.asynccontextmanager
async def client(
    registry: DockerRegistry, *, password: str | None = None, url: str = "", **more: object
) -> AsyncIterator[Port]:
    """Our client, configured as for this registry."""
    settings = {
        "name": "real",
        "url": url or registry.url,
        "insecure": not registry.tls,
        "ca_file": registry.ca_file,
        **more,
    }
    if settings.setdefault("username", registry.username):
        settings["password"] = InPlace(Secret(registry.password if password is None else password))
    opened = open_registry(Registry.model_validate(settings), Http())
    try:
        yield opened
    finally:
        await opened.close()


class Images:
    """What is pushed into every registry here."""

    def __init__(self, root: Path) -> None:
        self.store = ImageStore(root)
        self.blobs = [
            layer(directory("etc"), file("etc/os-release", b"ID=debian\nVERSION_ID=12\n")),
            layer(file("usr/share/big", bytes(range(256)) * 8192), compression="zstd"),
        ]
        self.app: Built = self.store.manifest(self.blobs)
        self.store.tag(self.app, "", "app", annotation="org.opencontainers.image.ref.name")
        arm = self.store.manifest(self.blobs[:1], platform="linux/arm64")
        self.multi: Built = self.store.index({"linux/amd64": self.app, "linux/arm64": arm})
        self.store.tag(self.multi, "", "multi", annotation="org.opencontainers.image.ref.name")

    def push(self, registry: DockerRegistry) -> None:
        registry.push(self.store.root, "app", "team/app", "v1")
        registry.push(self.store.root, "app", "team/app", "latest")
        registry.push(self.store.root, "multi", "public/multi", "v2")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return Images(tmp_path_factory.mktemp("layout"))


@pytest.fixture(scope="module", params=["none", "htpasswd", "token", "tls"])
def registry(
    request: pytest.FixtureRequest, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerRegistry]:
    auth = {"tls": "htpasswd"}.get(request.param, request.param)
    directory = tmp_path_factory.mktemp("registry")
    with DockerRegistry(directory, auth=auth, tls=request.param == "tls") as running:
        images.push(running)
        yield running


async def test_everything_that_was_pushed_is_found_and_read(registry: DockerRegistry, images: Images) -> None:
    async with client(registry) as opened:
        ping = await opened.ping()
        assert ping.reachable
        assert ping.authenticated
        assert ping.latency_ms > 0
        assert ping.scheme == registry.url.partition(":")[0]

        assert sorted((await opened.repositories()).names) == ["public/multi", "team/app"]
        assert sorted((await opened.tags("team/app")).names) == ["latest", "v1"]
        head = await opened.head("team/app", "v1")
        assert head.digest == images.app.digest
        assert head.size == len(images.app.data)

        fetched = await opened.manifest("team/app", "v1")
        assert fetched.data == images.app.data
        assert isinstance(fetched.document, Manifest)
        config = await opened.config("team/app", fetched.document.config)
        assert str(config.platform) == "linux/amd64"
        for expected, descriptor in zip(images.blobs, fetched.document.layers, strict=True):
            data = b"".join([chunk async for chunk in opened.blob("team/app", descriptor)])
            assert digest_of(data) == descriptor.digest
            assert data == expected

        index = await opened.manifest("public/multi", images.multi.digest)
        assert index.media_type == OCI_INDEX
        assert isinstance(index.document, Index)
        assert len(index.document.manifests) == 2


async def test_a_missing_tag_and_a_missing_repository_are_not_found(registry: DockerRegistry) -> None:
    async with client(registry) as opened:
        with pytest.raises(RegistryNotFound):
            await opened.head("team/app", "nosuch")
        with pytest.raises(RegistryNotFound):
            await opened.manifest("team/app", "nosuch")
        with pytest.raises(RegistryNotFound):
            await opened.tags("no/such")


async def test_a_wrong_password_is_told_in_the_promised_words(registry: DockerRegistry) -> None:
    if registry.auth == "none":
        async with client(registry, username="x", password="y") as opened:  # nobody asks for it
            assert (await opened.ping()).detail == "answers without a login"
        return
    async with client(registry, password="wrong") as opened:
        ping = await opened.ping()
        assert (ping.reachable, ping.authenticated) == (True, False)
        assert ping.detail.startswith("authentication failed")
        with pytest.raises((RegistryUnauthorized, CannotEnumerate), match="authentication failed"):
            await opened.repositories()
        with pytest.raises(RegistryUnauthorized):
            await opened.head("team/app", "v1")


async def test_without_a_credential_it_is_reachable_but_unauthenticated(registry: DockerRegistry) -> None:
    if registry.auth == "none":
        async with client(registry) as opened:
            assert (await opened.ping()).authenticated
        return
    async with client(registry, username="") as opened:
        if registry.auth == "token":  # the issuer gives anonymous clients a token
            assert (await opened.head("public/multi", "v2")).media_type == OCI_INDEX
        else:
            ping = await opened.ping()
            assert ping.detail.startswith("reachable but unauthenticated")
        with pytest.raises(RegistryUnauthorized, match="reachable but unauthenticated"):
            await opened.head("team/app", "v1")


async def test_a_deleted_manifest_takes_its_tags_along_and_leaves_an_empty_repository(
    tmp_path: Path, images: Images
) -> None:
    with DockerRegistry(tmp_path) as running:
        images.push(running)
        running.delete("team/app", images.app.digest)
        async with client(running) as opened:
            assert sorted((await opened.repositories()).names) == ["public/multi", "team/app"]
            assert list((await opened.tags("team/app")).names) == []
            for target in ("v1", images.app.digest):
                with pytest.raises(RegistryNotFound):
                    await opened.head("team/app", target)
            assert (await opened.head("public/multi", images.app.digest)).digest == images.app.digest


async def test_the_catalogue_is_paged(tmp_path: Path, images: Images) -> None:
    with DockerRegistry(tmp_path, maxentries=2) as registry:
        for n in range(5):
            registry.push(images.store.root, "app", f"app{n}", "v1")
        async with client(registry) as opened:
            assert (await opened.repositories()).names == tuple(f"app{n}" for n in range(5))


async def test_a_token_is_fetched_once_for_each_repository_and_renewed_when_old(tmp_path: Path, images: Images) -> None:
    with DockerRegistry(tmp_path, auth="token") as registry:
        images.push(registry)
        assert registry.issuer is not None
        registry.issuer.issued.clear()
        async with client(registry) as opened:
            for _ in range(3):
                await opened.head("team/app", "v1")
                await opened.tags("team/app")
            assert registry.issuer.issued == ["repository:team/app:pull"]
            registry.issuer.denied.add("public/multi")
            with pytest.raises(RegistryForbidden, match="repository:public/multi:pull"):
                await opened.head("public/multi", "v2")
            registry.issuer.catalog = False
            with pytest.raises(CannotEnumerate):
                await opened.repositories()


async def test_tls_without_the_authority_names_the_issuer(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path, tls=True) as registry:
        async with client(registry, ca_file="") as opened:
            with pytest.raises(NetworkError, match="issued by Test Registry CA") as raised:
                await opened.ping()
            assert not raised.value.retryable
            assert "ca_file" in raised.value.advice


async def test_a_host_without_scheme_is_https_first_and_http_only_when_allowed(tmp_path: Path) -> None:
    with DockerRegistry(tmp_path / "plain") as plain, DockerRegistry(tmp_path / "tls", tls=True) as tls:
        async with client(plain, url=plain.host, insecure=True) as opened:
            assert (await opened.ping()).scheme == "http"
        async with client(plain, url=plain.host, insecure=False) as opened:
            with pytest.raises(NetworkError, match="does not speak TLS"):
                await opened.ping()
        async with client(tls, url=tls.host, insecure=True) as opened:
            assert (await opened.ping()).scheme == "https"
        async with client(tls, url=f"http://{tls.host}", insecure=True) as opened:
            with pytest.raises(Exception, match="speaks TLS"):
                await opened.ping()


async def test_docker_media_types_keep_their_digest(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "layout")
    built = store.image("old", "v1", [layer(file("a", b"b"))], docker=True)
    from sensor.registry.serve import serve

    with DockerRegistry(tmp_path / "registry") as registry:
        async with serve(store.root) as url:
            import asyncio

            done = await asyncio.create_subprocess_exec(
                "skopeo", "--insecure-policy", "copy", "--preserve-digests", "--src-tls-verify=false",
                "--dest-tls-verify=false", f"docker://{url.removeprefix('http://')}/old:v1",
                f"docker://{registry.host}/old:v1", stdout=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            assert await done.wait() == 0
        async with client(registry) as opened:
            fetched = await opened.manifest("old", "v1")
            assert (fetched.digest, fetched.media_type) == (built.digest, DOCKER_MANIFEST)
            assert (await opened.head("old", "v1")).digest == built.digest


async def test_a_registry_that_wants_a_client_certificate(images: Images, tmp_path: Path) -> None:
    with DockerRegistry(tmp_path, tls=True, mutual=True) as registry:
        images.push(registry)
        certificate, key = registry.client
        async with client(registry, client_certificate=certificate, client_key=key) as opened:
            assert (await opened.head("team/app", "v1")).digest == images.app.digest
        async with client(registry) as opened:
            with pytest.raises(ClientRefused, match="does not accept us") as raised:
                await opened.head("team/app", "v1")
            assert "client_certificate" in raised.value.advice
