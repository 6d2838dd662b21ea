"""Tokens of Microsoft Entra for the machine's identity or a service principal. The only user of azure-identity, imported lazily.

Managed identity (system- or user-assigned; on virtual machines, AKS, App Service, Container Apps, Arc), workload identity of AKS, and
service principals with a secret or a certificate. The class of credential is named, never guessed by trying one after the other: each
wrong guess costs seconds and hides the reason. What a token is for, and what is made of it, is the caller's business.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from sensor.config.logins import Azure
from sensor.errors import ConfigError, NetworkError, SecretError, SensorError
from sensor.identity.sdk import AZURE, importing
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.route import Route
from sensor.secret import Secret, read_secret
from sensor.transport import Transport

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

Way: TypeAlias = Literal["secret", "certificate", "workload", "managed"]

TITLES: dict[Way, str] = {
    "secret": "service principal (secret)",
    "certificate": "service principal (certificate)",
    "workload": "workload identity",
    "managed": "managed identity",
}
"""How people call the ways."""

_WORKLOAD = "AZURE_FEDERATED_TOKEN_FILE"
"""The webhook of AKS sets it in a pod, with AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_AUTHORITY_HOST."""
_SECONDS = 30.0
"""For one token, with all the SDK's own attempts. The metadata service answers in milliseconds, Entra within a second or two."""
_METADATA_CONNECT_SECONDS = 3.0
"""The metadata service is on the same host; where it is not, the packets go nowhere and nobody refuses them."""
_MOST_DETAIL = 300
_CODE = re.compile(r"AADSTS(\d+)")
_FEDERATED = (
    "compare the federated credential of the app or identity with the pod's token: issuer (the cluster's OIDC issuer URL), subject "
    "(system:serviceaccount:NAMESPACE:NAME), audience (api://AzureADTokenExchange)"
)
_ADVICE = {
    "50034": "there is no such user in that tenant",
    "53003": "a Conditional Access policy refuses this sign-in; exempt the service principal from it",
    "90002": "there is no such tenant: check azure.tenant_id, and azure.authority for a sovereign cloud",
    "500011": "the tenant does not know the service of Azure Container Registry; register an Azure registry there once, and check azure.tenant_id",
    "700016": "there is no such application in that tenant: check azure.client_id and azure.tenant_id",
    "700024": "the assertion is not valid yet or any more: check the clock of this machine, and whether the token file is being renewed",
    "700027": "the certificate does not belong to the application: upload it there, and check azure.client_id",
    "70021": _FEDERATED,
    "700211": _FEDERATED,
    "700212": _FEDERATED,
    "700213": _FEDERATED,
    "700223": _FEDERATED,
    "7000112": "the application is disabled in that tenant",
    "7000215": "the client secret is wrong; azure.client_secret wants the secret's value, not its ID",
    "7000222": "the client secret has expired: make a new one and store its value",
    "900023": "the tenant is neither an ID nor a domain: check azure.tenant_id",
}
"""By the number of the AADSTS code, which is always shown as well."""
_NO_MACHINE = (
    "the metadata service is there on Azure only; elsewhere name a service principal (azure.client_id, azure.client_secret), a user name "
    "and password, or auth: anonymous. In a pod a network policy must let 169.254.169.254 through"
)


class AzureRefused(SecretError):
    """Entra or the machine's identity service was reached and gave no token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureToken:
    """An access token of Entra and when it ends (Unix time)."""

    value: Secret = field(repr=False)
    expires: float


def way_of(settings: Azure) -> Way:
    """Which identity is used. Workload identity where its variables are set and nothing else is asked for."""
    if settings.client_secret is not None:
        return "secret"
    if settings.certificate is not None:
        return "certificate"
    if settings.identity == "auto":
        return "workload" if os.environ.get(_WORKLOAD) else "managed"
    return settings.identity


class AzureIdentity:
    """One identity and its tokens. Close it when done."""

    def __init__(
        self,
        settings: Azure,
        transport: Transport,
        *,
        authority: str = "",
        limits: Limits = DEFAULT_LIMITS,
        seconds: float = _SECONDS,
        local: Transport | None = None,
    ) -> None:
        """Nothing is sent yet.

        `transport` reaches Entra and is the caller's. `authority` is the token service's host, unless the settings name one; empty: that
        of the environment (AZURE_AUTHORITY_HOST), else of the public cloud. `seconds` bound the wait for one token. `local` reaches the
        machine's identity service; it is closed with this.
        """
        self.way: Way = way_of(settings)
        self.expires: float | None = None
        """When the certificate of a service principal ends (Unix time), once it has been read; None: not known."""
        self._settings = settings
        self._transport = transport
        self.authority = settings.authority or authority
        """Host of the token service; empty: that of the environment or of the public cloud."""
        self._seconds = seconds
        # never through a proxy: a proxy would answer with its own machine's identity
        self._local = local or Transport(
            Route(proxy="direct"), limits=replace(limits, connect_seconds=_METADATA_CONNECT_SECONDS, idle_seconds=15.0)
        )
        self._credential: AsyncTokenCredential | None = None
        self._lock = asyncio.Lock()

    async def token(self, scope: str, *, renew: bool = False) -> AzureToken:
        """A token for a scope (`https://.../.default`): the SDK's cached one while it is good. `renew` reads the secret anew and asks again.

        Raises:
            ConfigError: tenant or client are missing, or the certificate is none.
            SecretError: the secret cannot be read.
            AzureRefused: there is no such identity, or it may not have this token.
            NetworkError: no answer.
        """
        async with self._lock:
            if renew:
                await self._drop()
            if self._credential is None:
                self._credential = await asyncio.to_thread(self._build)
            return await self._ask(self._credential, scope)

    async def close(self) -> None:
        """Release connections."""
        await self._drop()
        await self._local.close()

    async def _drop(self) -> None:
        credential, self._credential = self._credential, None
        if credential is not None:
            await credential.close()

    async def _ask(self, credential: AsyncTokenCredential, scope: str) -> AzureToken:
        from azure.core.exceptions import AzureError  # noqa: PLC0415 - slow to import and rarely used

        try:
            async with asyncio.timeout(self._seconds):
                given = await credential.get_token(scope)
        except TimeoutError as error:
            message = f"{self._name()}: no token within {self._seconds:.0f} s"
            raise NetworkError(message, _NO_MACHINE if self.way == "managed" else "check the path to Entra") from error
        except AzureError as error:
            raise self._explained(error) from error
        except OSError as error:
            message = f"{self._name()}: {error.strerror or error}"
            raise SecretError(message, "check AZURE_FEDERATED_TOKEN_FILE and that the sensor may read it") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{self._name()}: an answer that is not that of a token service"
            raise NetworkError(message, "check azure.authority and any proxy in between", retryable=False) from error
        return AzureToken(value=Secret(given.token), expires=float(given.expires_on))

    def _build(self) -> AsyncTokenCredential:
        """Import the SDK and make the credential object. Slow: runs in a thread."""
        with importing(AZURE):
            from azure.identity import aio  # noqa: PLC0415

            from sensor.identity.azure_pipeline import Pipe  # noqa: PLC0415

        settings = self._settings
        entra: dict[str, Any] = {"transport": Pipe(self._transport), "retry_connect": 1}
        if self.authority:
            entra["authority"] = self.authority
        try:
            match self.way:
                case "managed":
                    return aio.ManagedIdentityCredential(
                        client_id=settings.client_id or None,
                        transport=Pipe(self._local),
                        retry_connect=1,
                        # it would prefer workload identity where the variables are set; that is way_of's decision
                        _exclude_workload_identity_credential=True,
                    )
                case "workload":
                    return aio.WorkloadIdentityCredential(
                        tenant_id=settings.tenant_id or None, client_id=settings.client_id or None, **entra
                    )
                case "certificate":
                    tenant, client = self._principal()
                    pem = read_secret(settings.certificate).reveal().encode()
                    self.expires = _end_of_certificate(pem)
                    return aio.CertificateCredential(tenant, client, certificate_data=pem, **entra)
                case "secret":
                    tenant, client = self._principal()
                    return aio.ClientSecretCredential(
                        tenant, client, read_secret(settings.client_secret).reveal(), **entra
                    )
        except ValueError as error:
            raise self._unusable() from error

    def _principal(self) -> tuple[str, str]:
        tenant = self._settings.tenant_id or os.environ.get("AZURE_TENANT_ID", "")
        client = self._settings.client_id or os.environ.get("AZURE_CLIENT_ID", "")
        if not tenant or not client:
            message = f"{self._name()}: azure.{'client_id' if tenant else 'tenant_id'} is missing"
            raise ConfigError(
                message, "a service principal needs tenant_id, client_id, and client_secret or certificate"
            )
        return tenant, client

    def _unusable(self) -> SensorError:
        """Why the SDK did not take what was configured. Its own words may quote the secret, so they are not repeated."""
        authority = self.authority or os.environ.get("AZURE_AUTHORITY_HOST", "")
        if authority and urlsplit(authority).scheme not in {"", "https"}:
            return ConfigError(
                f"{self._name()}: the token service's address is not an HTTPS URL",
                "correct azure.authority or AZURE_AUTHORITY_HOST",
            )
        match self.way:
            case "certificate":
                return ConfigError(
                    f"{self._name()}: the certificate cannot be used",
                    "azure.certificate wants one PEM file with the certificate and its unencrypted RSA private key",
                )
            case "workload":
                return ConfigError(
                    f"{self._name()}: AZURE_TENANT_ID, AZURE_CLIENT_ID or AZURE_FEDERATED_TOKEN_FILE is missing",
                    'label the pod azure.workload.identity/use: "true" and annotate its service account with '
                    "azure.workload.identity/client-id; or set azure.client_id and azure.tenant_id",
                )
            case _:
                return ConfigError(
                    f"{self._name()}: azure.tenant_id or azure.client_id cannot be used",
                    "both are IDs, as the portal shows them",
                )

    def _name(self) -> str:
        client = self._settings.client_id
        return f"{TITLES[self.way]} {client}" if client else TITLES[self.way]

    def _explained(self, error: Exception) -> SensorError:
        """What the SDK's error means. A connection that failed is told as that, everything else is a refusal."""
        for cause in _causes(error):
            if isinstance(cause, NetworkError):
                advice = _NO_MACHINE if self.way == "managed" else cause.advice
                return NetworkError(f"{self._name()}: {cause.message}", advice, retryable=cause.retryable)
            status = getattr(getattr(cause, "response", None), "status_code", None)
            if isinstance(status, int) and (status == 429 or status >= 500):
                return NetworkError(
                    f"{self._name()}: status {status}", "the token service is out of order; it is asked again"
                )
        text = str(error)
        said = _first_line(text)
        if self.way == "managed":
            return AzureRefused(f"{self._name()}: {said}", self._machine_advice(text))
        code = _CODE.search(text)
        if code is None:
            return AzureRefused(f"{self._name()}: {said}", "check azure.authority, and any proxy in between")
        advice = _ADVICE.get(code[1], "look the code up at https://login.microsoftonline.com/error")
        return AzureRefused(f"{self._name()}: {said}", advice)

    def _machine_advice(self, text: str) -> str:
        lowered = text.lower()
        if "multiple user assigned" in lowered:
            return "this machine has several identities: name one of them in azure.client_id"
        if "identity not found" in lowered or "has been assigned" in lowered or "no managed identity" in lowered:
            if self._settings.client_id:
                return "assign that identity to this machine, or correct azure.client_id (the client ID, not the object ID)"
            return "switch on the machine's system-assigned identity, or assign one and name it in azure.client_id"
        return _NO_MACHINE


def _end_of_certificate(pem: bytes) -> float:
    from cryptography import x509  # noqa: PLC0415 - needed here only

    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it came of."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _first_line(text: str) -> str:
    """What the SDK says, without trace ids and bodies, cut, and without control characters."""
    line = text.strip().splitlines()[0] if text.strip() else "no reason given"
    line = re.split(r"\s*(?:Trace ID:|Content:)", line)[0]
    return "".join(c if c.isprintable() else " " for c in line)[:_MOST_DETAIL].strip()
