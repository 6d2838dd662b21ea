from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.config.schema import Http, Registry
from sensor.errors import ConfigError, RegistryError
from sensor.registry.errors import (
    ImageWithheld,
    RegistryForbidden,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    UnexpectedAnswer,
)
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.ecr import (
    aws_settings,
    detect,
    expired,
    explain,
    method,
    rates,
    recognise,
)
from sensor.registry.kinds.ecr_login import EcrPassword
from sensor.registry.login import Answer, Basic, Credential, StaticToken
from sensor.registry.terms import Refusal
from sensor.secret import Secret
from sensor.transport import Reply
from tests.fakes.aws import ACCOUNT

HOST = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com"


def configured(url: str = HOST, **more: Any) -> Registry:
    return Registry.model_validate({"name": "r", "url": url, **more})


# --- detection ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "region"),
    [
        ("dkr.ecr.us-east-1.amazonaws.com", "us-east-1"),
        ("dkr.ecr-fips.us-gov-east-1.amazonaws.com", "us-gov-east-1"),
        ("dkr.ecr.cn-northwest-1.amazonaws.com.cn", "cn-northwest-1"),
        ("dkr.ecr.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1"),
        ("dkr-ecr.eu-west-3.on.aws", "eu-west-3"),
        ("dkr-ecr-fips.us-west-2.on.aws", "us-west-2"),
        ("dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", "cn-north-1"),
        ("dkr.ecr.us-iso-east-1.c2s.ic.gov", "us-iso-east-1"),
        ("dkr.ecr.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1"),
        ("dkr.ecr.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1"),
        ("dkr.ecr.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1"),
    ],
)  # fmt: skip
def test_hosts_of_all_partitions(suffix: str, region: str) -> None:
    for url in (f"{ACCOUNT}.{suffix}", f"HTTPS://{ACCOUNT}.{suffix.upper()}:443/team", f"{ACCOUNT}.{suffix}."):
        found = detect(url)
        assert found is not None, url
        assert (found.facts["account"], found.facts["region"]) == (ACCOUNT, region)
        assert ("fips" in found.facts) is ("fips" in suffix)
        assert ("dual_stack" in found.facts) is ("dkr-ecr" in suffix)
        assert ACCOUNT in found.reason


@pytest.mark.parametrize(
    "url",
    [
        f"{HOST}.evil.com", f"evil-{HOST}", f"https://{HOST}@evil.com/", f"https://evil.com/{HOST}", f"https://evil.com?{HOST}",
        "１２３４５６７８９０１２.dkr.ecr.eu-west-1.amazonaws.com", f"{ACCOUNT}0.dkr.ecr.eu-west-1.amazonaws.com",
        f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com\nx", f"{ACCOUNT}.dkr.ecr..amazonaws.com", f"{ACCOUNT}.dkr.ecr.a.b.amazonaws.com",
        f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.org", f"{ACCOUNT}.dkr.ecr.eu-west-1.on.aws.example.com", "ecr.aws", "xpublic.ecr.aws",
        "public.ecr.aws.evil.com", "oci:/public.ecr.aws", "", "http://[", "docker.io",
    ],
)  # fmt: skip
def test_lookalikes(url: str) -> None:
    assert detect(url) is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_taken(text: str) -> None:
    detect(text)
    detect(f"{ACCOUNT}.dkr.ecr.{text}.amazonaws.com")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (f'Basic realm="https://{HOST}/",service="ecr.amazonaws.com"', True),
        ('Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws"', True),
        ('Basic realm="x"', False),
    ],
)
def test_recognised_behind_another_name(value: str, found: bool) -> None:
    reply = Reply(status=401, url="https://x/v2/", headers={}, body=b"", header_lists={"www-authenticate": (value,)})
    assert (recognise(reply) is not None) is found


# --- which login --------------------------------------------------------------------------------------------------------------

KEY = {"access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "x"}


@pytest.mark.parametrize(
    ("url", "more", "identity"),
    [
        (HOST, {}, True),
        (HOST, {"auth": "anonymous", "aws": KEY}, False),
        (HOST, {"username": "AWS", "password": "x"}, False),
        (HOST, {"username": "AWS", "password": "x", "aws": {"profile": "p"}}, False),
        (HOST, {"username": "AWS", "password": "x", "auth": "aws"}, True),
        (HOST, {"username": "AKIAIOSFODNN7EXAMPLE", "password": "x"}, True),
        (HOST, {"docker_config": {}}, False),
        (HOST, {"plugin": {"command": "/bin/x"}}, False),
        ("public.ecr.aws", {}, False),
        ("public.ecr.aws", {"auth": "aws"}, True),
        ("public.ecr.aws", {"aws": {"profile": "p"}}, True),
        ("public.ecr.aws", {"username": "AKIAIOSFODNN7EXAMPLE", "password": "x"}, True),
    ],
)
def test_when_an_aws_identity_is_wanted(url: str, more: dict[str, Any], identity: bool) -> None:
    assert (aws_settings(configured(url, **more)) is not None) is identity


def test_keys_as_user_name_and_password_are_keys() -> None:
    aws = aws_settings(configured(username="AKIAIOSFODNN7EXAMPLE", password="x", aws={"region": "eu-west-1"}))
    assert aws is not None
    assert aws.access_key_id == "AKIAIOSFODNN7EXAMPLE"
    assert aws.region == "eu-west-1"


MADE = EcrPassword(username="AWS", password=Secret("p"), via="instance role (IMDSv2) [iam-role]")
RAW = Basic(username="AWS", password=Secret("p"))


@pytest.mark.parametrize(
    ("url", "more", "credential", "name", "complaint"),
    [
        (HOST, {}, MADE, "instance role", ""),
        (HOST, {"aws": {**KEY, "access_key_id": "ASIAIOSFODNN7EXAMPLE"}}, MADE, "instance role", "aws.session_token"),
        (
            HOST,
            {"aws": {**KEY, "access_key_id": "AROAIOSFODNN7EXAMPLE"}},
            MADE,
            "instance role",
            "id of a user or role",
        ),
        (HOST, {"aws": {**KEY, "access_key_id": "my key"}}, None, "AWS identity", "begins with AKIA or ASIA"),
        (HOST, {}, None, "AWS identity", ""),
        (HOST, {"username": "AWS", "password": "x"}, RAW, "authorization token", "12 hours"),
        (HOST, {"username": "me", "password": "x"}, Basic(username="me", password=Secret("x")), "user name", "AKIA"),
        (HOST, {"token": "x"}, StaticToken(token=Secret("x")), "bearer token", "no bearer tokens"),
        (HOST, {"auth": "anonymous"}, None, "anonymous", ""),
        ("public.ecr.aws", {}, None, "anonymous", ""),
    ],
)
def test_methods_and_complaints(
    url: str, more: dict[str, Any], credential: Credential | None, name: str, complaint: str
) -> None:
    found = method(configured(url, **more), credential)
    assert name in found.name
    assert complaint in found.complaint
    assert bool(found.complaint) is bool(complaint)


def test_what_an_anonymous_client_may() -> None:
    private = method(configured(auth="anonymous"), None)
    public = method(configured("public.ecr.aws"), None)
    assert (private.pulls, private.lists, public.pulls, public.lists) == (False, False, True, False)


def test_the_public_registry_is_asked_at_its_rate() -> None:
    assert rates(configured()) == {}
    assert rates(configured("public.ecr.aws"))[""].per_second == 1.0
    assert rates(configured("public.ecr.aws", auth="anonymous", aws=KEY))[""].per_second == 1.0
    assert rates(configured("public.ecr.aws", aws=KEY))[""].per_second == 10.0
    assert rates(configured("public.ecr.aws", username="AWS", password="x"))[""].per_second == 10.0


def test_an_api_in_plain_http_needs_to_be_allowed() -> None:
    with pytest.raises(ConfigError, match=r"api\.url"):
        open_registry(configured(api={"url": "http://10.0.0.1"}), Http())


# --- refusals of the registry -------------------------------------------------------------------------------------------------

DENIED = (
    f"User: arn:aws:sts::{ACCOUNT}:assumed-role/s/i is not authorized to perform: ecr:BatchGetImage on resource: "
    "arn:aws:ecr:eu-west-1:210987654321:repository/team/app because no resource-based policy allows the ecr:BatchGetImage action"
)


def denied(message: str) -> bytes:
    return json.dumps({"errors": [{"code": "DENIED", "message": message}]}).encode()


@pytest.mark.parametrize(
    ("status", "body", "credential", "kind", "said", "advice"),
    [
        (403, b"denied: Your authorization token has expired. Reauthenticate and try again.", MADE, RegistryUnauthorized,
         "authentication failed", "clock"),
        (403, b"denied: Your Authorization Token has expired.", RAW, RegistryUnauthorized, "authentication failed", "12 hours"),
        (403, denied(DENIED), MADE, RegistryForbidden, "repository/team/app", "aws.assume_roles"),
        (403, DENIED.encode(), MADE, RegistryForbidden, "not authorized", "permission ecr:BatchGetImage"),
        (403, b"", MADE, RegistryForbidden, "status 403", "ecr:BatchGetImage"),
        (403, denied(DENIED.replace("team/app", "archive/app")), MADE, RegistryForbidden, "archive/app", "aws.assume_roles"),
        (403, denied("denied for 'archive/kms-upstream'"), MADE, RegistryForbidden, "archive", "ecr:BatchGetImage"),
        (403, denied("KmsError: the key is disabled"), MADE, RegistryForbidden, "KmsError", "KMS key"),
        (400, denied("The image is archived"), MADE, ImageWithheld, "archived", "UpdateImageStorageClass"),
        (403, denied("ImageInaccessible"), MADE, ImageWithheld, "ImageInaccessible", "UpdateImageStorageClass"),
        (400, denied("UpstreamAccessDenied"), MADE, RegistryForbidden, "Upstream", "ecr:BatchImportUpstreamImage"),
        (400, denied("UpstreamTooManyRequests"), MADE, RegistryRateLimited, "Upstream", "later"),
        (400, denied("UpstreamUnavailable"), MADE, RegistryUnavailable, "Upstream", "later"),
        (401, b"no basic auth credentials", None, RegistryUnauthorized, "status 401", "no anonymous clients"),
        (401, b"Not Authorized", MADE, RegistryUnauthorized, "status 401", "of another region"),
        (404, denied("The repository with name 'x' does not exist"), MADE, RegistryUnauthorized, "", ""),
        (500, b"", MADE, RegistryUnauthorized, "", ""),
    ],
)  # fmt: skip
def test_refusals(
    status: int, body: bytes, credential: Credential | None, kind: type[RegistryError], said: str, advice: str
) -> None:
    before = RegistryUnauthorized(f"GET https://x/v2/: status {status}, {body.decode()}", "before")
    error = explain(Refusal(error=before, answer=Answer(status=status, body=body), credential=credential, scope="s"))
    assert isinstance(error, kind)
    assert said in error.message
    if advice:
        assert advice in error.advice
    else:
        assert error is before


def test_a_login_that_fails_on_400_is_odd_and_no_answer_stays_as_it_is() -> None:
    before = RegistryUnauthorized("status 400", "x")
    assert isinstance(explain(Refusal(error=before, answer=Answer(status=400))), UnexpectedAnswer)
    assert explain(Refusal(error=before)) is before


@pytest.mark.parametrize(
    ("status", "body", "challenge", "wanted"),
    [
        (403, b"denied: Your authorization token has expired. Reauthenticate and try again.", False, True),
        (403, denied("Your Authorization Token has Expired"), False, True),
        (403, denied(DENIED), False, False),
        (403, b"", False, True),
        (400, b"", False, True),
        (400, b"", True, False),
        (400, json.dumps({"errors": [{"code": "TAG_INVALID"}]}).encode(), False, False),
        (404, b"", False, False),
    ],
)
def test_what_an_expired_login_looks_like(status: int, body: bytes, challenge: bool, wanted: bool) -> None:
    headers = {"www-authenticate": ("Basic",)} if challenge else {}
    assert expired(Answer(status=status, body=body, header_lists=headers)) is wanted
