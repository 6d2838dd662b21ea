"""The error matrix of Google, in words that help."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sensor.errors import RegistryError
from sensor.identity.gcp import Principal
from sensor.registry.errors import (
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
    answer_error,
)
from sensor.registry.kinds.gar_login import IdentityToken
from sensor.registry.kinds.gar_words import explain, explain_api
from sensor.registry.login import Answer, Basic, Credential, StaticToken
from sensor.registry.terms import Refusal
from sensor.secret import Secret
from sensor.transport import Reply

URL = "https://europe-docker.pkg.dev/v2/p/r/app/manifests/v1"
SECRET = "ya29.secret"
TOKEN = StaticToken(token=Secret(SECRET))
MACHINE = IdentityToken(
    token=Secret(SECRET), principal=Principal(name="sa@p.iam.gserviceaccount.com", way="metadata service")
)
NARROW = IdentityToken(
    token=Secret(SECRET),
    principal=Principal(name="", way="m", scopes=("https://www.googleapis.com/auth/logging.write",)),
)
KEY = Basic(
    username="_json_key",
    password=Secret('{"type": "service_account", "client_email": "key@p.iam.gserviceaccount.com"}'),
)
ROBOT = Basic(username="robot", password=Secret("x"))
RESOURCE = "projects/p/locations/europe/repositories/r"
DENIED = f'Permission "artifactregistry.repositories.downloadArtifacts" denied on resource "{RESOURCE}" (or it may not exist)'
UNAUTHENTICATED = f'Unauthenticated request. Unauthenticated requests do not have permission "x" on resource "{RESOURCE}" (or it may not exist)'


def refused(status: int, code: str, message: str, credential: Credential | None) -> RegistryError:
    """What comes of an answer of the registry."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    error = answer_error("GET", URL, status, body)
    return explain(Refusal(error=error, answer=Answer(status=status, body=body), credential=credential))


def api_refused(
    status: int, word: str, message: str, *details: Any, credential: Credential | None = TOKEN
) -> RegistryError:
    """What comes of an answer of the API."""
    body = json.dumps({"error": {"code": status, "message": message, "status": word, "details": details}}).encode()
    url = "https://artifactregistry.googleapis.com/v1/projects/p/locations"
    reply = Reply(status=status, url=url, headers={}, body=body)
    return explain_api(answer_error("GET", url, status, body), reply, credential)


def test_a_missing_right_names_the_role_the_place_whom_and_the_other_possibility() -> None:
    error = refused(403, "DENIED", DENIED, MACHINE)
    assert isinstance(error, RegistryForbidden)
    for words in (
        "roles/artifactregistry.reader",
        "sa@p.iam.gserviceaccount.com",
        "projects/p/locations/europe/repositories/r",
        "does not exist",
    ):
        assert words in error.advice
    assert "(or it may not exist)" in error.message
    assert "key@p.iam.gserviceaccount.com" in refused(403, "DENIED", DENIED, KEY).advice
    assert "roles/artifactregistry.reader on the repository" in refused(403, "DENIED", "no", TOKEN).advice


def test_a_missing_right_told_by_the_token_service_is_no_failed_login() -> None:
    error = RegistryUnauthorized(
        f"authentication failed: GET https://europe-docker.pkg.dev/v2/token: status 403, DENIED: {DENIED}", "check"
    )
    found = explain(Refusal(error=error, answer=None, credential=KEY))
    assert isinstance(found, RegistryForbidden)
    assert not found.message.startswith("authentication failed")
    assert "roles/artifactregistry.reader" in found.advice


def test_without_a_login_it_is_reachable_but_unauthenticated() -> None:
    for error in (refused(403, "DENIED", UNAUTHENTICATED, None), refused(401, "UNAUTHORIZED", "x", None)):
        assert isinstance(error, RegistryUnauthorized)
        assert error.message.startswith("reachable but unauthenticated: ")
        assert "gcp.credentials" in error.advice


def test_a_login_that_google_did_not_notice_has_failed() -> None:
    error = refused(403, "DENIED", UNAUTHENTICATED, TOKEN)
    assert isinstance(error, RegistryUnauthorized)
    assert error.message.startswith("authentication failed: ")


@pytest.mark.parametrize(
    ("credential", "advice"),
    [(TOKEN, "expired"), (MACHINE, "disabled or deleted"), (KEY, "key is whole"), (ROBOT, "key is whole")],
)
def test_a_refused_login_is_told_by_what_it_was(credential: Credential, advice: str) -> None:
    error = refused(401, "UNAUTHORIZED", "authentication failed", credential)
    assert isinstance(error, RegistryUnauthorized)
    assert advice in error.advice
    assert SECRET not in str(error)


def test_scopes_of_a_machine_are_no_question_of_roles() -> None:
    for error in (
        refused(403, "DENIED", DENIED, NARROW),
        api_refused(
            403,
            "PERMISSION_DENIED",
            "Request had insufficient authentication scopes.",
            {"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"},
        ),
    ):
        assert isinstance(error, RegistryForbidden)
        assert "access scopes" in error.advice
        assert "roles/artifactregistry.reader" not in error.advice


def test_a_perimeter_is_named_with_its_identifier() -> None:
    said = "Request is prohibited by organization's policy. vpcServiceControlsUniqueIdentifier: AbC-12_3x"
    for error in (refused(403, "DENIED", said, MACHINE), api_refused(403, "PERMISSION_DENIED", said)):
        assert isinstance(error, RegistryForbidden)
        assert "AbC-12_3x" in error.advice
        assert "no role helps" in error.advice
    assert "identifier " not in refused(403, "DENIED", "VPC Service Controls", MACHINE).advice


def test_an_api_that_is_not_enabled_is_told_how_to_enable() -> None:
    said = "Artifact Registry API has not been used in project acme-prod before or it is disabled."
    error = api_refused(403, "PERMISSION_DENIED", said, {"reason": "SERVICE_DISABLED", "metadata": {"service": "x"}})
    assert isinstance(error, RegistryForbidden)
    assert error.advice.endswith("gcloud services enable artifactregistry.googleapis.com --project=acme-prod")
    assert refused(403, "DENIED", "it is disabled", TOKEN).advice.endswith("enable artifactregistry.googleapis.com")


def test_quota_is_explained_and_its_pause_kept() -> None:
    error = answer_error("GET", URL, 429, b"", retry_after=7.0)
    found = explain(Refusal(error=error, credential=TOKEN))
    assert isinstance(found, RegistryRateLimited)
    assert found.retry_after == 7.0
    assert "60,000" in found.advice
    found = api_refused(429, "RESOURCE_EXHAUSTED", "Quota exceeded")
    assert isinstance(found, RegistryRateLimited)
    assert "RESOURCE_EXHAUSTED: Quota exceeded" in found.message


def test_what_is_no_refusal_stays_as_it_is() -> None:
    assert isinstance(refused(404, "MANIFEST_UNKNOWN", "no", TOKEN), RegistryNotFound)
    assert isinstance(api_refused(404, "NOT_FOUND", "no"), RegistryNotFound)
    odd = answer_error("GET", URL, 418, b"")
    assert explain(Refusal(error=odd, credential=TOKEN)) is odd


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": "x"}', b'{"error": {"details": 5}}', b"\xff" * 100, b"[" * 100_000]
)
def test_a_strange_body_is_taken(body: bytes) -> None:
    reply = Reply(status=403, url=URL, headers={}, body=body)
    error = explain_api(answer_error("GET", URL, 403, body), reply, TOKEN)
    assert isinstance(error, RegistryForbidden)
    reply = Reply(status=400, url=URL, headers={}, body=body)
    assert isinstance(explain_api(answer_error("GET", URL, 400, body), reply, TOKEN), (UnexpectedAnswer, RegistryError))


def test_control_characters_of_the_api_do_not_reach_a_message() -> None:
    assert "\x1b" not in api_refused(403, "X\x1b[31m", "bad\nline").message
