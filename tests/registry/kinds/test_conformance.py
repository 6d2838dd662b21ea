"""Every kind of registry over HTTP against its provider's fake: one suite, no exceptions.

What a way of logging in cannot do is declared by the fake (`lists`, `pulls`); there the expected denial, with advice, is the pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sensor.config.schema import Http
from sensor.errors import RegistryError, SensorError
from sensor.model.manifest import Manifest
from sensor.registry.errors import CannotEnumerate, RegistryRateLimited
from sensor.registry.kinds import KINDS, detect, find_kind, open_registry
from sensor.registry.port import Registry
from sensor.transport import Retry
from tests.fakes.registries import FAKES
from tests.fakes.registries.provider import TAGS, Login, Mistake, ProviderFake

ON_DISK = {"layout", "archive"}
QUICK = Retry(attempts=5, first=0.001, most=0.01)
ONCE = Retry(attempts=1)


def pairs(what: str) -> list[object]:
    """Every fake with every one of its logins or mistakes; their settings need a running fake, so they are named by number."""
    return [
        pytest.param(fake, index, id=f"{fake.kind}-{name.replace(' ', '_')}")
        for fake in FAKES
        for index, name in enumerate(getattr(fake, f"{what}_names"))
    ]


each_fake = pytest.mark.parametrize("fake_type", FAKES, ids=lambda fake: fake.kind)


@contextlib.asynccontextmanager
async def opened(
    fake: ProviderFake, login: Login | Mistake | None, monkeypatch: pytest.MonkeyPatch, retry: Retry = QUICK
) -> AsyncIterator[Registry]:
    """A registry, logged in one way."""
    chosen = fake.logins[0] if login is None else login
    for name, value in chosen.env.items():
        monkeypatch.setenv(name, value)
    registry = open_registry(fake.settings(chosen), Http(), retry=retry)
    try:
        yield registry
    finally:
        await registry.close()


async def read_image(registry: Registry, repository: str, tag: str) -> bytes:
    """Pull one image: its manifest, configuration and layer."""
    fetched = await registry.manifest(repository, tag)
    assert isinstance(fetched.document, Manifest)
    assert (await registry.config(repository, fetched.document.config)).os == "linux"
    return b"".join([chunk async for chunk in registry.blob(repository, fetched.document.layers[0])])


def test_every_kind_over_http_has_a_fake() -> None:
    assert {kind.name for kind in KINDS} - ON_DISK == {fake.kind for fake in FAKES}


@each_fake
def test_is_detected_by_its_addresses_and_by_no_others(fake_type: type[ProviderFake]) -> None:
    for url, facts in fake_type.detected.items():
        kind, found = detect(url)
        assert kind.name == fake_type.kind, url
        assert found.reason
        assert {key: found.facts.get(key) for key in facts} == dict(facts)
    for url in fake_type.undetected:
        assert detect(url)[0].name != fake_type.kind, url


@pytest.mark.parametrize(("fake_type", "index"), pairs("login"))
async def test_logs_in_lists_and_pulls(
    fake_type: type[ProviderFake], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        login = fake.logins[index]
        assert tuple(one.name for one in fake.logins) == fake_type.login_names
        async with opened(fake, login, monkeypatch) as registry:
            ping = await registry.ping()
            assert ping.reachable
            if not login.anonymous:
                assert ping.authenticated, ping.detail
                assert re.search(login.identity, (await registry.standing()).identity)
                assert re.search(login.method, (await registry.method()).name)
            await _lists(registry, fake, login)
            repository = fake.public[0] if login.anonymous else fake.names[0]
            if login.pulls:
                image = fake.images[repository]["v1"]
                assert (await registry.head(repository, "v1")).digest == image.digest
                assert (await registry.manifest(repository, image.digest)).data == image.data
                assert fake.store.read(image.layers[0]) == await read_image(registry, repository, "v1")
            else:
                with pytest.raises(RegistryError) as refused:
                    await read_image(registry, repository, "v1")
                assert re.search(login.advice, refused.value.advice), refused.value
            assert find_kind(fake.settings(login)).name == fake.kind


async def _lists(registry: Registry, fake: ProviderFake, login: Login) -> None:
    if not login.lists:
        with pytest.raises(RegistryError) as refused:
            await registry.repositories()
        assert refused.value.advice
        assert re.search(login.advice, str(refused.value)), refused.value
        return
    listing = await registry.repositories()
    wanted = fake.public if login.anonymous else fake.names
    assert set(wanted) <= set(listing.names)
    assert set(listing.names) <= set(fake.names)
    assert listing.complete, listing.reason
    assert listing.source
    repository = wanted[0]
    tags = await registry.tags(repository)
    assert sorted(tags.names) == sorted(fake.images[repository])
    assert tags.complete, tags.reason
    for tag, digest in tags.digests.items():
        assert digest == fake.images[repository][tag].digest
    for tag, pushed in tags.pushed.items():
        assert pushed == pytest.approx(fake.pushed(tag), abs=1.0)


@pytest.mark.parametrize(("fake_type", "index"), pairs("mistake"))
async def test_says_what_is_wrong_with_a_login(
    fake_type: type[ProviderFake], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        mistake = fake.mistakes[index]
        assert tuple(one.name for one in fake.mistakes) == fake_type.mistake_names
        said = await complaints(fake, mistake, monkeypatch)
        assert re.search(mistake.says, said), said


async def complaints(fake: ProviderFake, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything that a user is told about a login that cannot work; it must not work."""
    said = []
    async with opened(fake, mistake, monkeypatch, ONCE) as registry:
        try:
            ping = await registry.ping()
            said.extend((ping.detail, ping.advice))
            await read_image(registry, fake.names[0], "v1")
        except SensorError as error:
            said.append(str(error))
        else:
            pytest.fail("a wrong login could pull a private image")
        with contextlib.suppress(SensorError):  # a cloud's identity that cannot be had has no method either; said above
            said.append((await registry.method()).complaint)
    return "\n".join(said)


@each_fake
async def test_enumerates_three_pages_with_what_the_provider_tells(
    fake_type: type[ProviderFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake, opened(fake, None, monkeypatch) as registry:
        assert sorted((await registry.repositories()).names) == sorted(fake.names)
        tags = await registry.tags(fake.names[0])
        assert sorted(tags.names) == sorted(TAGS)
        if fake.tells_digests:
            assert tags.digests == {tag: image.digest for tag, image in fake.images[fake.names[0]].items()}
        if fake.tells_dates:
            assert set(tags.pushed) == set(TAGS)


@each_fake
async def test_a_login_that_expires_in_mid_pull_is_renewed(
    fake_type: type[ProviderFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake, opened(fake, None, monkeypatch) as registry:
        repository = fake.names[0]
        fetched = await registry.manifest(repository, "v1")
        assert isinstance(fetched.document, Manifest)
        fake.expire()
        await registry.config(repository, fetched.document.config)
        fake.expire()
        data = b"".join([chunk async for chunk in registry.blob(repository, fetched.document.layers[0])])
        assert data == fake.store.read(fetched.document.layers[0].digest)
        fake.expire()
        assert (await registry.tags(repository)).names


@each_fake
async def test_a_missing_right_is_named(
    fake_type: type[ProviderFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake, opened(fake, None, monkeypatch) as registry:
        await registry.ping()
        fake.forbidden.add(fake.names[0])
        with pytest.raises(RegistryError) as refused:
            await read_image(registry, fake.names[0], "v1")
        assert not refused.value.retryable
        assert re.search(fake.grant, refused.value.advice), refused.value
        assert await read_image(registry, fake.names[1], "v1")


@each_fake
async def test_a_throttled_registry_is_asked_again_and_a_stubborn_one_given_up(
    fake_type: type[ProviderFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        async with opened(fake, None, monkeypatch) as registry:
            await registry.ping()
            fake.throttled = 2
            assert (await registry.head(fake.names[0], "v1")).digest == fake.images[fake.names[0]]["v1"].digest
        async with opened(fake, None, monkeypatch, ONCE) as registry:
            await registry.ping()
            fake.throttled = 1000
            with pytest.raises(RegistryRateLimited):
                await registry.manifest(fake.names[0], "v1")


@each_fake
async def test_no_credential_follows_a_redirect_to_the_storage(
    fake_type: type[ProviderFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake, opened(fake, None, monkeypatch) as registry:
        fake.storage = True
        image = fake.images[fake.names[0]]["v1"]
        assert await read_image(registry, fake.names[0], "v1") == fake.store.read(image.layers[0])
        assert fake.count("storage") == 2
        assert not any(one.authorization for one in fake.seen if one.server == "storage")


@each_fake
async def test_something_that_is_not_there_is_not_found(
    fake_type: type[ProviderFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake, opened(fake, None, monkeypatch) as registry:
        with pytest.raises(RegistryError) as missing:
            await registry.head(fake.names[0], "nosuch")
        assert not missing.value.retryable
        assert not isinstance(missing.value, CannotEnumerate)


@pytest.mark.real_registry
@each_fake
async def test_skopeo_agrees_that_this_is_a_registry(fake_type: type[ProviderFake], tmp_path: Path) -> None:
    async with fake_type(tmp_path / "fake") as fake:
        auth = tmp_path / "auth.json"
        if fake.skopeo is not None:
            name, password = fake.skopeo
            login = ("login", "--tls-verify=false", f"--authfile={auth}", "--username", name, "--password-stdin")
            await skopeo(*login, fake.address(), stdin=password)
        else:
            auth.write_text("{}")
        place = f"docker://{fake.address()}/{fake.prefix}{fake.names[0]}"
        listed = await skopeo("list-tags", "--tls-verify=false", f"--authfile={auth}", place)
        assert all(f'"{tag}"' in listed for tag in TAGS)
        copied = tmp_path / "copied"
        await skopeo("copy", "--src-tls-verify=false", f"--src-authfile={auth}", f"{place}:v1", f"oci:{copied}:v1")
        digest = fake.images[fake.names[0]]["v1"].digest
        assert (copied / "blobs" / "sha256" / digest.removeprefix("sha256:")).is_file()


async def skopeo(*arguments: str, stdin: str = "") -> str:
    """Run skopeo; what it printed."""
    process = await asyncio.create_subprocess_exec(
        "skopeo", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate(stdin.encode())
    assert process.returncode == 0, err.decode()
    return out.decode()
