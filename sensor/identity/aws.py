"""Amazon's identities, by the real SDK: access keys, profiles, IRSA, ECS and EKS containers, the instance's role, and roles assumed from them.

An `AwsIdentity` is one way to be somebody at AWS, for one registry: it finds the credentials, renews them before they expire (the SDK does,
15 minutes ahead), and makes API calls, each in a thread and with a time limit. Three things differ from the SDK's defaults: metadata is asked
by IMDSv2 only and never through a proxy, whatever the environment says; API calls take the sensor's own route (proxy, authorities); and
nothing of the environment's proxies is used. Leaves what to call, and what an answer means, to `registry/kinds`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import ssl
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sensor.config.logins import Aws, AwsRole
from sensor.errors import ConfigError, NetworkError, SecretError, SensorError
from sensor.identity.aws_errors import NO_IDENTITY, VPC, AwsRefused, NoIdentity, container_tokens, translate
from sensor.identity.sdk import AWS, importing
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.reflection import secrets_shown, without_secrets
from sensor.route import Route
from sensor.secret import Secret, SecretSource, read_secret
from sensor.tls import stamp_of, tls_context
from sensor.version import VERSION

_T = TypeVar("_T")
_METADATA_ATTEMPTS = 3
_THREADS = 8
"""Calls at once. A thread that was given up lives until the SDK's own time-outs; it must not take one of those that resolve names for all."""
_MOST_SHOWN = 30
"""Secrets of the last requests that are remembered, to be kept out of errors."""
_YOUNG_SECONDS = 30.0
"""Credentials that were read so recently are not read again because of a refusal."""
_METHODS: Mapping[str, str] = {
    "explicit": "access key",
    "env": "access key of the environment",
    "shared-credentials-file": "access key of a profile",
    "config-file": "access key of a profile",
    "assume-role": "role of a profile",
    "assume-role-with-web-identity": "web identity (IRSA)",
    "container-role": "ECS task role",
    "iam-role": "instance role (IMDSv2)",
    "sso": "single sign-on of a profile",
    "custom-process": "credential process of a profile",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which of AWS's endpoints are asked."""

    region: str = ""
    """Empty: that of the environment or the configuration files."""
    fips: bool = False
    dual_stack: bool = False
    endpoints: Mapping[str, str] = field(default_factory=dict)
    """Service to URL, where it is not AWS's own (an interface endpoint without private DNS)."""
    path_style: bool = False
    """Buckets stand in the path, not in the host's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long things may take."""

    attempts: int = 8
    """At one call, the first included."""
    seconds: float = 120.0
    """For one call with all its attempts; the thread behind it ends by the SDK's own time-outs."""
    metadata_seconds: float = 5.0
    """For one request to the metadata service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who AWS takes us for."""

    arn: str
    account: str
    via: str
    """How the credentials were found, for people."""


class _Found:
    """Credentials as the SDK's sessions want them: from a resolver."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Any:
        """Give the credentials; they renew themselves."""
        return self._credentials


@dataclass(slots=True, kw_only=True)
class _Open:
    """A session with its credentials, and the clients made of it so far."""

    session: Any
    region: str
    via: str
    read_at: float
    stamp: tuple[int, int, int] | None
    clients: dict[str, Any] = field(default_factory=dict)


class AwsIdentity:
    """One identity and the API clients that act for it. Nothing is read or asked before the first call. Close it when done."""

    def __init__(
        self,
        settings: Aws,
        place: Place,
        route: Route,
        *,
        patience: Patience | None = None,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._place = place
        self._route = route
        self._patience = patience or Patience()
        self._limits = limits
        self._clock = clock
        self._opening = asyncio.Lock()
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, "aws")
        self._shown: deque[Secret] = deque(maxlen=_MOST_SHOWN)
        self._open: _Open | None = None
        self._bundle: str | None = None
        self.via = ""
        """How the credentials were found, for people; empty before the first call."""

    async def who(self) -> Caller:
        """Ask AWS who we are (sts:GetCallerIdentity, which needs no permission).

        Raises:
            SensorError: no identity, a refused one, or no answer.
        """
        answer = await self.call("sts", "get_caller_identity")
        return Caller(arn=str(answer.get("Arn", "")), account=str(answer.get("Account", "")), via=self.via)

    async def close(self) -> None:
        """Release the SDK's connections."""
        opened, self._open = self._open, None
        if opened is not None:
            for client in opened.clients.values():
                await asyncio.to_thread(client.close)
        self._threads.shutdown(wait=False)

    async def call(self, service: str, operation: str, **arguments: object) -> Mapping[str, Any]:
        """Make one API call; `operation` is written like the SDK's methods: `describe_images`. The answer is of AWS's own shape.

        Credentials that are refused are read anew once: a key may have been rotated.

        Raises:
            NoIdentity: no credentials, or their source does not answer.
            AwsRefused: AWS says no.
            SecretError: a configured secret cannot be read.
            ConfigError: no region, or an impossible argument.
            NetworkError: no answer.
        """
        name = f"{service}:{''.join(part.title() for part in operation.split('_'))}"
        client = await self._client(service)
        try:
            return await self._in_thread(functools.partial(getattr(client, operation), **arguments), name)
        except AwsRefused as error:
            if error.category not in {"credential", "expired"} or not self._forget():
                raise
        client = await self._client(service)
        return await self._in_thread(functools.partial(getattr(client, operation), **arguments), name)

    def _forget(self) -> bool:
        """Drop credentials that were refused; whether they were old enough for that to help."""
        if self._open is not None and self._clock() - self._open.read_at < _YOUNG_SECONDS:
            return False
        self._open = None
        return True

    async def _client(self, service: str) -> Any:
        """The client of a service. The SDK's sessions are not safe to use from two threads, its clients are."""
        async with self._opening:
            if self._open is not None and self._open.stamp != stamp_of(self._route.ca_file):
                self._open = None
            if self._open is None:
                self._open = await self._in_thread(self._resolve, "AWS credentials")
                self.via = self._open.via
            opened = self._open
            if service not in opened.clients:
                # a thread that was given up may still be using the session
                self._open = None
                opened.clients[service] = await self._in_thread(
                    functools.partial(self._make_client, opened.session, service, opened.region), f"{service} client"
                )
                self._open = opened
            return opened.clients[service]

    async def _in_thread(self, work: Callable[[], _T], doing: str) -> _T:
        """Do something with the SDK. Its exceptions, and those of Python that it lets through, become SensorErrors."""

        def translated() -> _T:
            with importing(AWS):
                import botocore.exceptions as sdk  # noqa: PLC0415 - only a site with AWS pays for it
                from botocore.parsers import ResponseParserError  # noqa: PLC0415

            try:
                return work()
            except (sdk.BotoCoreError, sdk.ClientError, ResponseParserError) as error:
                said = translate(error, doing)
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
                said = translate(error, doing)
            # without its cause, which may repeat what was shown: the SDK quotes whole answers
            raise self._discreet(said)

        try:
            async with asyncio.timeout(self._patience.seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, translated)
        except TimeoutError as error:
            message = f"{doing}: no answer within {self._patience.seconds:.0f} seconds"
            raise NetworkError(message, VPC) from error

    def _discreet(self, error: SensorError) -> SensorError:
        """The error without the secrets that were shown, should the other side have repeated them."""
        secrets = (*(one.reveal() for one in self._shown), *container_tokens(os.environ))
        error.message = without_secrets(error.message.encode(), secrets).decode()
        error.advice = without_secrets(error.advice.encode(), secrets).decode()
        error.args = (error.message,)
        return error

    # -- in a thread from here on ------------------------------------------------------------------------------------------

    def _resolve(self) -> _Open:
        """Find credentials: those of the settings, else along the SDK's chain; then assume roles one after the other."""
        from botocore.credentials import RefreshableCredentials  # noqa: PLC0415

        stamp = stamp_of(self._route.ca_file)
        session = self._session(self._settings.profile)
        region = self._place.region or os.environ.get("AWS_REGION") or session.get_config_variable("region") or ""
        if not region:
            message = "no AWS region is known"
            raise ConfigError(message, "set aws.region: the registry's host does not name one")
        session.set_config_variable("region", region)
        via = self._find(session)
        for role in self._settings.assume_roles:
            renew = functools.partial(_assume, self._make_client(session, "sts", region), role)
            credentials = RefreshableCredentials.create_from_metadata(
                metadata=renew(), refresh_using=renew, method="assume-role"
            )
            session = self._session("")
            session.register_component("credential_provider", _Found(credentials))
            via += f", then the role {role.arn}"
        return _Open(session=session, region=region, via=via, read_at=self._clock(), stamp=stamp)

    def _session(self, profile: str) -> Any:
        """A session that asks for metadata as it should, whatever the environment says."""
        import botocore.session  # noqa: PLC0415

        session = botocore.session.Session(profile=profile or None)
        session.set_config_variable("ec2_metadata_v1_disabled", True)  # noqa: FBT003 - the SDK's own shape
        session.set_config_variable("metadata_service_timeout", self._patience.metadata_seconds)
        session.set_config_variable("metadata_service_num_attempts", _METADATA_ATTEMPTS)
        if (bundle := self._authorities()) is not None:
            session.set_config_variable("ca_bundle", bundle)
        session.set_default_client_config(self._config(self._proxies("sts.amazonaws.com")))
        session.register("before-send", self._note)
        return session

    def _note(self, request: Any, **_more: object) -> None:
        """Remember what a request shows; the SDK calls this before it sends one."""
        headers = {name: v.decode("latin-1") if isinstance(v, bytes) else str(v) for name, v in request.headers.items()}
        body = request.body.encode() if isinstance(request.body, str) else request.body
        for secret in map(Secret, secrets_shown(headers, body if isinstance(body, bytes) else None)):
            if secret not in self._shown:
                self._shown.append(secret)

    def _find(self, session: Any) -> str:
        """Give the session its credentials; how they were found."""
        from botocore.httpsession import URLLib3Session  # noqa: PLC0415

        settings = self._settings
        if settings.access_key_id:
            if settings.secret_access_key is None:
                message = "aws.access_key_id is set, but no secret key"
                raise SecretError(message, "set aws.secret_access_key")
            token = _read(settings.session_token, "aws.session_token") if settings.session_token is not None else None
            session.set_credentials(
                settings.access_key_id, _read(settings.secret_access_key, "the secret access key"), token
            )
            return _METHODS["explicit"]
        provider = session.get_component("credential_provider").get_provider("iam-role")
        # the SDK sends even metadata requests through HTTP_PROXY, and has no switch against it
        provider._role_fetcher._session = URLLib3Session(timeout=self._patience.metadata_seconds)  # noqa: SLF001
        credentials = session.get_credentials()
        if credentials is None:
            raise NoIdentity(
                "no AWS credentials were found: neither in the environment, a profile, a web identity, a container, nor a role of the instance",
                NO_IDENTITY,
            )
        credentials.get_frozen_credentials()  # some are only fetched now
        return _method(credentials.method, os.environ)

    def _make_client(self, session: Any, service: str, region: str) -> Any:
        """A client with the sensor's route; which proxy that means is known with the endpoint."""
        endpoint = self._place.endpoints.get(service)
        own = service.startswith("ecr") and endpoint is None

        def make(proxies: Mapping[str, str]) -> Any:
            config = self._config(proxies, fips=self._place.fips and own, dual_stack=self._place.dual_stack and own)
            return session.create_client(service, region_name=region, endpoint_url=endpoint, config=config)

        client = make({})
        proxies = self._proxies(urlsplit(client.meta.endpoint_url).hostname or "")
        return make(proxies) if proxies else client

    def _proxies(self, host: str) -> Mapping[str, str]:
        proxy = self._route.proxy_for(host)
        return {"http": proxy, "https": proxy} if proxy else {}

    def _config(self, proxies: Mapping[str, str], *, fips: bool = False, dual_stack: bool = False) -> Any:
        from botocore.config import Config  # noqa: PLC0415

        # newer SDKs add checksums that services which are like S3 do not understand
        checksums = {
            name: "when_required"
            for name in ("request_checksum_calculation", "response_checksum_validation")
            if name in Config.OPTION_DEFAULTS
        }
        return Config(
            **checksums,
            connect_timeout=self._limits.connect_seconds,
            read_timeout=self._limits.idle_seconds,
            retries={"mode": "adaptive", "total_max_attempts": self._patience.attempts},
            proxies=dict(proxies),
            user_agent_extra=f"harborguard-sensor/{VERSION}",
            defaults_mode="legacy",  # "auto" would ask the metadata service for a region
            **({"s3": {"addressing_style": "path"}} if self._place.path_style else {}),
            **({"use_fips_endpoint": True} if fips else {}),
            **({"use_dualstack_endpoint": True} if dual_stack else {}),
        )

    def _authorities(self) -> str | None:
        """A file with the system's authorities and the configured ones, as the rest of the sensor trusts; None: the SDK's own.

        The SDK takes one file, and it replaces all others.
        """
        if not self._route.ca_file:
            return None if "AWS_CA_BUNDLE" in os.environ else ssl.get_default_verify_paths().cafile
        context = tls_context(self._route.ca_file)
        from botocore.httpsession import where  # noqa: PLC0415

        parts = [ssl.DER_cert_to_PEM_cert(one) for one in context.get_ca_certs(binary_form=True)]
        parts += [Path(name).read_text("utf-8", "replace") for name in (where(), self._route.ca_file)]
        if self._bundle is None:
            descriptor, self._bundle = tempfile.mkstemp(prefix="harborguard-authorities-", suffix=".pem")
            os.close(descriptor)
            weakref.finalize(self, _remove, self._bundle)
        Path(self._bundle).write_text("\n".join(parts), "utf-8")
        return self._bundle


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _read(source: SecretSource, what: str) -> str:
    text = read_secret(source).reveal()
    if not text.isprintable() or not text.isascii():
        message = f"{what} contains line breaks or characters that no such key has"
        raise SecretError(message, "store the key alone, on one line")
    return text


def _assume(client: Any, role: AwsRole) -> dict[str, str]:
    """Assume a role; the SDK calls this again before its credentials end."""
    more = {"ExternalId": role.external_id} if role.external_id else {}
    given = client.assume_role(RoleArn=role.arn, RoleSessionName=role.session_name, **more)["Credentials"]
    return {
        "access_key": given["AccessKeyId"],
        "secret_key": given["SecretAccessKey"],
        "token": given["SessionToken"],
        "expiry_time": given["Expiration"].isoformat(),
    }


def _method(found: str, environment: Mapping[str, str]) -> str:
    """How credentials were found, for people, with the SDK's own word."""
    name = _METHODS.get(found, "AWS identity")
    if found == "container-role" and "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" not in environment:
        token = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "")
        name = "EKS Pod Identity" if "eks" in token or "169.254.170.23" in _container(environment) else "container role"
    return f"{name} [{found}]"


def _container(environment: Mapping[str, str]) -> str:
    return environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
