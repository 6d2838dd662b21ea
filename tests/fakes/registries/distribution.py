"""Any OCI distribution registry: with Basic, with a token service, or with a bearer token that is sent as it is."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from tests.fakes.registries.provider import Login, Mistake, ProviderFake, challenge, problem

USER, PASSWORD, TOKEN = "sensor", "s3cret-of-distribution", "static-token-of-distribution"


class DistributionFake(ProviderFake):
    """Bearer with a token service on the same origin; Basic is taken too, as some products do; a static token opens everything."""

    kind = "distribution"
    detected = {"registry.example.com:5000": {}, "https://zot.example.net": {}}
    undetected = ()
    catalog = True
    tells_digests = False
    tells_dates = False
    login_names = ("user name and password", "bearer token", "anonymous")
    mistake_names = ("wrong password", "wrong token")

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.scheme = "bearer"

    @property
    def logins(self) -> tuple[Login, ...]:
        """Token service, bearer token, anonymous."""
        return (
            Login(
                name="user name and password",
                settings={"username": USER, "password": PASSWORD},
                identity=USER,
                method="user name and password",
            ),
            Login(name="bearer token", settings={"token": TOKEN}, method="bearer"),
            Login(name="anonymous", anonymous=True, lists=False, method="anonymous", advice="credential|username"),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """A wrong password and a wrong token."""
        return (
            Mistake(name="wrong password", says="authentication failed", settings={"username": USER, "password": "no"}),
            Mistake(name="wrong token", says="authentication failed", settings={"token": "no"}),
        )

    @property
    def skopeo(self) -> tuple[str, str]:
        """For the token service."""
        return USER, PASSWORD

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """The token service."""
        if request.path != "/token":
            return None
        given = self.basic(request)
        if given is not None and given != (USER, PASSWORD):
            return problem(401, "UNAUTHORIZED", "wrong user name or password")
        access = []
        for scope in request.query.getall("scope", []):
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = given is not None or name in self.public
            if allowed and name not in self.forbidden:
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
        return web.json_response({"token": self.issue(access, sub=USER if given else ""), "expires_in": 300})

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """As CNCF distribution's token authentication answers (always 401, never 403)."""
        scope = {"base": "", "catalog": "registry:catalog:*"}.get(action, f"repository:{repository}:pull")
        shown = self.bearer(request)
        if shown == TOKEN and repository not in self.forbidden:
            return None
        granted = self.granted(shown) if shown else None
        if granted is not None and (not scope or scope in granted):
            return None
        error = "" if shown is None else ',error="invalid_token"' if granted is None else ',error="insufficient_scope"'
        wanted = f',scope="{scope}"' if scope else ""
        return challenge(f'Bearer realm="{self.url}/token",service="fake"{wanted}{error}')
