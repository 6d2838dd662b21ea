"""Azure Container Registry: Entra's tokens exchanged for its own, token service, `/acr/v1`, and the clouds' identity services beside it."""

from __future__ import annotations

import base64
import datetime as dt
import json
import time
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.fakes import azure
from tests.fakes.certificates import Authority
from tests.fakes.registries.provider import PAGE, TAGS, Login, Mistake, ProviderFake, problem

NOBODY = "00000000-0000-0000-0000-000000000000"
PRINCIPAL, PRINCIPAL_SECRET = "55555555-aaaa-4bbb-8ccc-000000000005", "s3cret~of-the-principal"
ADMIN, ADMIN_PASSWORD = "127", "s3cret+of+the+admin"
MAPPED, MAPPED_PASSWORD = "sensor-token", "s3cret/of/the/token"
USERS = {PRINCIPAL: PRINCIPAL_SECRET, ADMIN: ADMIN_PASSWORD, MAPPED: MAPPED_PASSWORD}
REQUIRED = "authentication required, visit https://aka.ms/acr/authorization for more information."
DENIED = "The operation is disallowed on this registry, repository or image. View troubleshooting steps at https://aka.ms/acr/faq/#why"


class AcrFake(ProviderFake):
    """The registry is named 127, after the first label of its host; so is its admin user."""

    kind = "acr"
    detected = {
        "myregistry.azurecr.io": {"registry": "myregistry", "cloud": "AzureCloud"},
        "https://MyRegistry.azurecr.io/team": {"registry": "myregistry"},
        "myregistry-a1b2c3d4.azurecr.io": {"registry": "myregistry"},
        "myregistry.westeurope.geo.azurecr.io": {"registry": "myregistry", "region": "westeurope"},
        "myregistry.azurecr.cn": {"registry": "myregistry", "cloud": "AzureChinaCloud"},
        "myregistry.azurecr.us:443": {"registry": "myregistry", "cloud": "AzureUSGovernment"},
    }
    undetected = (
        "evil.azurecr.io.example.com",
        "myregistryazurecr.io",
        "azurecr.io",
        "my.registry.azurecr.io",
        "myregistry.azurecr.de",
        "myregistry.westeurope.data.azurecr.io",
        "mcr.microsoft.com",
        "example.com/myregistry.azurecr.io",
        "myregistry.azurecr.io@example.com",
        "abc.azurecr.io",
    )
    login_names = (
        "managed identity",
        "user-assigned identity",
        "app service",
        "workload identity",
        "service principal secret",
        "service principal certificate",
        "service principal password",
        "AAD token",
        "refresh token",
        "admin user",
        "scope-map token",
        "anonymous",
    )
    mistake_names = (
        "wrong password",
        "secret id",
        "expired AAD token",
        "AAD token for another service",
        "expired refresh token",
        "no token",
        "wrong client id",
        "wrong client secret",
    )
    grant = r"AcrPull.*Container Registry Repository Reader"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.cloud = azure.AzureCloud()
        self.authority = Authority()
        self.refuse_at_token = False
        """A missing right is a 401 of the token service, rather than a token without it."""
        self.lists = True
        """Whether anybody has the right to list the catalogue."""
        self.actions: list[str] = ["read"]
        """What refresh tokens are said to be good for."""
        self.refresh_life = 3 * 3600
        self.exchange_faults: list[web.Response] = []
        self.locked: set[str] = set()
        self.quarantined: set[str] = set()
        self.service = ""
        """The name of its token service; empty: its address."""
        self._root = root

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.listen("imds", self.cloud.imds)
        await self.listen("msi", self.cloud.app_service)
        directory = self._root / "entra"
        directory.mkdir(parents=True)
        await self.listen("entra", self.cloud.entra, self.authority.server_context(directory))
        self.ca_file = self.authority.write(directory / "ca.pem")
        (directory / "federated").write_text(azure.FEDERATED)
        return self

    @property
    def logins(self) -> tuple[Login, ...]:
        """Every identity and every pair of name and password."""
        entra = f"https://{self.address('entra')}"
        imds = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{self.address('imds')}"}
        principal = {"tenant_id": azure.TENANT, "client_id": azure.APP, "authority": entra}
        return (
            Login(name="managed identity", env=imds, identity=azure.SYSTEM, method="^managed identity"),
            Login(
                name="user-assigned identity",
                env=imds,
                settings={"azure": {"client_id": azure.USER_ASSIGNED}},
                identity=azure.USER_ASSIGNED,
                method="^managed identity",
            ),
            Login(
                name="app service",
                env={
                    "IDENTITY_ENDPOINT": f"http://{self.address('msi')}/msi/token",
                    "IDENTITY_HEADER": azure.MSI_HEADER,
                },
                identity=azure.SYSTEM,
                method="^managed identity",
            ),
            Login(
                name="workload identity",
                env={
                    "AZURE_AUTHORITY_HOST": entra,
                    "AZURE_TENANT_ID": azure.TENANT,
                    "AZURE_CLIENT_ID": azure.APP,
                    "AZURE_FEDERATED_TOKEN_FILE": str(self._root / "entra" / "federated"),
                },
                settings={"ca_file": self.ca_file},
                identity=azure.APP,
                method="^workload identity",
            ),
            Login(
                name="service principal secret",
                settings={"ca_file": self.ca_file, "azure": {**principal, "client_secret": azure.APP_SECRET}},
                identity=azure.APP,
                method="^service principal",
            ),
            Login(
                name="service principal certificate",
                settings={
                    "ca_file": self.ca_file,
                    "azure": {**principal, "certificate": azure.application_certificate()[0]},
                },
                identity=azure.APP,
                method="certificate",
            ),
            Login(
                name="service principal password",
                settings={"username": PRINCIPAL, "password": PRINCIPAL_SECRET},
                identity=PRINCIPAL,
                method="^service principal",
            ),
            Login(
                name="AAD token",
                settings={"username": NOBODY, "password": self.cloud.token(azure.APP, upn="ann@example.com")},
                identity="ann@example.com",
                method="^AAD token",
            ),
            Login(
                name="refresh token",
                settings={"username": NOBODY, "password": self.refresh_token(azure.APP)},
                identity=azure.APP,
                method="^AAD token",
            ),
            Login(
                name="admin user",
                settings={"username": ADMIN, "password": ADMIN_PASSWORD},
                identity=ADMIN,
                method="^admin user",
            ),
            Login(
                name="scope-map token",
                settings={"username": MAPPED, "password": MAPPED_PASSWORD},
                identity=MAPPED,
                lists=False,
                method="^scope-map token",
                advice=r"repositories\.names",
            ),
            Login(name="anonymous", settings={"auth": "anonymous"}, anonymous=True, method="^anonymous"),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What people paste."""
        imds = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://{self.address('imds')}"}
        other = self.cloud.token(azure.APP, audience="https://graph.microsoft.com")
        entra = {"tenant_id": azure.TENANT, "client_id": azure.APP, "authority": f"https://{self.address('entra')}"}
        return (
            Mistake(
                name="wrong password",
                says="authentication failed.*valid secret",
                settings={"username": PRINCIPAL, "password": "no"},
            ),
            Mistake(
                name="secret id",
                says="ID of a client secret",
                settings={"username": PRINCIPAL, "password": azure.USER_ASSIGNED},
            ),
            Mistake(
                name="expired AAD token",
                says="authentication failed.*has expired",
                settings={"username": NOBODY, "password": self.cloud.token(azure.APP, life=-60)},
            ),
            Mistake(
                name="AAD token for another service",
                says=r"graph\.microsoft\.com.*--resource https://containerregistry\.azure\.net",
                settings={"username": NOBODY, "password": other},
            ),
            Mistake(
                name="expired refresh token",
                says="authentication failed.*has expired",
                settings={"username": NOBODY, "password": self.refresh_token(azure.APP, life=-60)},
            ),
            Mistake(name="no token", says="must be a token", settings={"username": NOBODY, "password": "s3cret"}),
            Mistake(
                name="wrong client id",
                says="authentication failed.*Identity not found.*client_id",
                env=imds,
                settings={"azure": {"client_id": azure.APP}},
            ),
            Mistake(
                name="wrong client secret",
                says="authentication failed.*AADSTS7000215.*value, not its ID",
                settings={"ca_file": self.ca_file, "azure": {**entra, "client_secret": "no"}},
            ),
        )

    @property
    def skopeo(self) -> tuple[str, str]:
        """The service principal."""
        return PRINCIPAL, PRINCIPAL_SECRET

    def refresh_token(self, client: str, *, life: int | None = None) -> str:
        """A refresh token, as the exchange and `az acr login --expose-token` give it."""
        lives = self.refresh_life if life is None else life
        claims = {"iss": "Azure Container Registry", "grant_type": "refresh_token", "appid": client}
        token = self.issue(life=lives, permissions={"Actions": self.actions, "NotActions": None}, **claims)
        if lives <= 0:
            self._issued.pop(token)
        return token

    # -- its own paths ---------------------------------------------------------------------------------------------------

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """Exchange, token service, and `/acr/v1`."""
        if request.path == "/oauth2/exchange" and request.method == "POST":
            return await self._exchange(request)
        if request.path == "/oauth2/token":
            return self._token(request)
        if request.path == "/acr/v1/_catalog":
            return self.login(request, "", "catalog") or self._catalog(request)
        if request.path.startswith("/acr/v1/") and request.path.endswith("/_tags"):
            repository = request.path.removeprefix("/acr/v1/").removesuffix("/_tags")
            return self.login(request, repository, "tags") or self._tags(request, repository)
        return None

    async def _exchange(self, request: web.Request) -> web.StreamResponse:
        if self.exchange_faults:
            return self.exchange_faults.pop(0)
        form = await request.post()
        token = str(form.get("access_token", ""))
        claims = _claims(token)
        good = form.get("grant_type") == "access_token" and form.get("service") == (self.service or self.address())
        if not good or token not in self.cloud.issued or claims["aud"] != azure.RESOURCE or claims["exp"] < time.time():
            return problem(401, "UNAUTHORIZED", REQUIRED)
        return web.json_response({"refresh_token": self.refresh_token(claims["appid"])})

    def _token(self, request: web.Request) -> web.StreamResponse:
        given = self.basic(request)
        name = given[0] if given else ""
        if given is not None:
            known = self.granted(given[1]) is not None if name == NOBODY else USERS.get(name) == given[1]
            if not known:
                return problem(401, "UNAUTHORIZED", REQUIRED)
        access = []
        for scope in request.query.getall("scope", []):
            kind, _, rest = scope.partition(":")
            repository, _, actions = rest.rpartition(":")
            if self._allowed(kind, repository, name):
                access.append({"type": kind, "name": repository, "actions": actions.split(",")})
            elif self.refuse_at_token:
                return problem(401, "UNAUTHORIZED", REQUIRED)
        claims = {"iss": "Azure Container Registry", "grant_type": "access_token", "sub": name}
        return web.json_response({"access_token": self.issue(access, life=4500, **claims)})

    def _allowed(self, kind: str, repository: str, user: str) -> bool:
        if kind == "registry":
            return self.lists and user != MAPPED
        return repository not in self.forbidden and (bool(user) or repository in self.public)

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """Bearer tokens with the right action, or Basic of those who have a password."""
        verb = "metadata_read" if action == "tags" else "pull"
        scope = {"base": "", "catalog": "registry:catalog:*"}.get(action, f"repository:{repository}:{verb}")
        name, password = self.basic(request) or ("", "")
        known = name != NOBODY and bool(name) and USERS.get(name) == password
        if known and (not scope or self._allowed(scope.partition(":")[0], repository, name)):
            return None
        shown = self.bearer(request)
        granted = self.granted(shown) if shown else None
        if granted is not None and (not scope or scope in granted):
            return None
        error = "" if shown is None else ',error="invalid_token"' if granted is None else ',error="insufficient_scope"'
        wanted = f',scope="{scope}"' if scope else ""
        value = f'Bearer realm="{self.url}/oauth2/token",service="{self.service or self.address()}"{wanted}{error}'
        return problem(401, "UNAUTHORIZED", REQUIRED, headers={"WWW-Authenticate": value})

    def _catalog(self, request: web.Request) -> web.StreamResponse:
        granted = self.granted(self.bearer(request) or "")
        anonymous = granted is not None and not _claims(self.bearer(request) or "").get("sub")
        return self.page(request, self.public if anonymous else self.names, "repositories", {})

    def _tags(self, request: web.Request, repository: str) -> web.StreamResponse:
        if repository not in self.images:
            return problem(404, "NAME_UNKNOWN", f'repository name "{repository}" is not found')
        newest = sorted(self.images[repository], key=TAGS.index, reverse=request.query.get("orderby") == "timedesc")
        last = request.query.get("last", "")
        left = newest[newest.index(last) + 1 :] if last else newest
        size = min(PAGE, int(request.query.get("n", "100")))
        shown = left[:size]
        headers = {}
        if len(left) > size:
            query = f"last={shown[-1]}&n={size}&orderby={request.query.get('orderby', '')}"
            headers["Link"] = f'</acr/v1/{repository}/_tags?{query}>; rel="next"'
        tags = [self._tag(repository, tag) for tag in shown]
        return web.json_response({"registry": self.address(), "imageName": repository, "tags": tags}, headers=headers)

    def _tag(self, repository: str, tag: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {"deleteEnabled": True, "writeEnabled": True, "listEnabled": True}
        attributes["readEnabled"] = tag not in self.locked
        if tag in self.quarantined:
            attributes["quarantineState"] = "Quarantined"
        return {
            "name": tag,
            "digest": self.images[repository][tag].digest,
            "createdTime": "2020-01-01T00:00:00.0000000Z",
            "lastUpdateTime": _iso(self.pushed(tag)),
            "signed": False,
            "changeableAttributes": attributes,
        }

    def manifest(self, request: web.Request, repository: str, target: str) -> web.StreamResponse:
        """What is in quarantine is not found by tag and disallowed by digest; what is locked is disallowed."""
        by_digest = {built.digest: tag for tag, built in self.images[repository].items()}
        tag = by_digest.get(target, target)
        if tag in self.locked:
            return problem(405, "UNSUPPORTED", DENIED)
        if tag in self.quarantined and target != tag:
            return problem(403, "DENIED", DENIED)
        if tag in self.quarantined:
            return problem(404, "MANIFEST_UNKNOWN", f'manifest tagged by "{tag}" is not found')
        return super().manifest(request, repository, target)


def _claims(token: str) -> dict[str, Any]:
    parts = token.split(".")
    if len(parts) != 3:
        return {"aud": "", "exp": 0, "appid": ""}
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    return claims


def _iso(unix: float) -> str:
    return dt.datetime.fromtimestamp(unix, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.1234567Z")
