"""Azure's ways to log in by name, and its refusals in words."""

from __future__ import annotations

import json
import re
import time

import pytest

from sensor.config.schema import Registry as Settings
from sensor.errors import RegistryError
from sensor.registry.errors import (
    ImageWithheld,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    RegistryUnavailable,
    answer_error,
)
from sensor.registry.kinds.acr_login import NOBODY
from sensor.registry.kinds.acr_words import CATALOG, explain, method_of, registry_name, uses_identity
from sensor.registry.login import Answer, Basic, Credential, StaticToken
from sensor.registry.terms import Refusal
from sensor.secret import Secret
from tests.fakes.azure import jwt

UUID = "55555555-aaaa-4bbb-8ccc-000000000005"
URL = "https://myregistry.azurecr.io/v2/team/app/manifests/v1"
PULL = "repository:team/app:pull,metadata_read"


def settings_of(**more: object) -> Settings:
    return Settings.model_validate({"name": "one", "url": "myregistry-abc12.azurecr.io", **more})


def basic(username: str, password: str = "s3cret") -> Basic:
    return Basic(username=username, password=Secret(password))


def refusal(
    status: int, code: str = "", message: str = "", *, credential: Credential | None = None, scope: str = PULL
) -> Refusal:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode() if code else b""
    error = answer_error("GET", URL, status, body, retry_after=7.0)
    return Refusal(error=error, answer=Answer(status=status, body=body), credential=credential, scope=scope)


GIVEN = {"username": "u", "password": "p"}


@pytest.mark.parametrize(
    ("settings", "credential", "name", "lists", "complaint"),
    [
        ({"auth": "anonymous"}, None, "anonymous pull", True, ""),
        ({}, basic(NOBODY), "managed identity", True, ""),
        ({"azure": {"client_secret": "s"}}, basic(NOBODY), "service principal (secret)", True, ""),
        ({"azure": {"certificate": "s"}}, basic(NOBODY), "service principal (certificate)", True, ""),
        ({"azure": {"identity": "workload"}}, basic(NOBODY), "workload identity", True, ""),
        (GIVEN, basic(NOBODY, jwt({"exp": 1})), "AAD token", True, ""),
        (GIVEN, basic("<token>", jwt({"exp": 1})), "AAD token", True, ""),
        (GIVEN, basic(NOBODY), "AAD token", True, "must be a token"),
        (GIVEN, basic(UUID), "service principal", True, ""),
        (GIVEN, basic(UUID.upper(), UUID), "service principal", True, "its value is wanted"),
        (GIVEN, basic("myregistry"), "admin user", True, ""),
        (GIVEN, basic("MyRegistry"), "admin user", True, ""),
        (GIVEN, basic("sensor-token"), "scope-map token", False, ""),
        (GIVEN, basic(""), "scope-map token", False, "user name is missing"),
        (GIVEN, basic("ann@example.com"), "scope-map token", False, "--expose-token"),
        ({"token": "t"}, StaticToken(token=Secret("t")), "access token", True, ""),
    ],
)
def test_names_the_method_and_what_looks_wrong(
    settings: dict[str, object], credential: Credential | None, name: str, lists: bool, complaint: str
) -> None:
    method = method_of(settings_of(**settings), credential)
    assert method.name.startswith(name)
    assert method.lists is lists
    assert complaint in method.complaint
    assert bool(complaint) == bool(method.complaint)
    assert "s3cret" not in method.complaint


def test_an_identity_is_used_when_it_is_configured_or_nothing_else_is() -> None:
    assert uses_identity(settings_of())
    assert uses_identity(settings_of(auth="azure", **GIVEN))
    assert not uses_identity(settings_of(**GIVEN))
    assert not uses_identity(settings_of(auth="anonymous"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://myregistry-abc.azurecr.io/x", "myregistry"),
        ("registry.stack.example", "registry"),
        ("127.0.0.1:5000", "127"),
        ("https://[::1", ""),
    ],
)
def test_the_registrys_name(url: str, name: str) -> None:
    assert registry_name(url) == name


DISALLOWED = "The operation is disallowed on this registry, repository or image."
DENIED = "requested access to the resource is denied"
REQUIRED = "authentication required"


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        (refusal(405, "UNSUPPORTED", DISALLOWED), ImageWithheld, "AcrQuarantineReader"),
        (refusal(403, "DENIED", DISALLOWED), ImageWithheld, "readEnabled"),
        (
            refusal(403, "DENIED", "client with IP '192.0.2.1' is not allowed access."),
            RegistryForbidden,
            "network-rule",
        ),
        (refusal(403, "DENIED", DENIED), RegistryForbidden, "Container Registry Repository Reader"),
        (refusal(403, "DENIED", DENIED), RegistryForbidden, "10 minutes"),
        (refusal(403, "DENIED", DENIED, scope=CATALOG), RegistryForbidden, "Catalog Lister"),
        (refusal(403), RegistryForbidden, "AcrPull.*AcrQuarantineReader"),
        (refusal(404, "MANIFEST_UNKNOWN", 'manifest tagged by "v1" is not found'), RegistryNotFound, "quarantine"),
        (refusal(429), RegistryRateLimited, "reads a minute"),
        (refusal(503), RegistryUnavailable, "log"),
        (refusal(401, "UNAUTHORIZED", REQUIRED), RegistryUnauthorized, "anonymous-pull-enabled"),
        (refusal(401, "UNAUTHORIZED", REQUIRED, credential=basic(UUID)), RegistryUnauthorized, "valid secret.*AcrPull"),
        (
            refusal(401, "UNAUTHORIZED", REQUIRED, credential=basic(UUID), scope=CATALOG),
            RegistryUnauthorized,
            r"valid secret.*repositories\.names",
        ),
        (refusal(401, "UNAUTHORIZED", REQUIRED, credential=basic(UUID), scope=""), RegistryUnauthorized, "AcrPull"),
        (
            refusal(401, "UNAUTHORIZED", REQUIRED, credential=basic(NOBODY, jwt({"exp": time.time() + 999}))),
            RegistryForbidden,
            "Container Registry Repository Reader",
        ),
        (
            refusal(401, "UNAUTHORIZED", REQUIRED, credential=basic(NOBODY, jwt({"exp": time.time() + 999})), scope=""),
            RegistryUnauthorized,
            "--expose-token",
        ),
        (
            refusal(401, "UNAUTHORIZED", REQUIRED, credential=basic(NOBODY, jwt({"exp": 1_700_000_000}))),
            RegistryUnauthorized,
            "fetch a new one",
        ),
        (
            refusal(401, credential=StaticToken(token=Secret(jwt({"exp": 1_700_000_000})))),
            RegistryUnauthorized,
            "fetch a new one",
        ),
        (refusal(401, credential=StaticToken(token=Secret("opaque"))), RegistryUnauthorized, "--expose-token"),
    ],
)
def test_every_refusal_has_azures_words(given: Refusal, kind: type[RegistryError], says: str) -> None:
    error = explain(given)
    assert type(error) is kind
    assert re.search(says, error.advice), error.advice
    assert error.message


def test_an_expired_token_is_told_by_its_date() -> None:
    given = refusal(401, credential=basic(NOBODY, jwt({"exp": 1_700_000_000})))
    assert "2023-11-14" in explain(given).message


def test_a_pause_keeps_its_length() -> None:
    assert explain(refusal(429)).retry_after == 7.0
