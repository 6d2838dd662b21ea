from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sensor.config.schema import Http, Registry
from sensor.errors import RegistryError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    CannotEnumerate,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    UnexpectedAnswer,
)
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.ecr_login import EcrCredential, EcrPassword
from sensor.secret import Secret
from sensor.transport import Retry
from tests.fakes.aws import ACCOUNT, json_error
from tests.fakes.moto_server import moto_server
from tests.fakes.registries.ecr import REGION, EcrFake
from tests.fakes.registries.ecr_public import EcrPublicFake
from tests.fakes.registries.provider import TAGS, Login

HOST = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com"
ONCE = Retry(attempts=1)


KEY = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "x"}


@contextlib.asynccontextmanager
async def opened(
    fake: EcrFake | EcrPublicFake,
    monkeypatch: pytest.MonkeyPatch,
    login: Login | None = None,
    *,
    limits: Limits = DEFAULT_LIMITS,
    **more: Any,
) -> AsyncIterator[RegistryClient]:
    chosen = login or fake.logins[0]
    for name, value in chosen.env.items():
        monkeypatch.setenv(name, value)
    configured = fake.settings(chosen).model_copy(update=more)
    registry = open_registry(configured, Http(), limits, retry=ONCE)
    assert isinstance(registry, RegistryClient)
    try:
        yield registry
    finally:
        await registry.close()


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[EcrFake]:
    async with EcrFake(tmp_path) as fake:
        yield fake


def configured(url: str = HOST, **more: Any) -> Registry:
    return Registry.model_validate({"name": "r", "url": url, **more})


# --- the registry ----------------------------------------------------------------------------------------------------


async def test_a_missing_right_is_told_by_head_as_well(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(fake, monkeypatch) as registry:
        await registry.ping()
        fake.forbidden.add(fake.names[0])
        with pytest.raises(RegistryForbidden, match="status 403"):
            await registry.head(fake.names[0], "v1")


async def test_a_head_is_answered_after_the_password_has_ended(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(fake, monkeypatch) as registry:
        await registry.ping()
        fake.expire()
        assert (await registry.head(fake.names[0], "v1")).digest == fake.images[fake.names[0]]["v1"].digest


# --- nobody asks for more than is needed --------------------------------------------------------------------------------------


async def test_metadata_is_asked_for_registries_that_need_it_alone(
    fake: EcrFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, raw = fake.logins[0], fake.logins[-1]
    for login in (keys, raw, Login(name="", settings={"auth": "anonymous"}, env=keys.env)):
        async with opened(fake, monkeypatch, login) as registry:
            await registry.ping()
            await registry.standing()
    assert fake.metadata.asked == []
    async with opened(fake, monkeypatch, Login(name="", env=keys.env)) as registry:
        assert (await registry.ping()).authenticated
    assert "PUT /latest/api/token" in fake.metadata.asked


async def test_one_password_serves_many_requests(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(fake, monkeypatch) as registry:
        await asyncio.gather(*(registry.head(name, "v1") for name in fake.names for _ in range(4)))
    assert [operation for operation, _ in fake.api.asked].count("GetAuthorizationToken") == 1


async def test_an_anonymous_client_of_a_private_registry(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(name="", settings={"auth": "anonymous"}, env=fake.environment())
    async with opened(fake, monkeypatch, login) as registry:
        ping = await registry.ping()
        assert not ping.authenticated
        assert "reachable but unauthenticated" in ping.detail
        assert "ECR knows no anonymous clients" in ping.advice
        assert (await registry.standing()).identity == ""


# --- listing ------------------------------------------------------------------------------------------------------------------


async def test_repositories_are_asked_for_in_the_registrys_own_account(
    fake: EcrFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(fake, monkeypatch) as registry:
        listing = await registry.repositories()
        assert (listing.names, listing.complete, listing.source) == (fake.names, True, "ecr:DescribeRepositories")
        tags = await registry.tags(fake.names[0])
    assert tags.source == "ecr:DescribeImages"
    calls = [body for operation, body in fake.api.asked if operation.startswith("Describe")]
    assert len(calls) == 6
    assert {body["registryId"] for body in calls} == {ACCOUNT}
    assert {body["maxResults"] for body in calls} == {1000}
    assert calls[-1]["filter"] == {"tagStatus": "TAGGED", "imageStatus": "ANY"}
    assert fake.count("registry") == 0


@pytest.mark.parametrize("scope", ["path", "namespaces"])
async def test_only_what_lies_in_the_namespace(fake: EcrFake, scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = ("team/app", "team/app/sub", "team/apple", "other/app")
    fake.api.answers["DescribeRepositories"] = {"repositories": [{"repositoryName": name} for name in inside]}
    more: dict[str, Any] = {"url": f"{fake.url}/team/app"}
    if scope == "namespaces":
        base = fake.settings()
        more = {"repositories": base.repositories.model_copy(update={"namespaces": ("team/app",)})}
    async with opened(fake, monkeypatch, **more) as registry:
        assert (await registry.repositories()).names == ("team/app", "team/app/sub")


async def test_archived_images_are_listed_and_withheld(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.api.states = {"v2": "ARCHIVED", "v3": "ACTIVATING"}
    async with opened(fake, monkeypatch) as registry:
        listing = await registry.tags(fake.names[0])
        assert set(listing.names) == set(TAGS)
        assert set(listing.withheld) == {"v2", "v3"}
        assert "UpdateImageStorageClass" in listing.withheld["v2"]
        assert "being restored" in listing.withheld["v3"]
        fake.api.knows_states = False  # an older partition: it lists active images only
        async with opened(fake, monkeypatch) as older:
            listing = await older.tags(fake.names[0])
            assert set(listing.names) == {"v1", "v4", "v5"}
            before = len(fake.api.asked)
            await older.tags(fake.names[0])
            assert len(fake.api.asked) == before + 2  # two pages, and no more tries


async def test_where_images_may_not_be_described_they_are_listed(
    fake: EcrFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.api.denied = {"DescribeImages"}
    async with opened(fake, monkeypatch) as registry:
        listing = await registry.tags(fake.names[0])
        assert (set(listing.names), listing.source, dict(listing.pushed)) == (set(TAGS), "ecr:ListImages", {})
        assert set(listing.digests) == set(TAGS)
        fake.api.denied = {"DescribeImages", "ListImages"}
        listing = await registry.tags(fake.names[0])
        assert (set(listing.names), listing.source, dict(listing.digests)) == (set(TAGS), "tags/list", {})


async def test_the_catalogue_too_is_bounded_by_the_namespaces(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.api.denied = {"DescribeRepositories"}
    base = fake.settings()
    repositories = base.repositories.model_copy(update={"namespaces": (fake.names[0],)})
    async with opened(fake, monkeypatch, repositories=repositories) as registry:
        assert (await registry.repositories()).names == (fake.names[0],)


async def test_where_repositories_may_not_be_described_the_catalogue_is_tried(
    fake: EcrFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.api.denied = {"DescribeRepositories"}
    async with opened(fake, monkeypatch) as registry:
        listing = await registry.repositories()
        assert (set(listing.names), listing.source) == (set(fake.names), "_catalog")
        fake.forbidden.add("")
        with pytest.raises(CannotEnumerate, match="ecr:DescribeRepositories: AccessDenied") as cannot:
            await registry.repositories()
        assert "permission ecr:DescribeRepositories" in cannot.value.advice
        assert "repositories.names" in cannot.value.advice


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (("ThrottlingException", "Rate exceeded"), RegistryRateLimited),
        (("ServerException", "x", 500), RegistryUnavailable),
        (("InvalidParameterException", "x"), UnexpectedAnswer),
        (("KmsException", "key disabled"), RegistryForbidden),
        (("SomethingNew", "x"), UnexpectedAnswer),
    ],
)
async def test_errors_of_the_first_page(
    fake: EcrFake, answer: tuple[Any, ...], kind: type[RegistryError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(fake, monkeypatch) as registry:
        await registry.ping()
        for ask in (registry.repositories(), registry.tags(fake.names[0])):
            fake.api.failing = [json_error(*answer), json_error(*answer)]
            with pytest.raises(kind):
                await ask


async def test_errors_of_list_images(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    denial = json_error("AccessDeniedException", "no")
    async with opened(fake, monkeypatch) as registry:
        await registry.ping()
        fake.api.failing = [denial, json_error("ThrottlingException", "Rate exceeded")]
        with pytest.raises(RegistryRateLimited):
            await registry.tags(fake.names[0])


async def test_what_does_not_exist(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(fake, monkeypatch) as registry:
        for name in ("team/nosuch", "a"):
            with pytest.raises(RegistryNotFound):
                await registry.tags(name)


async def test_a_later_page_that_fails_makes_the_listing_partial(
    fake: EcrFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(fake, monkeypatch) as registry:
        await registry.ping()
        first = fake.api.page("DescribeRepositories", {})
        fake.api.failing = [first, json_error("AccessDeniedException", "not any more")]
        listing = await registry.repositories()
        assert listing.names == fake.names[:2]
        assert not listing.complete
        assert "a later page failed" in listing.reason


async def test_pages_that_go_in_a_circle(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.api.loops = True
    async with opened(fake, monkeypatch) as registry:
        for listing in (await registry.repositories(), await registry.tags(fake.names[0])):
            assert len(listing.names) == 4
            assert (listing.complete, listing.reason) == (False, "the pages go in a circle")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(pages=2), "more than 2 pages"), (Limits(listing_entries=3), "more than 3 names")],
)
async def test_a_listing_without_end_is_cut(
    fake: EcrFake, limits: Limits, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(fake, monkeypatch, limits=limits) as registry:
        for listing in (await registry.repositories(), await registry.tags(fake.names[0])):
            assert (listing.complete, listing.reason) == (False, reason)
            assert len(listing.names) in {3, 4}


async def test_nonsense_among_the_entries_is_dropped(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = "sha256:" + "0" * 64
    fake.api.answers["DescribeRepositories"] = {
        "repositories": [{"repositoryName": name} for name in ("team/app", "UPPER", "../x", "")] + [{}]
    }
    fake.api.answers["DescribeImages"] = {
        "imageDetails": [
            {"imageTags": ["ok", digest, "sp ace", ""], "imageDigest": digest, "imagePushedAt": 1_700_000_000},
            {"imageTags": ["odd"], "imageDigest": "md5:0"},
            {"imageDigest": digest},
        ]
    }
    async with opened(fake, monkeypatch) as registry:
        listing = await registry.repositories()
        assert (listing.names, listing.dropped) == (("team/app",), 4)
        tags = await registry.tags("team/app")
    assert (tags.names, tags.dropped) == (("ok", "odd"), 3)
    assert (tags.digests, tags.pushed) == ({"ok": digest}, {"ok": 1_700_000_000.0})


@pytest.mark.parametrize("images", [7, [7], [{"imageStatus": 7}], [{"imagePushedAt": "never"}], [{"imageTags": 7}]])
async def test_answers_of_another_shape(fake: EcrFake, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.api.answers["DescribeImages"] = {"imageDetails": images}
    async with opened(fake, monkeypatch) as registry:
        with pytest.raises(UnexpectedAnswer) as odd:
            await registry.tags(fake.names[0])
        assert "api.url" in odd.value.advice


@pytest.mark.parametrize("token", [5, ["x"], {}])
async def test_odd_page_tokens(fake: EcrFake, token: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.api.answers["DescribeRepositories"] = {"repositories": [{"repositoryName": "team/app"}], "nextToken": token}
    async with opened(fake, monkeypatch) as registry:
        listing = await registry.repositories()
        assert listing.names == ("team/app",)
        assert listing.complete is (not token)


async def test_null_lists_are_empty(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.api.answers["DescribeRepositories"] = {"repositories": None}
    fake.api.answers["DescribeImages"] = {"imageDetails": [{"imageTags": None}]}
    async with opened(fake, monkeypatch) as registry:
        assert (await registry.repositories()).complete
        assert (await registry.tags(fake.names[0])).names == ()


# --- who we are ---------------------------------------------------------------------------------------------------------------


async def test_who_we_are_and_that_writing_is_not_told(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(fake, monkeypatch) as registry:
        standing = await registry.standing()
    assert standing.identity == f"arn:aws:iam::{ACCOUNT}:user/sensor"
    assert (standing.expires, standing.may_write) == (None, None)
    assert "access key; whether it may push" in standing.detail
    assert fake.user.secret not in repr(standing)


async def test_a_network_without_sts(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(fake, monkeypatch) as registry:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
        standing = await registry.standing()
    assert standing.identity == ""
    assert "AWS does not tell who we are" in standing.detail


async def test_when_a_password_that_was_made_elsewhere_ends(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(fake, monkeypatch, fake.logins[-1]) as registry:
        standing = await registry.standing()
        assert standing.expires is not None
        assert standing.expires > dt.datetime.now(dt.UTC).timestamp() + 43000
    opaque = Login(name="", settings={"username": "AWS", "password": "opaque"}, env=fake.environment())
    async with opened(fake, monkeypatch, opaque) as registry:
        standing = await registry.standing()
        assert (standing.identity, standing.expires) == ("AWS", None)
        assert "12 hours" in standing.detail
        with pytest.raises(RegistryUnauthorized):
            await registry.repositories()


# --- public.ecr.aws -----------------------------------------------------------------------------------------------------------


async def test_other_peoples_public_repositories_are_read_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with EcrPublicFake(tmp_path) as fake:
        async with opened(fake, monkeypatch) as registry:
            tags = await registry.tags("acme/app")  # not known to be our own before the repositories are listed
            assert (set(tags.names), tags.source) == (set(TAGS), "tags/list")
            await registry.repositories()
            tags = await registry.tags("acme/app")
            assert (set(tags.digests), tags.source) == (set(TAGS), "ecr-public:DescribeImageTags")
            fake.api.denied = {"DescribeImageTags", "DescribeRepositories"}
            assert (await registry.tags("acme/app")).source == "tags/list"
            with pytest.raises(CannotEnumerate, match="ecr-public:DescribeRepositories") as cannot:
                await registry.repositories()
            assert "repositories.names" in cannot.value.advice
            fake.api.denied = set()
            for ask in (registry.repositories(), registry.tags("acme/app")):
                fake.api.failing = [json_error("ServerException", "x", 500)]
                with pytest.raises(RegistryUnavailable):
                    await ask
        async with opened(fake, monkeypatch, fake.logins[1]) as registry:
            with pytest.raises(CannotEnumerate, match="anonymous"):
                await registry.repositories()
            assert (await registry.standing()).identity == ""


# --- moto ---------------------------------------------------------------------------------------------------------------------


async def test_lists_what_moto_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.session

    digest = "sha256:" + "ab" * 32
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with moto_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        session = botocore.session.Session()
        session.set_credentials("AKIAIOSFODNN7EXAMPLE", "x")
        client = session.create_client("ecr", REGION, endpoint_url=url)
        client.create_repository(repositoryName="team/app")
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": []}
        client.put_image(
            repositoryName="team/app", imageManifest=json.dumps(manifest), imageTag="v1", imageDigest=digest
        )
        client.close()
        registry = open_registry(configured(HOST, aws=KEY, api={"url": url}, insecure=True), Http(), retry=ONCE)
        assert (await registry.repositories()).names == ("team/app",)
        tags = await registry.tags("team/app")
        assert tags.digests == {"v1": digest}
        assert tags.pushed["v1"] > 1_700_000_000
        with pytest.raises(RegistryNotFound):
            await registry.tags("team/nosuch")
        assert isinstance(registry, RegistryClient)
        assert (await registry.session.credential()) == EcrPassword(
            username="AWS", password=Secret(f"{ACCOUNT}-auth-token"), via="access key"
        )
        assert (await registry.standing()).identity.startswith(f"arn:aws:sts::{ACCOUNT}")
        await registry.close()


async def test_nothing_secret_leaves_for_another_place(fake: EcrFake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.storage = True
    async with opened(fake, monkeypatch) as registry:
        fetched = await registry.manifest(fake.names[0], "v1")
        await registry.config(fake.names[0], fetched.document.config)  # type: ignore[union-attr]
    shown = {(one.server, one.authorization[:5]) for one in fake.seen}
    assert shown == {("registry", "Basic"), ("registry", ""), ("storage", ""), ("api", "AWS4-")}
    assert not any(fake.user.secret.encode() in one.body + one.path.encode() for one in fake.seen)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        (HOST, "https://api.ecr.eu-west-1.amazonaws.com"),
        (f"{ACCOUNT}.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "https://ecr-fips.us-gov-west-1.amazonaws.com"),
        (f"{ACCOUNT}.dkr-ecr.eu-central-1.on.aws", "https://ecr.eu-central-1.api.aws"),
        (f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn", "https://api.ecr.cn-north-1.amazonaws.com.cn"),
        (f"{ACCOUNT}.dkr.ecr.us-iso-east-1.c2s.ic.gov", "https://api.ecr.us-iso-east-1.c2s.ic.gov"),
        ("public.ecr.aws", "https://api.ecr-public.us-east-1.amazonaws.com"),
    ],
)
async def test_the_api_of_each_host(url: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    registry = open_registry(configured(url, aws=KEY), Http())
    assert isinstance(registry, RegistryClient)
    source = registry.session._credentials
    assert isinstance(source, EcrCredential)
    client = await source.identity._client(source._service)
    assert client.meta.endpoint_url.replace("api.ecr-fips", "ecr-fips") == endpoint
    await registry.close()
