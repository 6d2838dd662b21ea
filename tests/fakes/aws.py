"""AWS as far as a sensor asks it: STS, instance metadata (version 2 only), container credentials, and who has which key.

`Iam` knows keys and roles; the rest are handlers for aiohttp, to be mounted on any server. Signatures (SigV4) are checked, trust policies
and external ids too, which moto does not do. The operations of ECR are in `registries/ecr`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

from aiohttp import web

FAR = "2099-01-01T00:00:00Z"
ACCOUNT = "123456789012"
OTHER_ACCOUNT = "210987654321"


@dataclass(slots=True, kw_only=True)
class Key:
    """An access key."""

    id: str
    secret: str
    arn: str
    token: str = ""
    state: str = "active"
    """`active`, `expired` (temporary ones), or `deleted`."""

    @property
    def account(self) -> str:
        """The account that it belongs to."""
        return self.arn.split(":")[4]


@dataclass(slots=True, kw_only=True)
class Role:
    """A role that may be assumed."""

    arn: str
    trusts: str = ""
    """Whoever's ARN contains it."""
    external_id: str = ""
    web_token: str = ""
    """The web identity token that it takes."""


class Iam:
    """Keys and roles."""

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.roles: dict[str, Role] = {}
        self._numbers = itertools.count(1)

    def user(self, name: str = "sensor", account: str = ACCOUNT) -> Key:
        """A user with a new access key."""
        return self._keep("AKIA", f"arn:aws:iam::{account}:user/{name}", "")

    def session(self, role: str, name: str = "session") -> Key:
        """Temporary keys of a role."""
        account, _, short = role.split(":", 4)[4].partition(":role/")
        token = f"session-token-{next(self._numbers)}/+=="
        return self._keep("ASIA", f"arn:aws:sts::{account}:assumed-role/{short}/{name}", token)

    def role(self, name: str, account: str = ACCOUNT, **more: str) -> Role:
        """A role."""
        role = Role(arn=f"arn:aws:iam::{account}:role/{name}", **more)
        self.roles[role.arn] = role
        return role

    def _keep(self, prefix: str, arn: str, token: str) -> Key:
        number = next(self._numbers)
        key = Key(id=f"{prefix}{number:016d}", secret=f"secret/{number}+of/{prefix}", arn=arn, token=token)
        self.keys[key.id] = key
        return key

    async def caller(self, request: web.Request) -> Key | tuple[str, str]:
        """Who has signed a request, or code and message of the refusal."""
        parts = dict(
            part.strip().partition("=")[::2]
            for part in request.headers.get("Authorization", "").removeprefix("AWS4-HMAC-SHA256").split(",")
        )
        if "Credential" not in parts:
            return "MissingAuthenticationToken", "Missing Authentication Token"
        key = self.keys.get(parts["Credential"].split("/")[0])
        if key is None or key.state == "deleted" or key.token != request.headers.get("X-Amz-Security-Token", ""):
            return "UnrecognizedClientException", "The security token included in the request is invalid."
        if parts["Signature"] != sign(request, await request.read(), key.secret, parts):
            return "InvalidSignatureException", "The request signature we calculated does not match the signature."
        if key.state == "expired":
            return "ExpiredTokenException", "The security token included in the request is expired"
        return key


def sign(request: web.Request, body: bytes, secret: str, parts: Mapping[str, str]) -> str:
    """The SigV4 signature that a request should have."""
    names = parts["SignedHeaders"].split(";")
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names)
    hashed = hashlib.sha256(body).hexdigest()
    canonical = "\n".join((request.method, request.rel_url.raw_path or "/", "", headers, ";".join(names), hashed))
    scope = parts["Credential"].partition("/")[2]
    text = "\n".join(
        ("AWS4-HMAC-SHA256", request.headers["X-Amz-Date"], scope, hashlib.sha256(canonical.encode()).hexdigest())
    )
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def keys_document(key: Key, expires: str = FAR) -> dict[str, str]:
    """Credentials as metadata services answer them."""
    return {"AccessKeyId": key.id, "SecretAccessKey": key.secret, "Token": key.token, "Expiration": expires}


@dataclass(slots=True, kw_only=True)
class Sts:
    """STS: GetCallerIdentity, AssumeRole, AssumeRoleWithWebIdentity (query protocol, XML)."""

    iam: Iam
    asked: list[dict[str, str]] = field(default_factory=list)
    life: str = FAR
    """The end of assumed roles' keys."""

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer one call."""
        form = dict(parse_qsl((await request.read()).decode()))
        self.asked.append(form)
        action = form["Action"]
        if action == "AssumeRoleWithWebIdentity":
            role = self.iam.roles.get(form["RoleArn"])
            if role is None or not role.web_token or role.web_token != form["WebIdentityToken"]:
                return xml_error("InvalidIdentityToken", "No OpenIDConnect provider found in your account", 400)
            return self._assumed(action, role, form)
        caller = await self.iam.caller(request)
        if isinstance(caller, tuple):
            code = {"UnrecognizedClientException": "InvalidClientTokenId"}.get(caller[0], caller[0])
            return xml_error(code, caller[1])
        if action == "GetCallerIdentity":
            return xml(action, f"<Arn>{caller.arn}</Arn><UserId>ID</UserId><Account>{caller.account}</Account>")
        role = self.iam.roles.get(form["RoleArn"])
        if role is None or role.trusts not in caller.arn or role.external_id != form.get("ExternalId", ""):
            text = f"User: {caller.arn} is not authorized to perform: sts:AssumeRole on resource: {form['RoleArn']}"
            return xml_error("AccessDenied", text)
        return self._assumed(action, role, form)

    def _assumed(self, action: str, role: Role, form: Mapping[str, str]) -> web.Response:
        key = self.iam.session(role.arn, form["RoleSessionName"])
        return xml(
            action,
            f"<Credentials><AccessKeyId>{key.id}</AccessKeyId><SecretAccessKey>{key.secret}</SecretAccessKey>"
            f"<SessionToken>{key.token}</SessionToken><Expiration>{self.life}</Expiration></Credentials>"
            f"<AssumedRoleUser><Arn>{key.arn}</Arn><AssumedRoleId>ID:x</AssumedRoleId></AssumedRoleUser>",
        )


def xml(action: str, inner: str) -> web.Response:
    """A good answer of STS."""
    text = (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>{inner}</{action}Result>'
        f"<ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
    )
    return web.Response(text=text, content_type="text/xml")


def xml_error(code: str, message: str, status: int = 403) -> web.Response:
    """A refusal of STS."""
    text = (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    )
    return web.Response(status=status, text=text, content_type="text/xml")


def json_error(code: str, message: str, status: int = 400, **headers: str) -> web.Response:
    """A refusal in the JSON 1.1 protocol."""
    text = json.dumps({"__type": code, "message": message})
    return web.Response(status=status, text=text, content_type="application/x-amz-json-1.1", headers=headers)


@dataclass(slots=True, kw_only=True)
class Metadata:
    """The instance metadata service, version 2 only."""

    iam: Iam
    role: str = f"arn:aws:iam::{ACCOUNT}:role/instance"
    """Empty: the instance has none."""
    token: str = "imds-token=="
    refuse: int = 0
    """The status of PUT."""
    hang: asyncio.Event | None = None
    """PUT waits for it: the answer is lost for want of hops."""
    expires: str = FAR
    asked: list[str] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append(f"{request.method} {request.path}")
        if request.method == "PUT":
            if self.hang is not None:
                await self.hang.wait()
            if self.refuse or "x-aws-ec2-metadata-token-ttl-seconds" not in request.headers:
                return web.Response(status=self.refuse or 400)
            return web.Response(text=self.token)
        if request.headers.get("x-aws-ec2-metadata-token") != self.token:
            return web.Response(status=401)
        place = "/latest/meta-data/iam/security-credentials/"
        name = self.role.rpartition("/")[2]
        if self.role and request.path == place:
            return web.Response(text=name)
        if self.role and request.path == place + name:
            key = self.iam.session(self.role, "i-0123456789abcdef0")
            return web.json_response({"Code": "Success", "Type": "AWS-HMAC", **keys_document(key, self.expires)})
        return web.Response(status=404)


@dataclass(slots=True, kw_only=True)
class Container:
    """The credentials endpoint of ECS tasks and of EKS Pod Identity."""

    iam: Iam
    token: str = "container-token"
    role: str = f"arn:aws:iam::{ACCOUNT}:role/task"
    answer: Mapping[str, Any] | None = None
    """Instead of the keys."""
    asked: list[str] = field(default_factory=list)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append(request.path)
        if request.headers.get("Authorization") != self.token:
            return web.Response(status=401, text="wrong token")
        if self.answer is not None:
            return web.json_response(self.answer)
        return web.json_response(keys_document(self.iam.session(self.role)))


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Served:
    """One handler on loopback."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        async def answer(request: web.Request) -> web.StreamResponse:
            return await self._handler(request)

        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """http://127.0.0.1:port."""
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"
