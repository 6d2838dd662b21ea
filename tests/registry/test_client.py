"""The client against a fake registry: the straight path, every way of failing, and what a request costs."""

from __future__ import annotations

import pytest

from sensor.errors import DataError, NetworkError
from sensor.limits import Limits
from sensor.model.digest import Digest
from sensor.model.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Manifest
from sensor.registry.errors import (
    CannotEnumerate,
    ImageWithheld,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnavailable,
    UnexpectedAnswer,
)
from sensor.registry.port import Listing, Standing
from sensor.registry.quirks import Quirks
from tests.fakes.images import OCI_CONFIG
from tests.fakes.registry import Behaviour, FakeRegistry
from tests.registry.conftest import Connect, Images, Pauses

KNOWN = {"username": "sensor", "password": "secret"}


async def test_a_whole_image_is_found_and_read(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        assert (await client.repositories()).names == ("charts/app", "multi", "team/app", "team/other")
        signature = images.app.digest.replace(":", "-") + ".sig"
        assert (await client.tags("team/app")).names == ("latest", signature, "v1")
        fetched = await client.manifest("team/app", "v1")
        assert (fetched.digest, fetched.media_type, fetched.data) == (images.app.digest, OCI_MANIFEST, images.app.data)
        assert isinstance(fetched.document, Manifest)
        config = await client.config("team/app", fetched.document.config)
        assert config.architecture == "amd64"
        read = b"".join([chunk async for chunk in client.blob("team/app", fetched.document.layers[0])])
        assert read == images.blob
        assert client.host == fake.host


async def test_an_unchanged_registry_costs_only_tag_and_digest_look_ups(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="bearer")) as fake, connect(fake.url, **KNOWN) as client:
        await client.tags("team/app")
        fake.forget()
        before = client.requests
        tags = await client.tags("team/app")
        for tag in tags.names:
            await client.head("team/app", tag)
        assert fake.counts() == {"tags": 1, "head": 3}
        assert client.requests - before == 4


async def test_all_four_manifest_types_are_asked_for_at_once(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        await client.head("team/app", "v1")
        await client.manifest("team/app", "v1")
        accepts = [seen.accept for seen in fake.seen if seen.kind == "manifest"]
        assert len(accepts) == 2
        for accept in accepts:
            assert accept.count("application/vnd.") == 4
            assert "*/*" not in accept


async def test_head_tells_digest_type_and_size(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        head = await client.head("multi", "v2")
        assert (head.digest, head.media_type, head.size) == (images.multi.digest, OCI_INDEX, len(images.multi.data))
        assert fake.counts()["head"] == 1
        assert "manifest" not in fake.counts()


@pytest.mark.parametrize("header", ["none", "nonsense"])
async def test_without_a_digest_header_the_manifest_is_fetched_and_hashed(
    images: Images, connect: Connect, header: str
) -> None:
    behaviour = Behaviour(digest_header=header)  # type: ignore[arg-type]
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        assert (await client.head("team/app", "v1")).digest == images.app.digest
        assert fake.counts()["manifest"] == 1


@pytest.mark.parametrize("status", [400, 405, 501])
async def test_a_registry_that_knows_no_head_is_asked_by_get(images: Images, connect: Connect, status: int) -> None:
    async with FakeRegistry(images.store.root, Behaviour(no_head=status)) as fake, connect(fake.url) as client:
        assert (await client.head("team/app", "v1")).digest == images.app.digest


async def test_head_by_digest_needs_no_header(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(digest_header="none")) as fake, connect(fake.url) as client:
        assert (await client.head("team/app", images.app.digest)).digest == images.app.digest
        assert fake.counts() == {"base": 1, "head": 1}


async def test_altered_bytes_are_refused_by_digest_and_by_tag(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(alter_manifest=True)) as fake, connect(fake.url) as client:
        with pytest.raises(DataError, match="hash to"):
            await client.manifest("team/app", images.app.digest)
        with pytest.raises(DataError, match="hash to"):
            await client.manifest("team/app", "v1")


async def test_a_wrong_digest_header_is_not_believed(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(digest_header="wrong")) as fake, connect(fake.url) as client:
        with pytest.raises(DataError, match="hash to"):
            await client.manifest("team/app", "v1")


async def test_schema_1_is_told_as_such_and_not_as_a_wrong_digest(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(schema1=True)) as fake, connect(fake.url) as client:
        with pytest.raises(DataError, match="schema 1"):
            await client.manifest("team/app", "v1")


async def test_an_oversize_manifest_is_cut_off(images: Images, connect: Connect) -> None:
    limits = Limits(manifest_bytes=2000)
    async with (
        FakeRegistry(images.store.root, Behaviour(oversize=3000)) as fake,
        connect(fake.url, limits=limits) as client,
    ):
        with pytest.raises(DataError, match="larger than 2000 bytes"):
            await client.manifest("team/app", "v1")


@pytest.mark.parametrize("claimed", [OCI_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"])
async def test_a_manifest_served_as_an_index_is_refused(images: Images, connect: Connect, claimed: str) -> None:
    async with FakeRegistry(images.store.root, Behaviour(manifest_type=claimed)) as fake, connect(fake.url) as client:
        with pytest.raises(DataError, match="CVE-2021-41190"):
            await client.manifest("team/app", "v1")


async def test_a_shapeless_content_type_leaves_the_word_to_the_document(images: Images, connect: Connect) -> None:
    async with (
        FakeRegistry(images.store.root, Behaviour(manifest_type="text/plain")) as fake,
        connect(fake.url) as client,
    ):
        assert (await client.manifest("team/app", "v1")).media_type == OCI_MANIFEST


async def test_an_index_without_a_media_type_is_served_as_told(images: Images, connect: Connect) -> None:
    untyped = images.store.index({"linux/amd64": images.app}, typed=False)
    images.store.tag(untyped, "untyped", "v1")
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        fetched = await client.manifest("untyped", "v1")
        assert fetched.media_type == OCI_INDEX
        assert isinstance(fetched.document, Index)
        fake.behaviour.manifest_type = OCI_MANIFEST
        with pytest.raises(DataError, match="CVE-2021-41190"):
            await client.manifest("untyped", "v1")


async def test_compressed_json_answers_are_inflated(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(gzip_answers=True)) as fake, connect(fake.url) as client:
        assert "team/app" in (await client.repositories()).names
        assert (await client.manifest("team/app", "v1")).data == images.app.data


async def test_a_config_must_hash_to_its_digest_and_stay_small(images: Images, connect: Connect) -> None:
    assert images.app.config is not None
    good = images.store.read(images.app.config)
    pointer = Descriptor(media_type=OCI_CONFIG, digest=images.app.config, size=len(good))
    async with FakeRegistry(images.store.root) as fake, connect(fake.url, limits=Limits(config_bytes=50)) as small:
        with pytest.raises(DataError, match="larger than"):
            await small.config("team/app", pointer)
    images.store.corrupt(images.app.config, good.replace(b"amd64", b"arm64"))
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        with pytest.raises(DataError, match="hash to"):
            await client.config("team/app", pointer)


@pytest.mark.parametrize("name", ["Team/App", "../escape", "a//b", "a/b?x=1", "", "a" * 300])
async def test_bad_repository_names_are_never_sent(images: Images, connect: Connect, name: str) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        for request in (client.tags(name), client.head(name, "v1"), client.manifest(name, "v1")):
            with pytest.raises(DataError, match="not a repository name"):
                await request
        assert fake.count("tags", "manifest") == 0


async def test_bad_targets_are_never_sent(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        for target in ("../x", "a b", "sha256:short", ""):
            with pytest.raises(DataError, match="neither a tag nor a digest"):
                await client.manifest("team/app", target)
        with pytest.raises(DataError, match="not a digest"):
            await anext(client.blob("team/app", Descriptor(digest=Digest("sha256:../../x"), size=1)))
        assert fake.count("manifest", "blob") == 0


# -- the provider's own API ---------------------------------------------------------------------------------------------


class OwnApi:
    """A provider's API that knows two repositories, or is closed to this credential."""

    def __init__(self, digest: Digest, *, closed: bool = False) -> None:
        self._digest = digest
        self._closed = closed

    def _check(self) -> None:
        if self._closed:
            raise CannotEnumerate("the API wants another right", "grant it")

    async def repositories(self) -> Listing:
        self._check()
        return Listing(names=("team/app", "other/app"), source="the API")

    async def tags(self, repository: str) -> Listing:
        self._check()
        return Listing(names=("t",), digests={"t": self._digest}, reason=repository, source="the API")

    async def standing(self) -> Standing:
        return Standing(identity="robot", may_write=False)


async def test_a_kind_may_list_by_its_own_api(images: Images, connect: Connect) -> None:
    async with (
        FakeRegistry(images.store.root) as fake,
        connect(fake.url, native=lambda _session: OwnApi(images.app.digest)) as client,
    ):
        assert (await client.repositories()).names == ("team/app", "other/app")
        assert (await client.tags("team/app")).digests == {"t": images.app.digest}
        assert (await client.standing()).identity == "robot"
        assert fake.count() == 0


async def test_the_protocols_listings_stand_in_for_an_api_that_is_closed(images: Images, connect: Connect) -> None:
    closed = OwnApi(images.app.digest, closed=True)
    async with FakeRegistry(images.store.root) as fake, connect(fake.url, native=lambda _session: closed) as client:
        listing = await client.repositories()
        assert (listing.source, "team/app" in listing.names) == ("_catalog", True)
        assert (await client.tags("team/app")).source == "tags/list"
    async with connect(fake.url, native=lambda _session: closed, quirks=Quirks(catalog=False)) as client:
        with pytest.raises(CannotEnumerate, match="another right"):
            await client.repositories()


async def test_the_catalogue_is_bounded_to_the_wanted_namespaces(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake:
        async with connect(fake.url, namespaces=("team",)) as client:
            assert set((await client.repositories()).names) == {"team/app", "team/other"}
        async with connect(fake.url, namespaces=("tea", "multi")) as client:
            assert (await client.repositories()).names == ("multi",)
        closed = OwnApi(images.app.digest, closed=True)
        async with connect(fake.url, native=lambda _session: closed, namespaces=("charts",)) as client:
            assert (await client.repositories()).names == ("charts/app",)


# -- errors ------------------------------------------------------------------------------------------------------------


async def test_not_found_names_the_request(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root) as fake, connect(fake.url) as client:
        with pytest.raises(
            RegistryNotFound, match=r"GET http://127.0.0.1:\d+/v2/team/app/manifests/nosuch: status 404"
        ):
            await client.manifest("team/app", "nosuch")
        with pytest.raises(RegistryNotFound, match="HEAD"):
            await client.head("team/app", "nosuch")
        with pytest.raises(RegistryNotFound, match="NAME_UNKNOWN"):
            await client.tags("no/such")
        images.store.remove(images.app.layers[0])
        with pytest.raises(RegistryNotFound, match="BLOB_UNKNOWN"):
            await anext(client.blob("team/app", Descriptor(digest=images.app.layers[0], size=1)))


async def test_forbidden_and_policy_blocks_say_so(images: Images, connect: Connect) -> None:
    async with (
        FakeRegistry(images.store.root, Behaviour(fail={"manifest": [403, 412]})) as fake,
        connect(fake.url) as client,
    ):
        with pytest.raises(RegistryForbidden, match="403"):
            await client.manifest("team/app", "v1")
        with pytest.raises(ImageWithheld, match="412") as raised:
            await client.manifest("team/app", "v1")
        assert "policy" in raised.value.advice


@pytest.mark.parametrize("kind", ["catalog", "tags", "manifest"])
async def test_a_web_page_is_not_a_registry(images: Images, connect: Connect, kind: str) -> None:
    async with FakeRegistry(images.store.root, Behaviour(html=kind)) as fake, connect(fake.url) as client:  # type: ignore[arg-type]
        request = {
            "catalog": client.repositories,
            "tags": lambda: client.tags("team/app"),
            "manifest": lambda: client.manifest("team/app", "v1"),
        }[kind]
        with pytest.raises(NotARegistry, match="web page"):
            await request()


async def test_server_errors_are_repeated_and_then_told(images: Images, connect: Connect, pauses: Pauses) -> None:
    behaviour = Behaviour(fail={"tags": [500, 502, 0, 0]})
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        assert (await client.tags("team/app")).names
        assert len(pauses.taken) == 3  # the client library repeats a reset of a kept connection once by itself
        fake.behaviour.fail = {"tags": [503] * 5}
        with pytest.raises(RegistryUnavailable, match="503") as raised:
            await client.tags("team/app")
        assert raised.value.retryable


@pytest.mark.parametrize(("header", "low", "high"), [("7", 7, 7), ("date:20", 17, 20)])
async def test_a_429_is_waited_out_as_long_as_it_asks(
    images: Images, connect: Connect, pauses: Pauses, header: str, low: float, high: float
) -> None:
    behaviour = Behaviour(fail={"manifest": [429]}, retry_after=header)
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        await client.manifest("team/app", "v1")
        assert low - 1 <= pauses.taken[0] <= high


async def test_a_429_that_asks_for_too_much_is_handed_up_and_parks_the_host(
    images: Images, connect: Connect, pauses: Pauses
) -> None:
    behaviour = Behaviour(fail={"manifest": [429]}, retry_after="600")
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        with pytest.raises(RegistryRateLimited) as raised:
            await client.manifest("team/app", "v1")
        assert raised.value.retry_after == 600
        before = fake.count()
        for request in (
            client.tags("team/app"),
            anext(client.blob("team/app", Descriptor(digest=images.app.digest, size=1))),
        ):
            with pytest.raises(RegistryRateLimited) as again:
                await request
            assert again.value.retry_after is not None
            assert 590 < again.value.retry_after <= 600
        with pytest.raises(RegistryRateLimited):
            await client.ping()
        assert fake.count() == before
        assert pauses.taken == []


async def test_a_hanging_registry_is_given_up(images: Images, connect: Connect) -> None:
    limits = Limits(idle_seconds=0.05)
    async with (
        FakeRegistry(images.store.root, Behaviour(hang="manifest")) as fake,
        connect(fake.url, limits=limits) as client,
    ):
        with pytest.raises(NetworkError, match="did not answer in time"):
            await client.manifest("team/app", "v1")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": {}}', b"{" * 5000, b'{"tags":' + b"[" * 100_000])
async def test_malformed_lists_are_unexpected(images: Images, connect: Connect, body: bytes) -> None:
    behaviour = Behaviour(raw={"tags": body, "catalog": body.replace(b"tags", b"repositories")})
    async with FakeRegistry(images.store.root, behaviour) as fake, connect(fake.url) as client:
        with pytest.raises(UnexpectedAnswer, match="not a list of tags"):
            await client.tags("team/app")
        with pytest.raises(UnexpectedAnswer, match="not a list of repositories"):
            await client.repositories()


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (
            400,
            b"<html><title>400 The plain HTTP request was sent to HTTPS port</title>",
            UnexpectedAnswer,
            "speaks TLS",
        ),
        (400, b"Client sent an HTTP request to an HTTPS server.", UnexpectedAnswer, "speaks TLS"),
        (502, b"<html>Bad Gateway</html>", RegistryUnavailable, "502"),
        (404, b"<html>Not Found</html>", NotARegistry, "web page"),
    ],
)
async def test_what_a_proxy_in_front_may_answer(
    images: Images, connect: Connect, status: int, body: bytes, kind: type[Exception], words: str
) -> None:
    async with (
        FakeRegistry(images.store.root, Behaviour(raw={"base": body}, raw_status=status)) as fake,
        connect(fake.url) as client,
    ):
        with pytest.raises(kind, match=words):
            await client.ping()


# -- ping --------------------------------------------------------------------------------------------------------------


async def test_ping_says_the_three_values(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(auth="bearer")) as fake:
        async with connect(fake.url, **KNOWN) as client:
            ping = await client.ping()
            assert (ping.reachable, ping.authenticated, ping.scheme, ping.detail) == (True, True, "http", "logged in")
            assert 0 < ping.latency_ms < 10_000
        async with connect(fake.url, username="sensor", password="wrong") as client:
            ping = await client.ping()
            assert (ping.reachable, ping.authenticated) == (True, False)
            assert ping.detail.startswith("authentication failed: ")
        async with connect(fake.url) as client:
            ping = await client.ping()
            assert (ping.reachable, ping.authenticated) == (True, False)
            assert ping.detail.startswith("reachable but unauthenticated: ")


async def test_ping_of_something_else_is_an_error(images: Images, connect: Connect) -> None:
    async with FakeRegistry(images.store.root, Behaviour(html="base")) as fake, connect(fake.url) as client:
        with pytest.raises(NotARegistry, match="web page"):
            await client.ping()
    async with FakeRegistry(images.store.root) as fake, connect(f"{fake.url}/somewhere") as client:
        with pytest.raises(NotARegistry, match="404"):
            await client.ping()
    async with FakeRegistry(images.store.root, Behaviour(fail={"base": [418]})) as fake, connect(fake.url) as client:
        with pytest.raises(UnexpectedAnswer, match="418"):
            await client.ping()


async def test_a_registry_below_a_path_keeps_it(images: Images, connect: Connect) -> None:
    async with (
        FakeRegistry(images.store.root, Behaviour(page=2), prefix="/repository/docker") as fake,
        connect(f"{fake.url}/v2/") as client,
    ):
        assert len((await client.repositories()).names) == 4
        assert (await client.manifest("team/app", "v1")).digest == images.app.digest
        assert all(seen.path.startswith("/repository/docker/v2/") for seen in fake.seen)


# -- quota -------------------------------------------------------------------------------------------------------------


async def test_a_pull_quota_leaves_a_share_to_others_and_looking_costs_nothing(
    images: Images, connect: Connect
) -> None:
    left = {
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "60;w=21600",
        "docker-ratelimit-source": "203.0.113.9",
    }
    fake_with = Behaviour(manifest_headers=left)
    counted = Quirks(counts_pulls=True)
    async with (
        FakeRegistry(images.store.root, fake_with) as fake,
        connect(fake.url, quirks=counted, leave=0.5) as client,
    ):
        await client.manifest("team/app", "v1")
        left["ratelimit-remaining"] = "50;w=21600"
        await client.manifest("team/app", "v1")
        fake.forget()
        with pytest.raises(RegistryRateLimited, match=r"203\.0\.113\.9 has 50 of 100 left") as refused:
            await client.manifest("team/app", "v1")
        assert refused.value.retry_after
        assert "quota.leave" in refused.value.advice
        assert fake.counts() == {"head": 1}
        assert (await client.head("team/app", "v1")).digest == images.app.digest
        left["ratelimit-remaining"] = "51;w=21600"
        await client.manifest("team/app", "v1")


async def test_where_pulls_are_not_counted_a_quota_holds_nothing_up(images: Images, connect: Connect) -> None:
    spent = Behaviour(manifest_headers={"ratelimit-limit": "100", "ratelimit-remaining": "0"})
    async with FakeRegistry(images.store.root, spent) as fake, connect(fake.url, leave=0.5) as client:
        await client.manifest("team/app", "v1")
        await client.manifest("team/app", "v1")
        assert fake.counts() == {"base": 1, "manifest": 2}
