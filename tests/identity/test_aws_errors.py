from __future__ import annotations

from typing import Any

import botocore.exceptions as sdk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import ConfigError, NetworkError, SecretError, SensorError
from sensor.identity.aws_errors import AwsRefused, Denial, NoIdentity, refused, shown, translate

NOW = 1_790_000_000.0
US = "arn:aws:sts::123456789012:assumed-role/sensor/i-1"
OURS = "arn:aws:ecr:eu-west-1:123456789012:repository/team/app"
THEIRS = "arn:aws:ecr:eu-west-1:210987654321:repository/team/app"


def answer(
    code: str, message: str = "", status: int = 400, date: str = "Mon, 21 Sep 2026 14:13:20 GMT"
) -> dict[str, Any]:
    return {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"date": date}},
    }


@pytest.mark.parametrize(
    ("code", "message", "category", "advice", "retryable"),
    [
        ("ExpiredTokenException", "The security token included in the request is expired", "expired", "role, which is renewed", False),
        ("UnrecognizedClientException", "The security token included in the request is invalid", "credential", "region is enabled", False),
        ("InvalidSignatureException", "Signature expired: 20260921T000000Z is now earlier than", "credential", "clock", False),
        ("InvalidSignatureException", "The request signature we calculated does not match", "credential", "aws.secret_access_key", False),
        ("RequestTimeTooSkewed", "", "credential", "clock", False),
        ("MissingAuthenticationToken", "", "credential", "aws.access_key_id", False),
        ("IDPRejectedClaim", "", "credential", "service account and the audience", False),
        ("AccessDeniedException", "no words", "denied", "permission ecr:DescribeImages on the repositories to the sensor", False),
        ("RepositoryNotFoundException", "The repository with name 'x' does not exist", "missing", "account and region", False),
        ("ThrottlingException", "Rate exceeded", "throttled", "later", True),
        ("ServerException", "", "unavailable", "later", True),
        ("InvalidParameterException", "Invalid parameter at 'maxResults'", "parameter", "", False),
        ("SomethingNew", "", "other", "", False),
    ],
)  # fmt: skip
def test_codes_of_aws(code: str, message: str, category: str, advice: str, retryable: bool) -> None:
    error = refused(answer(code, message), "ecr:DescribeImages", NOW)
    assert error.message == f"ecr:DescribeImages: {code}" + (f", {message}" if message else "")
    assert (error.category, error.code, error.retryable) == (category, code, retryable)
    assert advice in error.advice


@pytest.mark.parametrize(("ahead", "word"), [(600, "10 minutes ahead of"), (-720, "12 minutes behind")])
def test_a_clock_that_is_off_is_seen_in_the_answer(ahead: float, word: str) -> None:
    error = refused(answer("InvalidClientTokenId"), "sts:GetCallerIdentity", NOW + ahead)
    assert f"this machine's clock is {word} AWS's" in error.message
    assert "NTP" in error.advice


@pytest.mark.parametrize(
    "response", [{}, {"Error": None}, {"Error": {"Code": ""}, "ResponseMetadata": {"HTTPStatusCode": 503}}]
)
def test_answers_without_a_code(response: dict[str, Any]) -> None:
    error = refused(response, "ecr:ListImages", NOW)
    assert error.message.startswith("ecr:ListImages: status")
    assert error.category == ("unavailable" if "ResponseMetadata" in response else "other")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (f"User: {US} is not authorized to perform: ecr:BatchGetImage on resource: {OURS} because no identity-based policy allows it",
         f"grant the permission ecr:BatchGetImage on {OURS} to {US}; a repository policy"),
        (f"User: {US} is not authorized to perform: ecr:BatchGetImage on resource: {THEIRS} because no resource-based policy allows it",
         "aws.assume_roles"),
        (f"User: {US} is not authorized to perform: ecr:BatchGetImage on resource: {OURS} with an explicit deny in a resource-based policy",
         "denies ecr:BatchGetImage explicitly (resource-based policy)"),
        (f"User: {US} is not authorized to perform: ecr:BatchGetImage on resource: {OURS} with an explicit deny",
         "look at repository, identity and organisation policies"),
        (f"User: {US} is not authorized to perform: ecr:GetAuthorizationToken on resource: * because no identity-based policy",
         '"Resource": "*"'),
        (f"User: {US} is not authorized to perform: sts:AssumeRole on resource: arn:aws:iam::2:role/x",
         "trust policy of the role arn:aws:iam::2:role/x"),
        ("nothing of the kind", "grant the permission the action on the repositories to the sensor's identity"),
    ],
)  # fmt: skip
def test_a_missing_permission_names_what_to_grant(text: str, advice: str) -> None:
    assert advice in Denial(text).advice()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (sdk.NoCredentialsError(), NoIdentity, "no AWS credentials"),
        (sdk.MetadataRetrievalError(error_msg="x"), NoIdentity, "hop-limit 2"),
        (sdk.CredentialRetrievalError(provider="container-role", error_msg="status 401"), NoIdentity, "status 401"),
        (sdk.ProfileNotFound(profile="x"), SecretError, "AWS_PROFILE"),
        (sdk.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), SecretError, "AWS_SECRET_ACCESS_KEY"),
        (sdk.UnknownServiceError(service_name="x", known_service_names=""), SecretError, "AWS configuration"),
        (sdk.NoRegionError(), ConfigError, "aws.region"),
        (sdk.ParamValidationError(report="too short"), ConfigError, "too short"),
        (sdk.EndpointConnectionError(endpoint_url="https://api.ecr.x"), NetworkError, "ecr.api"),
        (sdk.ConnectTimeoutError(endpoint_url="https://api.ecr.x"), NetworkError, "ecr.dkr"),
        (sdk.ReadTimeoutError(endpoint_url="https://api.ecr.x"), NetworkError, "S3 gateway"),
        (sdk.ProxyConnectionError(proxy_url="http://u:p@x"), NetworkError, "no_proxy"),
        (sdk.SSLError(endpoint_url="https://x", error="self-signed"), NetworkError, "ca_file"),
        (sdk.HTTPClientError(error=ValueError("Invalid header value b'SECRET'")), NetworkError, "ValueError"),
        (ValueError("Auth token value is not a legal header value"), NoIdentity, "printf"),
        (ValueError("Unsupported host '192.0.2.1'"), NoIdentity, "loopback"),
        (ValueError("Invalid header value b'SECRET'"), NoIdentity, "ValueError"),
        (FileNotFoundError(2, "No such file or directory", "/token"), NoIdentity, "/token: No such file"),
        (RuntimeError("the refreshed credentials are still expired."), NoIdentity, "clock"),
        (KeyError("AccessKeyId"), NoIdentity, "KeyError"),
    ],
)  # fmt: skip
def test_what_the_sdk_raises(error: Exception, kind: type[SensorError], said: str) -> None:
    translated = translate(error, "AWS credentials")
    assert type(translated) is kind
    assert said in str(translated)
    assert translated.advice
    assert "SECRET'" not in str(translated)
    assert "u:p" not in str(translated)


def test_a_refusal_names_the_operation_that_was_refused() -> None:
    renewing = sdk.ClientError(answer("AccessDenied"), "AssumeRole")
    asking = sdk.ClientError(answer("AccessDenied"), "DescribeImages")
    single_sign_on = sdk.ClientError(answer("UnauthorizedException"), "GetRoleCredentials")
    for error, operation in (
        (renewing, "sts:AssumeRole"),
        (asking, "ecr:DescribeImages"),
        (single_sign_on, "GetRoleCredentials"),
    ):
        told = translate(error, "ecr:DescribeImages")
        assert isinstance(told, AwsRefused)
        assert told.operation == operation


def test_a_malformed_answer_is_no_fault_of_the_credentials() -> None:
    told = translate(TypeError("x"), "ecr:DescribeImages")
    assert isinstance(told, AwsRefused)
    assert "api.url" in told.advice


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=800))
def test_any_text_is_made_inert(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 600
    assert Denial(text).advice()
