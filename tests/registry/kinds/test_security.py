"""Every provider as an attacker: where credentials go, and where they must not, whatever the other side says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web

from sensor.config.schema import Http
from sensor.errors import NetworkError
from tests.fakes.certificates import Authority
from tests.fakes.hostile import Stranger, Twisted, configured_secrets, held, issued_secrets, place_of, texts_of, twisted
from tests.fakes.proxy import FakeProxy
from tests.fakes.registries import FAKES
from tests.fakes.registries.distribution import DistributionFake
from tests.fakes.registries.provider import Login, ProviderFake, Seen
from tests.registry.kinds.attacks import (
    QUICK,
    each,
    each_fake,
    environment,
    everything,
    forget_connections,
    opening,
    sdk_connections,
)

pytestmark = sdk_connections

# -- where credentials go ------------------------------------------------------------------------------------------------------

HOME: Mapping[str, frozenset[str]] = {
    "dockerhub": frozenset({"registry", "auth", "api"}),
    "ghcr": frozenset({"registry", "api"}),
    "gitlab": frozenset({"registry", "gitlab"}),
    "nexus": frozenset({"registry", "open"}),
}
"""Which servers may see the credential of a registry; for others the registry alone."""
ELSEWHERE: Mapping[str, frozenset[str]] = {
    "aws.secret_access_key": frozenset(),
    "AWS_SECRET_ACCESS_KEY": frozenset(),
    "AWS_SHARED_CREDENTIALS_FILE": frozenset(),
    "aws.session_token": frozenset({"sts", "api"}),
    "AWS_CONTAINER_AUTHORIZATION_TOKEN": frozenset({"container"}),
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": frozenset({"container"}),
    "AWS_WEB_IDENTITY_TOKEN_FILE": frozenset({"sts"}),
    "azure.client_secret": frozenset({"entra"}),
    "azure.certificate": frozenset(),
    "AZURE_FEDERATED_TOKEN_FILE": frozenset({"entra"}),
    "IDENTITY_HEADER": frozenset({"msi"}),
    "gcp.credentials": frozenset(),
    "GOOGLE_APPLICATION_CREDENTIALS": frozenset(),
    "github_app.private_key": frozenset(),
    "api.token": frozenset({"api", "gitlab"}),
    "aws secret": frozenset(),
    "aws session": frozenset({"sts", "api"}),
    "ecr password": frozenset({"registry"}),
    "hub token": frozenset({"api"}),
    "installation token": frozenset({"registry", "api"}),
    "entra token": frozenset({"registry"}),
    "google token": frozenset({"registry", "api"}),
}
"""The same for secrets that have a place of their own."""


def may_see(fake: ProviderFake, login: Login) -> dict[str, tuple[str, frozenset[str]]]:
    """Secret to what it is and which servers may see it."""
    home = HOME.get(fake.kind, frozenset({"registry"}))
    known = {**configured_secrets(fake, login), **issued_secrets(fake)}
    found = {}
    for secret, what in known.items():
        places = ELSEWHERE.get(what, home)
        if what == "issued token":
            places = frozenset({"registry", "open"})
        if what == "password" and login.settings.get("username", "").startswith("AKIA"):
            places = frozenset()  # it signs requests and is never sent
        if what == "api.token" and fake.kind == "quay":
            places = frozenset({"registry"})
        found[secret] = (what, places)
    return found


def strays(fake: ProviderFake, login: Login) -> list[str]:
    """Secrets that were seen where they do not belong, or in a URL."""
    wrong = []
    secrets = may_see(fake, login)
    for seen in fake.seen:
        place = place_of(seen.server, seen.headers["host"])
        foreign = {secret: what for secret, (what, places) in secrets.items() if place not in places}
        for text in texts_of(seen):
            wrong += [f"{place} {seen.method} {seen.path}: {what}" for what in held(text, foreign)]
        for text in (seen.path, unquote(seen.path)):
            everywhere = {secret: what for secret, (what, _) in secrets.items()}
            wrong += [f"in the URL {place} {seen.path}: {what}" for what in held(text, everywhere)]
    return wrong


@each("login")
async def test_a_secret_is_shown_only_where_it_belongs(
    fake_type: type[ProviderFake], index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake_type(tmp_path) as fake:
        login = fake.logins[index]
        environment(login, monkeypatch)
        fake.storage = True
        async with opening(fake.settings(login), QUICK) as registry:
            await everything(registry, fake, midway=fake.expire)
            fake.throttled = 1
            await everything(registry, fake)
        assert fake.count("storage") > 0 or not login.pulls
        assert not any(
            seen.authorization for seen in fake.seen if place_of(seen.server, seen.headers["host"]) == "storage"
        )
        secrets = {secret: what for secret, (what, _) in may_see(fake, login).items()}
        assert any(held(text, secrets) for seen in fake.seen for text in texts_of(seen))
        assert strays(fake, login) == []


def is_api(kind: str, seen: Seen) -> bool:
    """Whether a request is for the provider's own API, rather than its registry or token service."""
    if kind in {"dockerhub", "ghcr", "gar", "ecr"}:
        return seen.server == "api"
    return seen.path.startswith(("/api/", "/artifactory/api/repositories", "/artifactory/api/search", "/service/rest"))


@pytest.mark.parametrize("kind", ["artifactory", "dockerhub", "gar", "ghcr", "gitlab", "harbor", "nexus", "quay"])
@pytest.mark.parametrize("how", ["token", "password"])
async def test_the_api_has_a_credential_of_its_own(
    kind: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "the-secret-of-the-api-alone"
    given = {"token": own} if how == "token" else {"username": "api-user", "password": own}
    async with next(fake for fake in FAKES if fake.kind == kind)(tmp_path) as fake:
        login = next(one for one in fake.logins if {"username", "password"} <= set(one.settings))
        environment(login, monkeypatch)
        merged = dict(login.settings)
        merged["api"] = {**fake.base.get("api", {}), **given}
        mine = Login(name=login.name, settings=merged, env=login.env)
        async with opening(fake.settings(mine)) as registry:
            await everything(registry, fake)
        to_api = [seen for seen in fake.seen if is_api(kind, seen)]
        others = [seen for seen in fake.seen if not is_api(kind, seen)]
        password = {str(login.settings["password"]): "password"}
        assert not [seen.path for seen in to_api for text in texts_of(seen) if held(text, password)]
        assert not [seen.path for seen in others for text in texts_of(seen) if held(text, {own: "api"})]
        assert [seen for seen in others for text in texts_of(seen) if held(text, password)]
        if (kind, how) != ("gar", "password"):  # its API takes tokens and keys only
            assert [seen for seen in to_api for text in texts_of(seen) if held(text, {own: "api"})]


# -- a provider that turns on us -----------------------------------------------------------------------------------------------


def redirected(place: str, target: str) -> Any:
    """Everything on one server is elsewhere."""

    def instead(server: str, request: web.Request) -> web.StreamResponse | None:
        if server != place:
            return None
        return web.Response(status=307, text="elsewhere", headers={"Location": f"{target}{request.raw_path}"})

    return instead


def realms(realm: str) -> Any:
    """Token services are elsewhere."""

    def after(_server: str, _request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        if "WWW-Authenticate" in response.headers:
            response.headers["WWW-Authenticate"] = (
                f'Bearer realm="{realm}",service="registry",scope="repository:a/b:pull"'
            )
        return response

    return after


def continued(target: str) -> Any:
    """Every list goes on elsewhere, by its header and by its body."""

    def after(_server: str, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        assert isinstance(response, web.Response)
        if response.status != 200 or request.path.endswith("/blobs"):
            return response
        response.headers["Link"] = f'<{target}{request.path}?n=2&last=x>; rel="next"'
        if response.body and bytes(response.body).startswith((b"{", b"[")) and "/manifests/" not in request.path:  # type: ignore[arg-type]
            body = json.loads(bytes(response.body))  # type: ignore[arg-type]
            if isinstance(body, dict) and {"next", "next_page", "tags", "repositories", "results"} & set(body):
                body |= dict.fromkeys(
                    ("next", "next_page", "nextPageToken", "nextToken", "continuationToken"), f"{target}/v2/x?page=2"
                )
                response.body = json.dumps(body).encode()
        return response

    return after


def manifests_at(target: str) -> Any:
    """Manifests are elsewhere."""

    def instead(_server: str, request: web.Request) -> web.StreamResponse | None:
        if "/manifests/" not in request.path:
            return None
        return web.Response(status=307, text="elsewhere", headers={"Location": f"{target}{request.raw_path}"})

    return instead


ATTACKS = ("realm", "realm with a user name", "next page", "manifests", "registry", "token service", "api", "cloud")
SERVERS = {
    "token service": ("auth", "gitlab", "open"),
    "api": ("api",),
    "cloud": ("sts", "entra", "imds", "msi", "metadata"),
}


def attack(fake: Twisted, name: str, stranger: Stranger) -> None:
    """Begin one of the attacks."""
    match name:
        case "realm":
            fake.after = realms(f"{stranger.url}/token")
        case "realm with a user name":
            fake.after = realms(f"http://{fake.address()}@{stranger.address}/token")
        case "next page":
            fake.after = continued(stranger.url)
        case "manifests":
            fake.instead = manifests_at(stranger.url)
        case "registry":
            fake.instead = redirected("registry", stranger.url)
        case _:
            moved = [redirected(place, stranger.url) for place in SERVERS[name]]

            def instead(server: str, request: web.Request) -> web.StreamResponse | None:
                return next((answer for one in moved if (answer := one(server, request)) is not None), None)

            fake.instead = instead


def given_away(fake: ProviderFake, login: Login, stranger: Stranger) -> list[str]:
    """What the stranger has got hold of."""
    secrets = {**configured_secrets(fake, login), **issued_secrets(fake)}
    texts = [text for seen in stranger.seen for text in (*texts_of(seen), seen.path, unquote(seen.path))]
    shown = [
        f"{name} at {seen.path}"
        for seen in stranger.seen
        for name in seen.headers
        if name in {"authorization", "private-token"}
    ]
    return shown + [what for text in texts for what in held(text, secrets)]


@pytest.mark.parametrize("name", ATTACKS)
@each_fake
async def test_a_stranger_gets_nothing(
    fake_type: type[ProviderFake], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with twisted(fake_type)(tmp_path) as fake, Stranger() as stranger:
        login = fake.logins[0]
        environment(login, monkeypatch)
        fake.stranger = stranger
        attack(fake, name, stranger)
        async with opening(fake.settings(login)) as registry:  # from the beginning
            await everything(registry, fake)
        began = (fake.instead, fake.after)
        fake.instead = fake.after = None
        async with opening(fake.settings(login)) as registry:  # after it has been trusted
            await registry.ping()
            fake.instead, fake.after = began
            await everything(registry, fake)
            fake.expire()
            await everything(registry, fake)
        assert given_away(fake, login, stranger) == []
        if name == "manifests" and "127.0.0.1" in fake.settings(login).url:
            assert stranger.seen  # it is followed, with empty hands; from a public registry it is not
    if fake_type.kind == "ecr":
        forget_connections()


@pytest.mark.parametrize("part", ["/v2/", "/manifests/", "/blobs/"])
@each_fake
async def test_a_redirect_home_with_a_user_name_is_refused(
    fake_type: type[ProviderFake], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with twisted(fake_type)(tmp_path) as fake:
        environment(fake.logins[0], monkeypatch)

        def instead(_server: str, request: web.Request) -> web.StreamResponse | None:
            if part not in request.path or "Authorization" not in request.headers:
                return None
            target = f"http://eve:1@{request.host}{request.raw_path}"
            return web.Response(status=307, text="elsewhere", headers={"Location": target})

        fake.instead = instead
        async with opening(fake.settings()) as registry:
            walk = await everything(registry, fake)
        assert walk.errors  # and nothing that is no SensorError


FORBIDDEN = (
    "169.254.169.254", "0xA9FEA9FE", "2852039166", "0xa9.0xfe.0xa9.0xfe", "169.254.43518", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]",
    "metadata.google.internal.", "[fd00:ec2::254]", "0.0.0.0", "0",
)  # fmt: skip


@pytest.mark.parametrize("host", FORBIDDEN)
async def test_no_answer_leads_to_a_metadata_service(host: str, tmp_path: Path) -> None:
    async with twisted(DistributionFake)(tmp_path) as fake, FakeProxy(refuse=502) as proxy:
        for begin in ("realm", "redirect"):
            fake.after = realms(f"http://{host}/token") if begin == "realm" else None
            fake.instead = manifests_at(f"http://{host}") if begin == "redirect" else None
            for login in (fake.logins[0], fake.logins[-1]):
                asked = fake.settings(login).model_copy(update={"proxy": proxy.url})
                async with opening(asked, http=Http(no_proxy=("127.0.0.1",))) as registry:
                    walk = await everything(registry, fake)
                assert walk.errors
                assert not any(isinstance(error, NetworkError) for error in walk.errors)  # nothing was tried
        assert proxy.asked == []


class Tls(DistributionFake):
    """The registry behind TLS, with a token service in plain HTTP beside it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.authority = Authority()
        self.root = root

    async def listen(self, server: str, handler: Any, ssl_context: Any = None) -> None:
        """TLS for the registry itself."""
        context = self.authority.server_context(self.root) if server == "registry" else ssl_context
        await super().listen(server, handler, context)

    async def __aenter__(self) -> Any:
        await super().__aenter__()
        await self.listen("plain", self._registry)
        return self

    @property
    def url(self) -> str:
        """https://."""
        return f"https://{self.address()}"

    @property
    def base(self) -> dict[str, Any]:
        """Trust it."""
        return {"ca_file": self.authority.write(self.root / "ca.pem")}


@pytest.mark.parametrize("how", ["realm", "manifests", "next page"])
async def test_a_registry_with_tls_is_not_left_for_plain_http(how: str, tmp_path: Path) -> None:
    async with twisted(Tls)(tmp_path) as fake:
        plain = f"http://{fake.address('plain')}"
        match how:
            case "realm":
                fake.after = realms(f"{plain}/token")
            case "manifests":
                fake.instead = lambda server, request: (
                    None if server == "plain" else manifests_at(plain)(server, request)
                )
            case _:
                fake.after = continued(plain)
        async with opening(fake.settings()) as registry:
            walk = await everything(registry, fake)
        assert fake.count("registry") > 0
        shown = [seen for seen in fake.seen if seen.server == "plain" and seen.authorization]
        assert shown == []
        assert walk.errors or how == "next page"
