"""Amazon ECR, private and public (public.ecr.aws): whose host it is, where its password comes from, and what its errors mean.

A private registry takes Basic with a password of 12 hours, which `ecr:GetAuthorizationToken` makes for an AWS identity; the public one has a
token service that takes the same sort of password, or nobody at all. Listing is in `ecr_api` and `ecr_public`, the identity in `identity.aws`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from sensor.config.logins import Aws
from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError, RegistryError
from sensor.identity.aws import AwsIdentity, Patience, Place
from sensor.pacing import Rate
from sensor.registry.challenge import parse_challenges
from sensor.registry.errors import (
    AUTHENTICATION_FAILED,
    ImageWithheld,
    RegistryForbidden,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    UnexpectedAnswer,
    as_refused_login,
    error_codes,
    error_detail,
)
from sensor.registry.kinds.ecr_api import KMS, RESTORE, PrivateApi, denial_error
from sensor.registry.kinds.ecr_login import EcrCredential, EcrPassword
from sensor.registry.kinds.ecr_public import SERVICE as PUBLIC_SERVICE
from sensor.registry.kinds.ecr_public import PublicApi
from sensor.registry.kinds.kind import (
    Connection,
    Detection,
    Opening,
    RegistryKind,
    configured,
    has_configured,
    host_of,
    namespaced_address,
)
from sensor.registry.login import Answer, Basic, Credential, StaticToken
from sensor.registry.native import Native
from sensor.registry.port import Method
from sensor.registry.quirks import Quirks
from sensor.registry.terms import CredentialSource, Refusal
from sensor.transport import Reply, Transport

PUBLIC_HOSTS = frozenset({"public.ecr.aws", "ecr-public.aws.com"})
_HOST = re.compile(
    r"(?P<account>[0-9]{12})\.dkr(?P<stack>[.-])ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9][a-z0-9-]*)\."
    r"(?:amazonaws\.(?:com(?:\.cn)?|eu)|on\.(?:aws|amazonwebservices\.(?:com\.cn|eu)|aws\.ic\.gov|aws\.scloud|aws\.hci\.ic\.gov|"
    r"cloud-aws\.adc-e\.uk)|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
_ACCESS_KEY = re.compile(r"A(?:KIA|SIA)[A-Z0-9]{12,124}")
_OTHER_ID = re.compile(r"A(?:IDA|ROA|GPA|IPA|NPA|NVA|PKA)[A-Z0-9]{12,124}")
_NOT_AN_EXPIRY = frozenset({"UNSUPPORTED", "NAME_INVALID", "TAG_INVALID", "MANIFEST_INVALID", "DIGEST_INVALID"})
_EXPIRED = b"authorization token has expired"
_NAMES = re.compile(r"'[^']*'|arn:\S+")
"""What an error quotes; a repository may be called archive/app."""


def detect(url: str) -> Detection | None:
    """ECR's hosts, of all partitions, FIPS and dual stack."""
    host = host_of(url)
    if host in PUBLIC_HOSTS:
        return Detection(reason=f"{host} is Amazon's public registry", facts={"registry": "public"})
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    facts = {"account": found["account"], "region": found["region"]}
    if found["fips"]:
        facts["fips"] = "yes"
    if found["stack"] == "-":
        facts["dual_stack"] = "yes"
    return Detection(
        reason=f"{host} is the ECR registry of account {found['account']} in {found['region']}", facts=facts
    )


def recognise(reply: Reply) -> str | None:
    """ECR behind another name."""
    for challenge in parse_challenges(reply.header_lists.get("www-authenticate", ())):
        if challenge["service"] in {"ecr.amazonaws.com", "public.ecr.aws"}:
            return f"its challenge names the service {challenge['service']}"
    return None


def is_public(settings: Settings) -> bool:
    """Whether it is the public registry."""
    return host_of(settings.url) in PUBLIC_HOSTS


def aws_settings(settings: Settings) -> Aws | None:
    """Which AWS identity to log in with; None where the configuration gives another credential, or nobody is to be logged in."""
    if settings.auth == "anonymous":
        return None
    if settings.password is not None and _ACCESS_KEY.fullmatch(settings.username):
        keys = {"access_key_id": settings.username, "secret_access_key": settings.password}
        return settings.aws.model_copy(update=keys)
    named = bool(settings.aws.access_key_id or settings.aws.profile or settings.aws.assume_roles)
    if settings.auth == "aws" or (named and not has_configured(settings)):
        return settings.aws
    return None if has_configured(settings) or is_public(settings) else settings.aws


def credentials(opening: Opening, _transport: Transport) -> CredentialSource:
    """Passwords made for an AWS identity, or what the configuration holds. No identity is looked for unless one is needed."""
    settings = opening.settings
    aws = aws_settings(settings)
    if aws is None:
        return configured(opening)
    service = PUBLIC_SERVICE if is_public(settings) else "ecr"
    patience = Patience(attempts=opening.retry.attempts) if opening.retry else None
    identity = AwsIdentity(aws, _place(settings, service), opening.route, patience=patience, limits=opening.limits)
    return EcrCredential(identity, service, complaint=_key_complaint(settings))


def _place(settings: Settings, service: str) -> Place:
    """Where the API is: the host tells, else the settings."""
    facts = found.facts if (found := detect(settings.url)) else {}
    endpoint = settings.api.url
    if endpoint and urlsplit(endpoint).scheme != "https" and not settings.insecure:
        message = f"registry {settings.name}: api.url is to be asked in plain HTTP, which is not allowed"
        raise ConfigError(message, "use https://")
    return Place(
        region="us-east-1" if service == PUBLIC_SERVICE else facts.get("region", settings.aws.region),
        fips="fips" in facts,
        dual_stack="dual_stack" in facts,
        endpoints={service: endpoint.rstrip("/")} if endpoint else {},
    )


def method(settings: Settings, credential: Credential | None) -> Method:
    """Which way of logging in it is, and what looks wrong about it."""
    match credential:
        case EcrPassword(via=via):
            return Method(name=via, complaint=_key_complaint(settings))
        case Basic(username="AWS"):
            complaint = (
                "this token of get-login-password ends 12 hours after it was made: configure access keys or a role"
            )
            return Method(name="authorization token", complaint=complaint)
        case Basic(username=username):
            return Method(name="user name and password", complaint=_name_complaint(username))
        case StaticToken():
            return Method(
                name="bearer token", lists=False, complaint="ECR takes no bearer tokens: use access keys or a role"
            )
        case _ if aws_settings(settings) is not None:
            return Method(name="AWS identity", complaint=_key_complaint(settings))
        case _:
            return Method(name="anonymous", pulls=is_public(settings), lists=False)


def _key_complaint(settings: Settings) -> str:
    aws = aws_settings(settings) or settings.aws
    if aws.access_key_id.startswith("ASIA") and aws.session_token is None:
        return "an access key that begins with ASIA is a temporary one: set aws.session_token too"
    if aws.access_key_id and not _ACCESS_KEY.fullmatch(aws.access_key_id):
        return _name_complaint(aws.access_key_id)
    return ""


def _name_complaint(name: str) -> str:
    if _OTHER_ID.fullmatch(name):
        return "that is the id of a user or role, not of an access key: those begin with AKIA or ASIA"
    return "ECR takes an access key (its id begins with AKIA or ASIA, and has 20 characters) and its secret key, or the user name AWS and a token"


def expired(answer: Answer) -> bool:
    """Whether the password, or public.ecr.aws's token, has ended. An answer to HEAD has no words, so that is tried once."""
    if answer.status == 403:
        return _EXPIRED in answer.body.lower() or not answer.body
    return (
        answer.status == 400
        and not answer.header_lists.get("www-authenticate")
        and not error_codes(answer.body) & _NOT_AN_EXPIRY
    )


def explain(refusal: Refusal) -> RegistryError:  # noqa: PLR0911 - a table in prose
    """ECR's refusals: rights with action and resource, states of images, failures of keys and upstreams."""
    error, answer = refusal.error, refusal.answer
    if answer is None or answer.status in {404, 429}:
        return error
    body = answer.body.decode("utf-8", "replace")
    lower = _NAMES.sub("", body).lower()
    message = error.message
    if _EXPIRED in answer.body.lower():
        return RegistryUnauthorized(as_refused_login(message), _expired_advice(refusal.credential))
    if "not authorized to perform" in lower:
        said = error_detail(answer.body) or body
        return denial_error(message if "not authorized" in message else f"{message}: {said}", body)
    if "archive" in lower or "imageinaccessible" in lower:
        return ImageWithheld(message, f"the image is archived: {RESTORE}")
    if "kms" in lower:
        return RegistryForbidden(message, KMS)
    if "upstream" in lower:
        return _upstream_error(message, lower)
    if answer.status == 401 and refusal.credential is None:
        return RegistryUnauthorized(
            message, "ECR knows no anonymous clients: give the sensor an AWS identity, or set aws.access_key_id"
        )
    if answer.status == 401:
        return RegistryUnauthorized(
            message, "the password may be of another region or partition, or has ended: configure access keys or a role"
        )
    if answer.status == 403:
        plain = message.replace(f"{AUTHENTICATION_FAILED}: ", "")
        return RegistryForbidden(
            plain, "grant the permission ecr:BatchGetImage on this repository to the sensor's identity"
        )
    if answer.status == 400 and isinstance(error, (RegistryUnauthorized, RegistryForbidden)):
        return UnexpectedAnswer(message, "public.ecr.aws says this to a token that it does not take; it is made anew")
    return error


def _expired_advice(credential: Credential | None) -> str:
    if isinstance(credential, EcrPassword):
        return "a new password is refused as expired: check this machine's clock"
    return "a password for the user AWS ends after 12 hours: configure access keys or a role, which are renewed"


def _upstream_error(message: str, lower: str) -> RegistryError:
    """The image is not cached, and the upstream of the pull-through cache does not give it."""
    if "toomanyrequests" in lower or "too many requests" in lower:
        return RegistryRateLimited(message, "the upstream of the pull-through cache limits requests; tried again later")
    if "unavailable" in lower or "timeout" in lower or "timed out" in lower:
        return RegistryUnavailable(message, "the upstream of the pull-through cache does not answer; tried again later")
    return RegistryForbidden(
        message,
        "the pull-through cache cannot have it from its upstream: check the rule's secret, and the permissions "
        "ecr:BatchImportUpstreamImage and ecr:CreateRepository",
    )


def rates(settings: Settings) -> Mapping[str, Rate]:
    """public.ecr.aws lets an address pull once a second, a login ten times; a short burst after a rest does no harm."""
    if not is_public(settings):
        return {}
    known = settings.auth != "anonymous" and (aws_settings(settings) is not None or has_configured(settings))
    return {"": Rate(per_second=10.0 if known else 1.0, burst=10)}


def native(connection: Connection) -> Native:
    """Listing by the API, as the identity that the passwords are made for."""
    settings, limits = connection.settings, connection.opening.limits
    source = connection.credentials
    identity = source.identity if isinstance(source, EcrCredential) else None
    if is_public(settings):
        return PublicApi(identity, limits=limits)
    facts = found.facts if (found := detect(settings.url)) else {}
    return PrivateApi(
        identity,
        connection.session,
        account=facts.get("account", settings.aws.account),
        namespaces=settings.repositories.namespaces,
        limits=limits,
    )


ECR = RegistryKind(
    name="ecr",
    title="Amazon ECR",
    detect=detect,
    recognise=recognise,
    credentials=credentials,
    method=method,
    uses=frozenset({"aws", "api.url"}),
    address=namespaced_address,
    realms=("public.ecr.aws",),
    expired=expired,
    explain=explain,
    quirks=Quirks(catalog=False),  # `ecr_api` falls back to it itself; public.ecr.aws has none
    rates=rates,
    native=native,
)
