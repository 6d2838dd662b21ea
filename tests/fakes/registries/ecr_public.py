"""public.ecr.aws and its API: a token service, 400 without a challenge for a token that is not taken, and repositories of one alias."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.fakes.aws import Iam, Key, Served, Sts
from tests.fakes.registries.ecr import EcrApi, EcrFake, named
from tests.fakes.registries.provider import Login, Mistake, ProviderFake, challenge, problem


class EcrPublicFake(ProviderFake):
    """public.ecr.aws under its own name, by a proxy on loopback; so that the sensor takes it for the public registry."""

    kind = "ecr"
    service = "ecr-public"
    detected = {"https://public.ecr.aws/": {"registry": "public"}, "ecr-public.aws.com": {"registry": "public"}}
    names = ("acme/app", "acme/base", "acme/cli", "acme/db", "acme/edge")
    public = names
    login_names = ("access keys of one's own registry", "anonymous at public.ecr.aws")
    mistake_names = ("wrong key at public.ecr.aws",)
    grant = r"permission ecr-public:BatchGetImage|right"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.iam = Iam()
        self.user = self.iam.user()
        self.sts = Sts(iam=self.iam)
        self.api = EcrApi(self)
        self.passwords: dict[str, int] = {}
        self._sts = Served(self.sts)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self._sts.__aenter__()
        await self.listen("proxy", self._proxy)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._sts.__aexit__(*error)
        await super().__aexit__(*error)

    async def _proxy(self, request: web.Request) -> web.StreamResponse:
        if request.host == "public.ecr.aws":
            return await self._registry(request)
        if request.host == "api.invalid":
            return await self.api(request)
        if request.host == "d5l0dvt14r5h8.cloudfront.net":
            await self._see("storage", request)
            return await self._storage(request)
        return await self.sts(request)

    # -- for the suite ---------------------------------------------------------------------------------------------------

    @property
    def base(self) -> dict[str, Any]:
        """Its true name, and the way there."""
        proxy = f"http://{self.address('proxy')}"
        return {"url": "http://public.ecr.aws", "proxy": proxy, "api": {"url": "http://api.invalid"}}

    @property
    def logins(self) -> tuple[Login, ...]:
        """An account, and nobody."""
        env = {
            "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_ENDPOINT_URL_STS": self._sts.url,
        }  # fmt: skip
        keys = EcrFake.keys(self.user)
        made = (
            Login(name="", settings=keys, env=env, identity=":user/sensor$", method="access key"),
            Login(name="", anonymous=True, lists=False, method="anonymous", advice="repositories.names"),
        )
        return named(self.login_names, made)

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """A wrong key."""
        settings = {"aws": {"access_key_id": self.user.id, "secret_access_key": "wrong"}}
        mistake = Mistake(name="", says="authentication failed", settings=settings, env=self.logins[0].env)
        return named(self.mistake_names, (mistake,))

    @property
    def skopeo(self) -> tuple[str, str]:
        """As `docker login` is fed by get-login-password."""
        return "AWS", self.password()

    # -- passwords and tokens --------------------------------------------------------------------------------------------

    def password(self) -> str:
        """A new password."""
        password = base64.b64encode(f"public-{len(self.passwords)}".encode()).decode()
        self.passwords[password] = self.epoch
        return password

    def authorization(self, _key: Key) -> Any:
        """An object here, not a list."""
        token = base64.b64encode(f"AWS:{self.password()}".encode()).decode()
        return {"authorizationToken": token, "expiresAt": time.time() + 43200}

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """The token service."""
        if request.path != "/token/":
            return None
        given = self.basic(request)
        if given is not None and self.passwords.get(given[1]) != self.epoch:
            return web.Response(status=401, text="Not Authorized")
        return web.json_response({"token": self.issue(sub=given[0] if given else "")})

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """A challenge to whoever shows nothing, 400 without one for a token that is not taken."""
        token = self.bearer(request)
        if token is None:
            host = request.host
            value = f'Bearer realm="http://{host}/token/",service="public.ecr.aws",scope="aws"'
            return challenge(value, "Not Authorized")
        if self.granted(token) is None:
            return web.Response(status=400)
        if repository in self.forbidden:
            text = (
                "not authorized to perform: ecr-public:BatchGetImage on resource: arn:aws:ecr-public::x:repository/app"
            )
            return problem(403, "DENIED", text)
        return None

    def throttle(self, request: web.Request) -> web.StreamResponse:
        """No Retry-After."""
        return problem(429, "TOOMANYREQUESTS", "Rate exceeded")

    def blob(self, request: web.Request, digest: str) -> web.StreamResponse:
        """A content delivery network."""
        if self.storage:
            location = f"http://d5l0dvt14r5h8.cloudfront.net/{digest}?X-Signature=a%2Bb%2F%3D"
            return web.Response(status=307, headers={"Location": location})
        return self._bytes(digest)

    # -- the API ---------------------------------------------------------------------------------------------------------

    def api_names(self) -> tuple[str, ...]:
        """Without the alias."""
        return tuple(name.partition("/")[2] for name in self.names)

    def entries(self, operation: str, body: Mapping[str, Any], api: EcrApi) -> tuple[str, list[Any]]:
        """All entries of an operation, before paging."""
        if operation == "DescribeRepositories":
            return "repositories", [
                {"repositoryName": name.partition("/")[2], "repositoryUri": f"public.ecr.aws/{name}"}
                for name in self.names
            ]
        images = self.images[f"acme/{body['repositoryName']}"]
        return "imageTagDetails", [
            {
                "imageTag": tag,
                "createdAt": self.pushed(tag),
                "imageDetail": {"imageDigest": images[tag].digest, "imagePushedAt": self.pushed(tag)},
            }
            for tag in images
        ]
