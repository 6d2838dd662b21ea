"""GitHub's REST API for packages: what an owner has, and every version of a package with digest, tags and date in one list.

Untagged versions (the children of indexes) are listed too and may be most of the rows. GitHub does not count an answer of 304 against its
5000 requests an hour, so what a page held is kept with its ETag and an unchanged poll costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from sensor.errors import SensorError
from sensor.model.reference import is_repository
from sensor.registry.credentials import ConfiguredCredential
from sensor.registry.errors import (
    CannotEnumerate,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
)
from sensor.registry.kinds.ghcr_pages import Kept, Page, Reader, package_rows, version_rows
from sensor.registry.kinds.github_app import Account, GithubApp, github_api, pause_asked
from sensor.registry.kinds.kind import Connection
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.registry.native import Api, Names, joined, parse, wanted_namespaces
from sensor.registry.pages import is_listed_tag
from sensor.registry.port import Listing, Standing
from sensor.secret import Secret
from sensor.transport import Reply

SOURCE = "GitHub API"
_WRITING = frozenset({"write:packages", "delete:packages"})
_OK = frozenset({200})
_OK_OR_SAME = frozenset({200, 304})
_NAME_KEYS = "name the repositories in repositories.names"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Me:
    """Whose token it is, and what GitHub tells about the token itself."""

    login: str
    scopes: frozenset[str] | None = None
    """None: not told, as for all but classic tokens."""
    expires: float | None = None


class GhcrApi:
    """Lists packages by GitHub's API. `base` is empty where it is not known."""

    def __init__(self, connection: Connection, base: str) -> None:
        """Raises ConfigError when the API is to be asked in plain HTTP, which is not allowed."""
        self._settings = connection.settings
        self._namespace = connection.address.namespace
        self._limits = connection.opening.limits
        self._credentials = connection.credentials
        api = connection.settings.api
        if api.token is not None or api.password is not None:
            own = {"username": api.username or "token", "password": api.token or api.password, "token": None}
            self._credentials = ConfiguredCredential(connection.settings.model_copy(update=own))
        self._base = base
        self._api = (
            github_api(base, connection.transport, self._shown, insecure=connection.settings.insecure) if base else None
        )
        self._secret: Secret | None = None
        self._me: _Me | None = None
        self._places: dict[str, str] = {}
        self._kept = Kept()
        self._limited_until = 0.0

    # -- listing ---------------------------------------------------------------------------------------------------------

    async def repositories(self) -> Listing:
        """The packages of the owners that are named, else of the credential's own account.

        Raises:
            CannotEnumerate: nobody is logged in, or the credential may not list.
            SensorError: no answer, or a broken one, to the very first request.
        """
        await self._require_login()
        self._kept.sweep += 1
        listings: list[Listing] = []
        failure: SensorError | None = None
        for owner in await self._owners():
            try:
                listings.append(await self._packages(owner))
            except SensorError as error:
                failure = failure or error
                reason = f"{owner} cannot be listed: {error.message}"
                listings.append(Listing(names=(), complete=False, reason=reason))
        if failure is not None and not any(listing.names or listing.complete for listing in listings):
            if isinstance(failure, (RegistryForbidden, RegistryNotFound)):
                message = f"repositories cannot be listed: {failure.message}"
                raise CannotEnumerate(message, f"{failure.advice}, or {_NAME_KEYS}") from failure
            raise failure
        return joined(listings, source=SOURCE)

    async def tags(self, repository: str) -> Listing:
        """All tags of a package, those of the newest versions first.

        Raises:
            CannotEnumerate: the API refuses; the registry's own list may still be had.
            SensorError: no answer, or a broken one.
        """
        await self._require_login()
        owner, _, name = repository.partition("/")
        names = Names(self._limits, is_listed_tag, source=SOURCE)
        try:
            place = await self._place(owner)
            path = f"{place}/packages/container/{quote(name, safe='')}/versions?state=active&per_page=100"
            await self._walk(path, version_rows, names)
        except (RegistryUnauthorized, RegistryForbidden, RegistryNotFound) as error:
            raise CannotEnumerate(error.message, error.advice) from error
        return names.listing

    async def _packages(self, owner: str) -> Listing:
        place = await self._place(owner)
        names = Names(self._limits, is_repository, source=SOURCE)
        await self._walk(f"{place}/packages?package_type=container&per_page=100", package_rows(owner), names)
        return names.listing

    async def _owners(self) -> tuple[str, ...]:
        named = wanted_namespaces(self._settings, self._namespace)
        if named:
            return tuple(dict.fromkeys(name.partition("/")[0].lower() for name in named))
        if isinstance(self._credentials, GithubApp):
            account = (await self._credentials.installation()).account
            return () if account is None else (account.login.lower(),)
        me = await self._whoami()
        if me is None:
            message = "GitHub does not tell whose packages this token could list"
            raise CannotEnumerate(message, f"name the owners in repositories.namespaces, or {_NAME_KEYS}")
        return (me.login.lower(),)

    async def _place(self, owner: str) -> str:
        """Where the packages of an owner are: a reference does not tell whether that is a user or an organisation."""
        if owner not in self._places:
            me = await self._whoami()
            if me is not None and me.login.lower() == owner:
                self._places[owner] = "/user"  # private packages are listed there only
            else:
                name = quote(owner, safe="")
                account = parse(await self._send(f"/users/{name}"), Account)
                self._places[owner] = f"/orgs/{name}" if account.type == "Organization" else f"/users/{name}"
        return self._places[owner]

    async def _walk(self, path: str, rows_of: Reader, names: Names) -> None:
        """Take in every page. What goes wrong after the first one makes `names` partial."""
        page: Page | None = await self._page(path, rows_of)
        asked = {path}
        withheld = ""
        while page is not None:
            for name, digest, pushed in page.rows:
                names.add(name or None, digest=digest, pushed=pushed)
            withheld = withheld or page.withheld
            page = await self._after(page, asked, rows_of, names)
        if withheld:
            names.partial(withheld)

    async def _after(self, page: Page, asked: set[str], rows_of: Reader, names: Names) -> Page | None:
        if not page.following or not names.another_page(useful=page.entries > 0):
            return None
        if page.following in asked:
            names.partial("the pages go in a circle")
            return None
        asked.add(page.following)
        try:
            return await self._page(page.following, rows_of)
        except SensorError as error:
            names.partial(f"a later page failed: {error.message}")
            return None

    async def _page(self, path: str, rows_of: Reader) -> Page:
        kept = self._kept.pages.get(path)
        headers = {} if kept is None else {"If-None-Match": kept.etag}
        reply = await self._send(path, headers=headers, accept=_OK if kept is None else _OK_OR_SAME)
        if reply.status == 304 and kept is not None:
            kept.used = self._kept.sweep
            return kept
        entries = parse(reply, list[msgspec.Raw])
        page = Page(rows=tuple(rows_of(entries)), entries=len(entries), etag=reply.headers.get("etag", ""))
        if reply.headers.get("x-github-sso", "").startswith("partial-results"):
            page.withheld = "organisations whose single sign-on the token is not authorised for are left out"
        try:
            page.following = self._usable().next(reply) or ""
        except SensorError as error:
            page.withheld = page.withheld or error.message
        self._kept.keep(path, page)
        return page

    # -- asking ----------------------------------------------------------------------------------------------------------

    async def standing(self) -> Standing:
        """Whose token it is, when it expires, and whether its scopes would allow to write. Raises SensorError."""
        credential = await self._credentials.credential(renew=False)
        if credential is None:
            return Standing(detail="anonymous")
        if isinstance(self._credentials, GithubApp):
            return await self._standing_of_app(self._credentials)
        named = credential.username if isinstance(credential, Basic) else ""
        if self._api is None:
            return Standing(identity=named, detail="api.url is not set, so GitHub was not asked")
        self._me = None
        me = await self._whoami()
        if me is None:
            return Standing(identity=named, detail="GitHub tells nothing about a token of this kind")
        if me.scopes is None:
            return Standing(
                identity=me.login, expires=me.expires, detail="GitHub tells no scopes of a token of this kind"
            )
        detail = f"scopes: {', '.join(sorted(me.scopes)) or 'none'}"
        if not me.scopes & {"read:packages", "write:packages"}:
            detail += "; read:packages is missing"
        return Standing(identity=me.login, expires=me.expires, may_write=bool(me.scopes & _WRITING), detail=detail)

    async def _standing_of_app(self, app: GithubApp) -> Standing:
        await app.credential(renew=False)
        found = await app.installation()
        account = "" if found.account is None else found.account.login
        told = app.permissions.get("packages")
        return Standing(
            identity=f"GitHub App {found.app_slug or self._settings_app_id()} at {account}",
            may_write=None if told is None else told == "write",
            detail=f"installation {found.id}, permission packages: {told or 'not granted'}",
        )

    def _settings_app_id(self) -> str:
        app = self._settings.github_app
        return "" if app is None else app.app_id

    async def _whoami(self) -> _Me | None:
        """Whose token it is; None for tokens that belong to no user."""
        credential = await self._credentials.credential(renew=False)
        if _secret_of(credential).reveal().startswith("ghs_"):
            return None
        if self._me is None:
            try:
                reply = await self._send("/user")
            except RegistryForbidden:
                return None
            told = reply.headers.get("x-oauth-scopes")
            self._me = _Me(
                login=parse(reply, Account).login,
                scopes=None if told is None else frozenset(filter(None, map(str.strip, told.split(",")))),
                expires=expiry(reply.headers.get("github-authentication-token-expiration", "")),
            )
        return self._me

    async def _require_login(self) -> None:
        self._usable()
        if await self._credentials.credential(renew=False) is None:
            advice = f"configure a credential: a personal access token (classic) with read:packages, or {_NAME_KEYS}"
            raise CannotEnumerate("GitHub lists packages to nobody without a login, public ones neither", advice)

    def _usable(self) -> Api:
        if self._api is None:
            message = f"the address of GitHub's API does not follow from {self._settings.url}"
            raise CannotEnumerate(
                message, f"set api.url, for example https://github.example.com/api/v3, or {_NAME_KEYS}"
            )
        return self._api

    async def _shown(self, renew: bool) -> Mapping[str, str]:  # noqa: FBT001 - the shape of Authorise
        secret = _secret_of(await self._credentials.credential(renew=renew))
        if secret != self._secret:
            # what was seen with another token says nothing about this one; an App's tokens all see the same
            if not isinstance(self._credentials, GithubApp):
                self._me, self._places, self._kept = None, {}, Kept(sweep=self._kept.sweep)
            self._secret = secret
        return {"Authorization": f"Bearer {secret.reveal()}"}

    async def _send(
        self, path: str, *, headers: Mapping[str, str] | None = None, accept: frozenset[int] = _OK
    ) -> Reply:
        """Ask, unless GitHub has said not to: going on while it refuses gets a client banned."""
        left = self._limited_until - time.monotonic()
        if left > 0:
            message = f"{self._base}: the limit of requests is reached, {left:.0f} s are left"
            raise RegistryRateLimited(message, "listing goes on afterwards", retry_after=left)
        try:
            reply = await self._usable().send(path, headers=headers, accept=accept)
        except RegistryRateLimited as error:
            self._limited_until = time.monotonic() + (error.retry_after or 0.0)
            raise
        if (wait := pause_asked(reply)) is not None:
            self._limited_until = time.monotonic() + wait
        return reply


def expiry(text: str) -> float | None:
    """Unix time of GitHub-Authentication-Token-Expiration: `2027-01-31 10:00:00 UTC`, or with an offset instead; None: never, or not told."""
    text = text.strip()
    for pattern in ("%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S"):
        try:
            found = datetime.strptime(text.removesuffix(" UTC"), pattern)  # noqa: DTZ007 - UTC is added below
        except ValueError:
            continue
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    return None


def _secret_of(credential: Credential | None) -> Secret:
    match credential:
        case Basic():
            return credential.password
        case StaticToken():
            return credential.token
        case _:
            return Secret("")
