"""Microsoft Entra and the identity services of Azure's machines, on loopback, for the real azure-identity.

Handlers only: `serve` runs one alone, the registry's fake runs them beside the registry. Tokens are unsigned JWTs that tell the truth.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import functools
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

TENANT = "11111111-aaaa-4bbb-8ccc-000000000001"
APP = "22222222-aaaa-4bbb-8ccc-000000000002"
SYSTEM = "33333333-aaaa-4bbb-8ccc-000000000003"
USER_ASSIGNED = "44444444-aaaa-4bbb-8ccc-000000000004"
APP_SECRET = "s3cret~of-the-application"
FEDERATED = "federated-token-of-the-pod"
MSI_HEADER = "s3cret-header-of-app-service"
RESOURCE = "https://containerregistry.azure.net"
CERTIFICATE_ENDS = dt.datetime(2099, 5, 6, tzinfo=dt.UTC)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AzureCloud:
    """One tenant, one application, and a machine with a system-assigned and some user-assigned identities."""

    def __init__(self) -> None:
        self.system = True
        """Whether the machine has a system-assigned identity."""
        self.assigned = {USER_ASSIGNED}
        """Client ids of its user-assigned identities."""
        self.faults: list[Callable[[], web.Response]] = []
        """Answers that are given first, by any of the services, one each."""
        self.error: tuple[str, str] | None = None
        """What Entra refuses everything with: error and description."""
        self.life = 3600
        self.issued: set[str] = set()
        self.asked: list[Mapping[str, str]] = []
        """Forms and queries, in order."""

    def token(self, client: str, *, audience: str = RESOURCE, life: int | None = None, **claims: Any) -> str:
        """A token of Entra."""
        now = int(time.time())
        body = {
            "aud": audience,
            "iss": f"https://sts.windows.net/{TENANT}/",
            "iat": now,
            "nbf": now,
            "exp": now + (self.life if life is None else life),
            "appid": client,
            "tid": TENANT,
            "uti": str(len(self.issued)),
            **claims,
        }
        token = jwt(body)
        self.issued.add(token)
        return token

    async def imds(self, request: web.Request) -> web.StreamResponse:
        """The instance metadata service: demands its header, and a client id where it is not clear who is meant."""
        if request.path != "/metadata/identity/oauth2/token":
            return web.Response(status=404)
        if request.headers.get("Metadata") != "true" or "X-Forwarded-For" in request.headers:
            return _problem(400, "invalid_request", "Required metadata header not specified")
        return self._machine(request)

    async def app_service(self, request: web.Request) -> web.StreamResponse:
        """The identity endpoint of App Service, Functions and Container Apps."""
        if request.path != "/msi/token" or request.headers.get("X-IDENTITY-HEADER") != MSI_HEADER:
            return web.json_response({"statusCode": 401, "message": "Unauthorized"}, status=401)
        return self._machine(request)

    def _machine(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        if self.faults:
            return self.faults.pop(0)()
        client = request.query.get("client_id", "")
        if client and client not in self.assigned:
            return _problem(400, "invalid_request", "Identity not found")
        if not client and not self.system:
            if len(self.assigned) > 1:
                return _problem(
                    400,
                    "invalid_request",
                    "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in the token request",
                )
            return _problem(400, "invalid_request", "Identity not found")
        resource = request.query["resource"]
        token = self.token(client or SYSTEM, audience=resource)
        ends = int(time.time()) + self.life
        return web.json_response(
            {
                "access_token": token,
                "expires_in": str(self.life),
                "expires_on": str(ends),
                "not_before": str(ends - self.life),
                "resource": resource,
                "token_type": "Bearer",
                "client_id": client or SYSTEM,
            }
        )

    async def entra(self, request: web.Request) -> web.StreamResponse:
        """The token endpoint of the tenant: secret, certificate or federated token."""
        form = {str(name): str(value) for name, value in (await request.post()).items()}
        self.asked.append(form)
        if self.faults:
            return self.faults.pop(0)()
        if self.error is not None:
            return self._refuse(*self.error)
        if request.path != f"/{TENANT}/oauth2/v2.0/token":
            return self._refuse("invalid_request", "AADSTS90002: Tenant 'x' not found.")
        if form.get("client_id") != APP:
            return self._refuse("unauthorized_client", "AADSTS700016: Application with identifier 'x' was not found.")
        if form.get("grant_type") != "client_credentials" or form.get("scope") != f"{RESOURCE}/.default":
            return self._refuse("invalid_scope", "AADSTS70011: The provided value for scope is not valid.")
        assertion = form.get("client_assertion", "")
        if not (form.get("client_secret") == APP_SECRET or assertion == FEDERATED or _signed(assertion)):
            return self._refuse("invalid_client", "AADSTS7000215: Invalid client secret provided.")
        token = self.token(APP)
        return web.json_response({"access_token": token, "expires_in": self.life, "token_type": "Bearer"})

    def _refuse(self, error: str, description: str) -> web.StreamResponse:
        return _problem(
            401, error, f"{description} Trace ID: 0000 Correlation ID: 0001 Timestamp: 2026-01-01 00:00:00Z"
        )


def jwt(claims: Mapping[str, Any]) -> str:
    """An unsigned JWT."""
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join((*encoded, "c2ln"))


@functools.cache
def application_certificate() -> tuple[str, rsa.RSAPublicKey]:
    """The application's certificate with its private key as PEM, and its public key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sensor")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(CERTIFICATE_ENDS)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private + certificate.public_bytes(serialization.Encoding.PEM)).decode(), key.public_key()


def _signed(assertion: str) -> bool:
    """Whether the application's key has signed an assertion."""
    parts = assertion.split(".")
    if len(parts) != 3:
        return False
    signature = base64.urlsafe_b64decode(parts[2] + "==")
    data = ".".join(parts[:2]).encode()
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)  # PS256
    try:
        application_certificate()[1].verify(signature, data, pss, hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _problem(status: int, error: str, description: str) -> web.StreamResponse:
    return web.json_response({"error": error, "error_description": description}, status=status)


@contextlib.asynccontextmanager
async def serve(handler: Handler, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Run one handler alone; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl_context).start()
        scheme = "https" if ssl_context else "http"
        yield f"{scheme}://127.0.0.1:{int(runner.addresses[0][1])}"
    finally:
        await runner.cleanup()
