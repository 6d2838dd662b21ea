"""Google's identity services on loopback: metadata server, OAuth token endpoint, STS, IAM credentials, for the real google-auth.

    async with GcpFake() as google:
        google.key()            # a service account's key whose token endpoint is here
        google.metadata = True  # from now on there is a metadata server

google-auth reads where the metadata server is when it is imported. So one port is reserved for the life of the process, and named in the
environment when this module is imported, which is before any test runs. While no fake listens there, connections are refused, as in the
first seconds of a pod; no test ever reaches a real metadata server.
"""

from __future__ import annotations

import atexit
import base64
import functools
import json
import os
import socket
import ssl
import sys
import time
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

_RESERVED = socket.socket()
_RESERVED.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
_RESERVED.bind(("127.0.0.1", 0))  # bound and never listening: whoever connects is refused
atexit.register(_RESERVED.close)
METADATA = f"127.0.0.1:{_RESERVED.getsockname()[1]}"
os.environ["GCE_METADATA_HOST"] = os.environ["GCE_METADATA_IP"] = METADATA

PROJECT = "acme-prod"
KEY_EMAIL = f"scanner@{PROJECT}.iam.gserviceaccount.com"
MACHINE_EMAIL = f"node@{PROJECT}.iam.gserviceaccount.com"
TARGET_EMAIL = f"reader@{PROJECT}.iam.gserviceaccount.com"
POOL = "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/site/providers/oidc"
SUBJECT = "subject-token-of-the-site"
READ = "https://www.googleapis.com/auth/cloud-platform.read-only"
FULL = "https://www.googleapis.com/auth/cloud-platform"
IAM = "https://www.googleapis.com/auth/iam"
AWS_TOKEN = "urn:ietf:params:aws:token-type:aws4_request"
CLEAN = {
    "GOOGLE_APPLICATION_CREDENTIALS": "",
    "CLOUDSDK_CONFIG": "/nonexistent",
}
"""An environment in which nothing but the metadata server gives an identity of Google."""

_ASSUMED = (
    "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>AKIAIRSA</AccessKeyId>"
    "<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2120-01-01T00:00:00Z</Expiration></Credentials>"
    "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
)
"""What AWS answers to a pod with a web identity."""


@functools.cache
def private_key() -> rsa.RSAPrivateKey:
    """One key for all tests: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class GcpFake:
    """What it was asked is in `seen`; what it says to a request may be set in `refuse` (path part to status and body)."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.refuse: dict[str, tuple[int, Any]] = {}
        self.life = 3600
        """Seconds for which tokens are issued."""
        self.epoch = 0
        """Tokens of earlier ones have expired."""
        self.scopes: tuple[str, ...] = (FULL,)
        """Access scopes of the machine."""
        self.flavor = "Google"
        self._issued: dict[str, tuple[str, int]] = {}
        self._runners: list[web.AppRunner] = []
        self._app = self._runner(self._answer)
        self._port = 0

    # -- life ------------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._port = await self._start(self._app)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def serve_metadata(self) -> None:
        """From now on this is a machine of Google's."""
        loaded = sys.modules.get("google.auth.compute_engine._metadata")
        assert loaded is None or loaded._GCE_METADATA_HOST == METADATA, "google-auth was imported before its fake"
        await self._start(self._runner(self._metadata), port=int(METADATA.rpartition(":")[2]))

    async def serve_tls(self, context: ssl.SSLContext) -> str:
        """The same services behind TLS; host:port."""
        return f"127.0.0.1:{await self._start(self._runner(self._answer), context=context)}"

    def _runner(self, handler: Any) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._runners.append(runner)
        return runner

    async def _start(self, runner: web.AppRunner, *, port: int = 0, context: ssl.SSLContext | None = None) -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context, reuse_port=bool(port)).start()
        return int(runner.addresses[0][1])

    @property
    def url(self) -> str:
        """Token endpoint, STS and IAM credentials."""
        return f"http://127.0.0.1:{self._port}"

    # -- what a customer has -----------------------------------------------------------------------------------------------

    def key(self, **more: Any) -> str:
        """A service account's key, as downloaded."""
        pem = private_key().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": "0123456789abcdef",
                "private_key": pem.decode(),
                "client_email": KEY_EMAIL,
                "client_id": "1234567890",
                "token_uri": f"{self.url}/token",
                **more,
            },
            indent=2,
        )

    def federation(self, source: Any, *, impersonate: bool = False, **more: Any) -> str:
        """A configuration for workload identity federation."""
        info: dict[str, Any] = {
            "type": "external_account",
            "audience": POOL,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"{self.url}/v1/token",
            "credential_source": source,
            **more,
        }
        if impersonate:
            info["service_account_impersonation_url"] = self.impersonation_url
        return json.dumps(info)

    @property
    def impersonation_url(self) -> str:
        """Where the target's tokens are made."""
        return f"{self.url}/v1/projects/-/serviceAccounts/{TARGET_EMAIL}:generateAccessToken"

    # -- tokens ------------------------------------------------------------------------------------------------------------

    def issue(self, principal: str) -> str:
        """An access token."""
        token = f"ya29.{len(self._issued)}-{principal.partition('@')[0]}-{'x' * 60}"
        self._issued[token] = (principal, self.epoch)
        return token

    def principal(self, token: str | None) -> str | None:
        """Whose token this is; None when it was never issued or has expired."""
        principal, epoch = self._issued.get(token or "", ("", -1))
        return principal if epoch == self.epoch else None

    # -- answers -----------------------------------------------------------------------------------------------------------

    async def _metadata(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.path_qs)
        headers = {"Metadata-Flavor": self.flavor}
        if request.headers.get("Metadata-Flavor") != "Google":
            return web.Response(status=403, text="Missing Metadata-Flavor:Google header.", headers=headers)
        if (refused := self._refused(request)) is not None:
            refused.headers.update(headers)
            return refused
        path = request.path.removeprefix("/computeMetadata/v1/")
        if path == "project/project-id":
            return web.Response(text=PROJECT, headers=headers)
        account = "instance/service-accounts/"
        if path.startswith(account) and request.query.get("recursive") == "true":
            told = {"aliases": ["default"], "email": MACHINE_EMAIL, "scopes": list(self.scopes)}
            return web.json_response(told, headers=headers)
        if path.startswith(account) and path.endswith("/token"):
            return web.json_response(self._token(MACHINE_EMAIL), headers=headers)
        return web.Response(status=404, headers=headers)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.path_qs)
        if (refused := self._refused(request)) is not None:
            return refused
        if request.path == "/subject":
            return web.json_response({"id": {"value": SUBJECT}, "token": SUBJECT})
        if request.path == "/creds":
            if request.headers.get("Authorization") != "pod-identity":
                return web.Response(status=401)
            return web.json_response(
                {"AccessKeyId": "AKIAPOD", "SecretAccessKey": "s", "Token": "t", "Expiration": "2120-01-01T00:00:00Z"}
            )
        if request.path.endswith(":generateAccessToken"):
            return await self._impersonate(request)
        self.forms.append({name: values[0] for name, values in parse_qs(await request.text()).items()})
        if request.path == "/token":
            return self._grant(self.forms[-1])
        if request.path == "/v1/token":
            return self._exchange(self.forms[-1])
        assert self.forms[-1]["Action"] == "AssumeRoleWithWebIdentity"
        return web.Response(text=_ASSUMED, content_type="text/xml")

    def _refused(self, request: web.Request) -> web.Response | None:
        for part, (status, body) in self.refuse.items():
            if part in request.path_qs:
                return web.Response(status=status, text=body) if isinstance(body, str) else _json(status, body)
        return None

    def _token(self, principal: str) -> dict[str, Any]:
        return {"access_token": self.issue(principal), "expires_in": self.life, "token_type": "Bearer"}

    def _grant(self, form: dict[str, str]) -> web.Response:
        """A key's signed assertion, or gcloud's refresh token."""
        if form["grant_type"] == "refresh_token":
            if form["refresh_token"] != "refresh":
                return _json(400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."})
            return web.json_response(self._token("user@example.com"))
        head, body, signature = form["assertion"].split(".")
        try:
            private_key().public_key().verify(
                _decode(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return _json(400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        claims = json.loads(_decode(body))
        assert claims["aud"] == "https://oauth2.googleapis.com/token"
        assert claims["scope"] in {READ, IAM}
        return web.json_response(self._token(claims["iss"]))

    def _exchange(self, form: dict[str, str]) -> web.Response:
        """A token of the site for one of Google's."""
        if form["audience"] != POOL:
            return _json(
                400, {"error": "invalid_target", "error_description": "The target service indicated is invalid."}
            )
        if form["subject_token_type"] == AWS_TOKEN:
            signed = json.loads(unquote(form["subject_token"]))
            headers = {one["key"].lower(): one["value"] for one in signed["headers"]}
            good = "Action=GetCallerIdentity" in signed["url"] and headers["x-goog-cloud-target-resource"] == POOL
            good = good and "Credential=AKIA" in headers["authorization"]
        else:
            good = form["subject_token"] == SUBJECT
        if not good:
            return _json(400, {"error": "invalid_grant", "error_description": "The given credential is rejected."})
        issued = "urn:ietf:params:oauth:token-type:access_token"
        return web.json_response({**self._token("federated"), "issued_token_type": issued})

    async def _impersonate(self, request: web.Request) -> web.Response:
        if self.principal(request.headers.get("Authorization", "").removeprefix("Bearer ")) is None:
            return _json(401, {"error": {"code": 401, "message": "invalid credentials", "status": "UNAUTHENTICATED"}})
        assert (await request.json())["scope"] == [READ]
        target = request.path.rpartition("/")[2].partition(":")[0]
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.life))
        return web.json_response({"accessToken": self.issue(target), "expireTime": ends})


def _json(status: int, body: Any) -> web.Response:
    return web.json_response(body, status=status)


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
