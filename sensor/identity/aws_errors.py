"""What goes wrong with AWS's identities and APIs, in words that say what to grant, set or open. Imported with the SDK at hand only.

The SDK's own texts are shown where they cannot hold a secret. Some can (an illegal header value is quoted in full), so unknown ones are
named by their type alone.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

from sensor.errors import ConfigError, NetworkError, RegistryError, SecretError, SensorError

Category = Literal["credential", "expired", "denied", "missing", "throttled", "unavailable", "parameter", "other"]

HOP_LIMIT = (
    "in a container the usual cause is the hop limit: aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2; "
    "on a machine outside of EC2 configure aws.access_key_id or aws.profile"
)
VPC = (
    "allow https to this host; a VPC without internet access needs the interface endpoints ecr.api and ecr.dkr (and sts for roles), "
    "and an S3 gateway endpoint for layers"
)
NO_IDENTITY = (
    "give this machine an identity (instance role, ECS task role, IRSA, EKS Pod Identity, environment, profile), "
    "or set aws.access_key_id and aws.secret_access_key"
)
_MOST_TEXT = 600
_SKEW = re.compile(r"Signature (?:expired|not yet current)")
_SKEW_SECONDS = 240.0
"""AWS accepts signatures that are up to five minutes off."""

_CODES: Mapping[str, Category] = {
    "ExpiredToken": "expired",
    "ExpiredTokenException": "expired",
    "RequestExpired": "expired",
    "ExpiredTokenFileException": "expired",
    "UnrecognizedClientException": "credential",
    "InvalidClientTokenId": "credential",
    "InvalidSignatureException": "credential",
    "SignatureDoesNotMatch": "credential",
    "IncompleteSignature": "credential",
    "IncompleteSignatureException": "credential",
    "MissingAuthenticationToken": "credential",
    "MissingAuthenticationTokenException": "credential",
    "RequestTimeTooSkewed": "credential",
    "InvalidAccessKeyId": "credential",
    "AuthFailure": "credential",
    "OptInRequired": "credential",
    "InvalidIdentityToken": "credential",
    "IDPRejectedClaim": "credential",
    "AccessDenied": "denied",
    "AccessDeniedException": "denied",
    "UnauthorizedOperation": "denied",
    "NotAuthorized": "denied",
    "RepositoryNotFoundException": "missing",
    "ImageNotFoundException": "missing",
    "RegistryNotFoundException": "missing",
    "Throttling": "throttled",
    "ThrottlingException": "throttled",
    "ThrottledException": "throttled",
    "RequestThrottled": "throttled",
    "TooManyRequestsException": "throttled",
    "RequestLimitExceeded": "throttled",
    "LimitExceededException": "throttled",
    "ServerException": "unavailable",
    "InternalFailure": "unavailable",
    "InternalServerError": "unavailable",
    "ServiceUnavailable": "unavailable",
    "ServiceUnavailableException": "unavailable",
    "IDPCommunicationError": "unavailable",
    "InvalidParameterException": "parameter",
    "ValidationException": "parameter",
    "ValidationError": "parameter",
}
_DENIED = re.compile(
    r"(?:User: (?P<principal>\S+) is )?not authorized to perform:? (?P<action>[a-z0-9-]+:[A-Za-z*]+)"
    r"(?: on resource:? (?P<resource>\S+))?"
)


class NoIdentity(SecretError):
    """There is no AWS identity, or its source gives none: metadata service, container endpoint, token file, profile."""


class AwsRefused(RegistryError):
    """AWS has answered a call with an error; `category` says of which sort, `code` in AWS's own word."""

    def __init__(
        self,
        message: str,
        advice: str,
        *,
        code: str,
        category: Category,
        operation: str = "",
        retryable: bool = False,
    ) -> None:
        super().__init__(message, advice, retryable=retryable)
        self.code = code
        self.category = category
        self.operation = operation
        """service:Operation."""


class Denial:
    """What a text about a missing permission names."""

    __slots__ = ("action", "principal", "resource", "text")

    def __init__(self, text: str) -> None:
        found = _DENIED.search(text)
        self.text = text
        self.principal = (found["principal"] or "") if found else ""
        self.action = found["action"] if found else ""
        self.resource = (found["resource"] or "").rstrip(".,") if found else ""

    def advice(self) -> str:
        """Which permission to grant, on what, to whom, and in whose policy."""
        action = self.action or "the action"
        if action in {"ecr:GetAuthorizationToken", "ecr-public:GetAuthorizationToken"}:
            return (
                f'grant the permission {action} to {self.who()} with "Resource": "*": no ARN of a repository covers it'
            )
        if action.startswith("sts:AssumeRole"):
            return (
                f"the trust policy of the role {self.resource or 'to be assumed'} must name {self.who()} and, if it asks for one, "
                f"the same aws.assume_roles external_id; {self.who()} needs the permission {action} on that role"
            )
        if "with an explicit deny" in self.text:
            return f"a policy denies {action} explicitly ({self.where()}); take the permission of {self.who()} out of that deny"
        where = self.resource or "the repositories"
        advice = f"grant the permission {action} on {where} to {self.who()}"
        if self.is_foreign():
            return (
                f"{advice}: in its own policy and, because the repository is another account's, in the repository policy there; "
                "or name a role of that account in aws.assume_roles"
            )
        return f"{advice}; a repository policy may deny it as well"

    def who(self) -> str:
        """The principal."""
        return self.principal or "the sensor's identity"

    def where(self) -> str:
        """Whose policy denies."""
        found = re.search(r"in an? ([a-z-]+ (?:control )?(?:policy|boundary))", self.text)
        return found[1] if found else "look at repository, identity and organisation policies"

    def is_foreign(self) -> bool:
        """Whether principal and resource belong to different accounts."""
        ours, theirs = _account(self.principal), _account(self.resource)
        return bool(ours and theirs and ours != theirs)


def _account(arn: str) -> str:
    parts = arn.split(":")
    return parts[4] if len(parts) > 5 else ""


def shown(text: object) -> str:
    """Text from outside, cut and without control characters."""
    return "".join(c if c.isprintable() else " " for c in str(text))[:_MOST_TEXT].strip()


def refused(response: Mapping[str, Any], operation: str, now: float | None = None) -> AwsRefused:
    """The error for AWS's answer; `response` is what the SDK's ClientError holds, `operation` service:Operation."""
    said = response.get("Error") or {}
    code, text = shown(said.get("Code", "")), shown(said.get("Message", ""))
    metadata = response.get("ResponseMetadata") or {}
    status = metadata.get("HTTPStatusCode", 0)
    category = _CODES.get(code, "unavailable" if isinstance(status, int) and status >= 500 else "other")
    skew = _skew(metadata.get("HTTPHeaders") or {}, time.time() if now is None else now)
    message = f"{operation}: {code or f'status {status}'}" + (f", {text}" if text else "")
    if abs(skew) > _SKEW_SECONDS:
        message += (
            f"; this machine's clock is {abs(skew) / 60:.0f} minutes {'ahead of' if skew > 0 else 'behind'} AWS's"
        )
    advice = _advice(category, code, text, operation, skewed=abs(skew) > _SKEW_SECONDS)
    return AwsRefused(
        message,
        advice,
        code=code,
        category=category,
        operation=operation,
        retryable=category in {"throttled", "unavailable"},
    )


def _skew(headers: Mapping[str, Any], now: float) -> float:
    """Seconds by which our clock is ahead, from the answer's Date header."""
    try:
        return now - parsedate_to_datetime(str(headers.get("date", ""))).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _advice(category: Category, code: str, text: str, operation: str, *, skewed: bool) -> str:
    if category == "denied":
        denial = Denial(text)
        denial.action = denial.action or operation
        return denial.advice()
    if code in {"InvalidIdentityToken", "IDPRejectedClaim"}:
        return "the cluster's OIDC provider must exist in IAM, and the role's trust policy name it, the service account and the audience"
    if category in {"credential", "expired"} and (skewed or _SKEW.search(text) or code == "RequestTimeTooSkewed"):
        return "set this machine's clock (NTP): AWS refuses signatures that are more than five minutes off"
    return _ADVICE.get(category, "")


_ADVICE: Mapping[Category, str] = {
    "expired": "temporary access keys have ended: configure new ones with aws.session_token, or better a role, which is renewed",
    "credential": (
        "check aws.access_key_id and aws.secret_access_key (temporary ones need aws.session_token), whether the key is active, "
        "and whether the region is enabled for the account"
    ),
    "throttled": "AWS limits requests; they are repeated later",
    "unavailable": "AWS has a failure of its own; the request is repeated later",
    "missing": "it may have been deleted; check name, account and region",
}


def translate(error: Exception, operation: str) -> SensorError:
    """The error for whatever the SDK raises. `operation` says what was being done: service:Operation, or `AWS credentials`."""
    import botocore.exceptions as sdk  # noqa: PLC0415 - only a site with AWS pays for it

    if isinstance(error, sdk.ClientError):
        return refused(error.response, _operation_of(error, operation))
    if isinstance(error, (sdk.ConnectionError, sdk.HTTPClientError)):
        return _of_network(error, operation)
    if isinstance(error, (sdk.NoRegionError, sdk.InvalidRegionError)):
        return ConfigError(f"{operation}: {shown(error)}", "set aws.region")
    if isinstance(error, (sdk.ParamValidationError, sdk.InvalidConfigError)):
        return ConfigError(f"{operation}: {shown(error)}", "check the registry's aws section and the AWS configuration")
    if isinstance(error, sdk.BotoCoreError):
        return _of_source(error, operation)
    return _plain(error, operation)


def _of_network(error: Any, operation: str) -> NetworkError:
    """The request did not arrive, or no answer did."""
    import botocore.exceptions as sdk  # noqa: PLC0415

    if isinstance(error, sdk.SSLError):
        advice = "name the PEM file of the issuing authority in ca_file"
        return NetworkError(f"{operation}: {shown(error)}", advice, retryable=False)
    if isinstance(error, sdk.ProxyConnectionError):
        return NetworkError(f"{operation}: the proxy cannot be reached", "check http.proxy and http.no_proxy")
    if isinstance(error, (sdk.ConnectionError, sdk.ReadTimeoutError, sdk.ConnectionClosedError)):
        return NetworkError(f"{operation}: {shown(error)}", VPC)
    cause = type(error.kwargs.get("error")).__name__  # its text may quote a header
    return NetworkError(f"{operation}: the request failed: {cause}", VPC)


def _of_source(error: Any, operation: str) -> SecretError:
    """A source of credentials gives none."""
    import botocore.exceptions as sdk  # noqa: PLC0415

    if isinstance(error, sdk.NoCredentialsError):
        return NoIdentity("no AWS credentials were found", NO_IDENTITY)
    if isinstance(error, sdk.MetadataRetrievalError):
        return NoIdentity("the instance metadata service gave no IMDSv2 token", HOP_LIMIT)
    if isinstance(error, (sdk.CredentialRetrievalError, sdk.SSOError, sdk.InvalidIMDSEndpointError)):
        return NoIdentity(shown(error), "check that endpoint, and the role that is attached there")
    if isinstance(error, (sdk.ProfileNotFound, sdk.PartialCredentialsError, sdk.ConfigNotFound, sdk.ConfigParseError)):
        return SecretError(shown(error), "check aws.profile, AWS_PROFILE and the AWS configuration files of this user")
    return SecretError(f"{operation}: {shown(error)}", "check the AWS configuration of this machine")


def _operation_of(error: Any, operation: str) -> str:
    """What was refused: a role is renewed in the middle of another call."""
    name = shown(error.operation_name)
    if operation.endswith(f":{name}"):
        return operation
    return f"sts:{name}" if name.startswith("AssumeRole") else name


def _plain(error: Exception, operation: str) -> SensorError:
    """Python's own exceptions, which the SDK lets through from sources of credentials and from malformed answers."""
    text = str(error)
    if "not a legal header value" in text:
        return NoIdentity(
            "the authorization token for the container's credentials ends with a line break",
            "write the file of AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE without one: printf %s, not echo",
        )
    if text.startswith("Unsupported host"):
        return NoIdentity(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI names a host that may not be asked in plain HTTP",
            "only loopback, 169.254.170.2, 169.254.170.23 and fd00:ec2::23 may; use https:// for others",
        )
    if isinstance(error, OSError):
        name = f" {shown(error.filename)}" if error.filename else ""
        reason = shown(error.strerror or type(error).__name__)
        return NoIdentity(
            f"a file with AWS credentials cannot be read:{name}: {reason}", "check its path and who may read it"
        )
    if isinstance(error, RuntimeError) and "expired" in text:
        return NoIdentity(
            "the source of AWS credentials gives expired ones", "check this machine's clock, and the source"
        )
    message = f"{operation}: an answer that is not understood ({type(error).__name__})"
    return (
        NoIdentity(message, "check the endpoint, and any proxy in between") if ":" not in operation else _odd(message)
    )


def _odd(message: str) -> AwsRefused:
    return AwsRefused(message, "check api.url, and any proxy in between", code="", category="other")


def container_tokens(environment: Mapping[str, str]) -> Iterator[str]:
    """What is shown to a container's credentials endpoint."""
    if token := environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", ""):
        yield token
    if path := environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", ""):
        with contextlib.suppress(OSError):
            yield Path(path).read_text("utf-8", "replace").strip()
