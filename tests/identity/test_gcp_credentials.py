"""Where Google's identities come from: files, the machine, other clouds; by the real google-auth, against services on loopback."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs

import pytest

from sensor.config.logins import Gcp
from sensor.errors import NetworkError, SecretError
from sensor.identity.gcp import GoogleIdentity, GoogleRefused, GoogleToken, Principal
from sensor.identity.gcp_credentials import from_text
from sensor.route import Route
from sensor.secret import InPlace, Secret
from tests.fakes.certificates import Authority
from tests.fakes.gcp import (
    AWS_TOKEN,
    CLEAN,
    FULL,
    KEY_EMAIL,
    MACHINE_EMAIL,
    METADATA,
    PROJECT,
    SUBJECT,
    TARGET_EMAIL,
    GcpFake,
)
from tests.fakes.proxy import FakeProxy


@pytest.fixture(autouse=True)
def no_identity_but_the_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLEAN.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "NO_GCE_CHECK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def google() -> AsyncIterator[GcpFake]:
    async with GcpFake() as fake:
        yield fake


def settings(text: str = "", **more: Any) -> Gcp:
    return Gcp(credentials=InPlace(Secret(text)) if text else None, **more)


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


async def token_of(identity: GoogleIdentity) -> GoogleToken:
    token = await identity.token()
    assert token is not None
    return token


# -- where the identity comes from ------------------------------------------------------------------------------------------------


async def test_a_key_gives_tokens_for_its_service_account(google: GcpFake) -> None:
    token = await token_of(GoogleIdentity(settings(google.key()), Route()))
    assert google.principal(token.value.reveal()) == KEY_EMAIL
    assert token.principal == Principal(name=KEY_EMAIL, way="service account key", project=PROJECT)
    assert token.expires == pytest.approx(time.time() + google.life, abs=10)
    assert token.value.reveal() not in repr(token)


async def test_the_metadata_service_tells_who_and_where_the_machine_is(google: GcpFake) -> None:
    await google.serve_metadata()
    token = await token_of(GoogleIdentity(settings(), Route(proxy="http://127.0.0.1:1")))
    assert google.principal(token.value.reveal()) == MACHINE_EMAIL
    assert (token.principal.name, token.principal.project) == (MACHINE_EMAIL, PROJECT)
    assert token.principal.scopes == (FULL,)
    assert not token.principal.too_narrow


async def test_a_machine_whose_scopes_are_too_narrow_is_recognised(google: GcpFake) -> None:
    google.scopes = ("https://www.googleapis.com/auth/logging.write",)
    await google.serve_metadata()
    assert (await token_of(GoogleIdentity(settings(), Route()))).principal.too_narrow
    google.scopes = ("https://www.googleapis.com/auth/devstorage.read_only",)
    assert not (await token_of(GoogleIdentity(settings(), Route()))).principal.too_narrow


async def test_a_pod_whose_metadata_service_is_not_up_yet_is_waited_for(google: GcpFake) -> None:
    knocked = asyncio.Event()

    async def slam(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocked.set()
        writer.close()

    early = await asyncio.start_server(slam, "127.0.0.1", int(METADATA.rpartition(":")[2]), reuse_port=True)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(token_of(GoogleIdentity(settings(), Route())))
        await knocked.wait()
        early.close()
        await early.wait_closed()
        await google.serve_metadata()
    assert asking.result().principal.name == MACHINE_EMAIL


async def test_elsewhere_there_is_no_identity_and_that_is_remembered(google: GcpFake) -> None:
    clock = Clock()
    identity = GoogleIdentity(settings(), Route(), required=False, seconds=0.5, clock=clock)
    assert await identity.token() is None
    await google.serve_metadata()
    clock.now += 200
    assert await identity.token() is None
    assert google.seen == []
    clock.now += 200
    assert (await token_of(identity)).principal.name == MACHINE_EMAIL


async def test_somebody_elses_metadata_service_is_none(google: GcpFake) -> None:
    google.flavor = "Amazon"
    await google.serve_metadata()
    assert await GoogleIdentity(settings(), Route(), required=False).token() is None


async def test_an_identity_that_is_required_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(SecretError, match="no Google identity was found") as missing:
        await GoogleIdentity(settings(), Route()).token()
    assert "gcp.credentials" in missing.value.advice


async def test_a_metadata_service_that_does_not_tell_the_project_is_one(google: GcpFake) -> None:
    google.refuse["project-id"] = (404, "")
    await google.serve_metadata()
    token = await token_of(GoogleIdentity(settings(), Route()))
    assert (token.principal.name, token.principal.project) == (MACHINE_EMAIL, "")


async def test_application_default_credentials_come_from_the_named_file(
    google: GcpFake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adc.json").write_text(google.key())
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "adc.json"))
    token = await token_of(GoogleIdentity(settings(), Route()))
    assert token.principal.way == "application default credentials: service account key"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(
        SecretError, match=r"cannot read .*missing\.json, which GOOGLE_APPLICATION_CREDENTIALS names: No such file"
    ):
        await GoogleIdentity(settings(), Route()).token()
    (tmp_path / "missing.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SecretError, match="not text"):
        await GoogleIdentity(settings(), Route()).token()


async def test_gclouds_own_file_is_found_in_the_home(
    google: GcpFake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / ".config" / "gcloud"
    directory.mkdir(parents=True)
    (directory / "application_default_credentials.json").write_text(google.key())
    monkeypatch.setenv("CLOUDSDK_CONFIG", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert (await token_of(GoogleIdentity(settings(), Route()))).principal.name == KEY_EMAIL
    monkeypatch.delenv("HOME")
    assert await GoogleIdentity(settings(), Route(), required=False, seconds=0.5).token() is None


# -- federation and impersonation ---------------------------------------------------------------------------------------------------


async def test_a_subject_token_is_exchanged(google: GcpFake, tmp_path: Path) -> None:
    (tmp_path / "subject").write_text(SUBJECT)
    text = google.federation({"file": str(tmp_path / "subject")})
    token = await token_of(GoogleIdentity(settings(text), Route()))
    assert google.principal(token.value.reveal()) == "federated"
    assert token.principal.name == "workload identity pool site, provider oidc of project 123456"
    assert google.forms[-1]["scope"] == "https://www.googleapis.com/auth/cloud-platform.read-only"


async def test_a_federation_may_impersonate(google: GcpFake, tmp_path: Path) -> None:
    (tmp_path / "subject").write_text(SUBJECT)
    text = google.federation({"file": str(tmp_path / "subject")}, impersonate=True)
    token = await token_of(GoogleIdentity(settings(text), Route()))
    assert google.principal(token.value.reveal()) == TARGET_EMAIL
    assert token.principal.name == TARGET_EMAIL


async def test_an_impersonating_file_is_taken(google: GcpFake) -> None:
    info = {
        "type": "impersonated_service_account",
        "source_credentials": json.loads(google.key()),
        "service_account_impersonation_url": google.impersonation_url,
        "delegates": [],
    }
    token = await token_of(GoogleIdentity(settings(json.dumps(info)), Route()))
    assert google.principal(token.value.reveal()) == TARGET_EMAIL
    assert token.principal.way == "service account key, impersonating"
    for broken in (
        {"source_credentials": None},
        {"service_account_impersonation_url": "x"},
        {"source_credentials": info},
    ):
        with pytest.raises(SecretError, match="impersonated_service_account without"):
            await GoogleIdentity(settings(json.dumps({**info, **broken})), Route()).token()


async def test_a_service_account_is_impersonated_through_the_sites_proxy_and_authority(
    google: GcpFake, tmp_path: Path
) -> None:
    authority = Authority(names=("iamcredentials.googleapis.com",))
    tls = await google.serve_tls(authority.server_context(tmp_path))
    await google.serve_metadata()
    async with FakeProxy(hosts={"iamcredentials.googleapis.com:443": tls}) as proxy:
        route = Route(proxy=proxy.url, ca_file=authority.write(tmp_path / "ca.pem"))
        token = await token_of(GoogleIdentity(settings(impersonate=TARGET_EMAIL), route))
        assert google.principal(token.value.reveal()) == TARGET_EMAIL
        assert token.principal.way == "metadata service (GCE, GKE, Cloud Run), impersonating"
        assert token.principal.scopes == ()
        assert proxy.asked == ["iamcredentials.googleapis.com:443"]
        untrusted = GoogleIdentity(settings(impersonate=TARGET_EMAIL), Route(proxy=proxy.url))
        with pytest.raises(NetworkError, match="no token of Google: the certificate of iamcredentials"):
            await untrusted.token()


AWS = {
    "environment_id": "aws1",
    "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
}


async def test_aws_keys_of_the_environment_are_signed_with(google: GcpFake, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "AKIAX"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_REGION", "eu-west-1")):
        monkeypatch.setenv(name, value)
    text = google.federation(AWS, subject_token_type=AWS_TOKEN)
    assert (
        await token_of(GoogleIdentity(settings(text), Route()))
    ).principal.way == "workload identity federation (AWS)"


async def test_eks_pod_identity_is_signed_with_and_asked_once(google: GcpFake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{google.url}/creds")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-identity")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    clock = Clock()
    identity = GoogleIdentity(settings(google.federation(AWS, subject_token_type=AWS_TOKEN)), Route(), clock=clock)
    assert "container" in (await token_of(identity)).principal.way
    clock.now += 3600
    assert (await token_of(identity)).value
    assert (google.seen.count("/creds"), google.seen.count("/v1/token")) == (1, 2)


async def test_irsa_is_signed_with(google: GcpFake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("web-identity")
    for name, value in (
        ("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token")),
        ("AWS_ROLE_ARN", "arn:aws:iam::111111111111:role/sensor"),
        ("AWS_ENDPOINT_URL_STS", google.url),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_CONFIG_FILE", "/dev/null"),
    ):
        monkeypatch.setenv(name, value)
    text = google.federation(AWS, subject_token_type=AWS_TOKEN)
    token = await token_of(GoogleIdentity(settings(text), Route()))
    assert google.principal(token.value.reveal()) == "federated"
    assert google.forms[0]["WebIdentityToken"] == "web-identity"


async def test_aws_without_a_region_or_credentials_says_so(
    google: GcpFake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "nowhere"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111111111111:role/sensor")
    text = google.federation(AWS, subject_token_type=AWS_TOKEN)
    with pytest.raises(GoogleRefused, match="no AWS region is known: set AWS_REGION"):
        await GoogleIdentity(settings(text), Route()).token()
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    with pytest.raises(GoogleRefused, match=r"AWS gives no credentials to be exchanged: .*nowhere"):
        await GoogleIdentity(settings(text), Route()).token()
    assert google.seen == []


def test_a_user_is_asked_for_no_scope_that_was_not_agreed_to() -> None:
    info = {
        "type": "authorized_user",
        "client_id": "i",
        "client_secret": "s",
        "refresh_token": "r",
        "account": "a@b.example",
    }
    found = from_text(json.dumps(info), "gcp.credentials", Route())
    assert (found.way, found.name) == ("user credentials of gcloud", "a@b.example")
    sent: list[bytes] = []

    class Answer:
        status = 200
        headers: ClassVar[dict[str, str]] = {}
        data = json.dumps({"access_token": "ya29.x", "expires_in": 3599, "scope": FULL}).encode()

    def request(*, body: bytes, **_more: Any) -> Answer:
        sent.append(body)
        return Answer()

    found.credentials.refresh(request)
    assert found.credentials.token == "ya29.x"
    assert parse_qs(sent[0].decode()).keys() == {"grant_type", "client_id", "client_secret", "refresh_token"}


# -- files that cannot be used --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no json", "not the JSON of Google credentials"),
        ("[" * 100_000, "not the JSON of Google credentials"),
        ("[]", "not the JSON of Google credentials"),
        ('{"type": "gdch_service_account"}', "of the type 'gdch_service_account'"),
        ("{}", "of the type 'None'"),
        ('{"type": "service_account"}', "not of the expected form|MalformedError|missing"),
        ('{"type": "authorized_user"}', "missing|not of the expected form"),
        ('{"type": "external_account"}', "no credential_source"),
        ('{"type": "external_account", "credential_source": {"executable": {}}}', "'executable' is not supported"),
        ('{"type": "external_account", "credential_source": {"certificate": {}}}', "'certificate' is not supported"),
        ('{"type": "external_account", "credential_source": {"file": "x"}}', "no token of Google"),
    ],
)  # fmt: skip
async def test_a_text_that_is_no_credential_says_why(text: str, says: str) -> None:
    with pytest.raises(SecretError, match=says):
        await GoogleIdentity(settings(text), Route()).token()


async def test_a_key_with_a_broken_private_key_is_refused_without_repeating_it(google: GcpFake) -> None:
    secret = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC" * 3
    text = google.key(private_key=f"-----BEGIN PRIVATE KEY-----\\n{secret}\\n-----END PRIVATE KEY-----")
    with pytest.raises(GoogleRefused) as refused:
        await GoogleIdentity(settings(text), Route()).token()
    assert secret[:40] not in str(refused.value)
    assert "line breaks" in refused.value.advice or "credentials" in refused.value.advice


async def test_a_token_endpoint_in_plain_http_elsewhere_is_not_asked(google: GcpFake) -> None:
    with pytest.raises(SecretError, match=r"tokens\.example\.com is to be asked for a token in plain HTTP"):
        await GoogleIdentity(settings(google.key(token_uri="http://tokens.example.com/token")), Route()).token()
    assert google.seen == []
