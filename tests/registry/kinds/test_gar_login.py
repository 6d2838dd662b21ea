"""Ways to log in to Google's registry: which is used, what looks wrong, and who is asked for an identity."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from sensor.config.schema import Http, Registry
from sensor.errors import SecretError
from sensor.identity.gcp import Principal
from sensor.registry.errors import RegistryUnauthorized
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.gar_login import IdentityToken, credentials, is_token_name, key_principal, method
from sensor.registry.kinds.kind import Opening
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.secret import Secret
from sensor.transport import Transport
from tests.fakes.gcp import CLEAN, KEY_EMAIL, PROJECT, GcpFake
from tests.fakes.registries.gar import GarFake


@pytest.fixture(autouse=True)
def no_identity_but_the_fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CLEAN.items():
        monkeypatch.setenv(name, value)


def registry(**more: Any) -> Registry:
    return Registry.model_validate({"name": "one", "url": "europe-docker.pkg.dev", "provider": "gar", **more})


def key(**more: Any) -> str:
    pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    return json.dumps(
        {"type": "service_account", "project_id": PROJECT, "client_email": KEY_EMAIL, "private_key": pem, **more}
    )


def basic(username: str, password: str) -> Basic:
    return Basic(username=username, password=Secret(password))


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def jwt(**claims: Any) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{body}.c2ln"


async def credential_of(settings: Registry) -> Credential | None:
    opening = Opening(settings=settings, http=Http())
    return await credentials(opening, Transport()).credential(renew=False)


@pytest.mark.parametrize(
    ("given", "name", "complaint"),
    [
        (None, "anonymous", ""),
        (basic("_json_key", key()), "service account key (_json_key)", ""),
        (basic("_json_key_base64", b64(key())), "service account key (_json_key_base64)", ""),
        (basic("_json_key", b64(key())), "service account key (_json_key)", "the user name for it is _json_key_base64"),
        (basic("_json_key_base64", key()), "service account key (_json_key_base64)", "the user name for plain JSON is _json_key"),
        (basic("_json_key_base64", "%%%"), "service account key (_json_key_base64)", "base64 -w0"),
        (basic("_json_key_base64", b64("word")), "service account key (_json_key_base64)", "the whole JSON file"),
        (basic("_json_key", "word"), "service account key (_json_key)", "the whole JSON file"),
        (basic("_json_key", '{\\"type\\": 1}'), "service account key (_json_key)", "quotes must not be escaped"),
        (basic("_json_key", key(private_key="-----BEGIN\\nAAAA")), "service account key (_json_key)", "escaped twice"),
        (basic("_json_key", key(private_key="")), "service account key (_json_key)", "no private_key or client_email"),
        (basic("_json_key", key(client_email=None)), "service account key (_json_key)", "no private_key or client_email"),
        (basic("_json_key", "{}"), "service account key (_json_key)", "of the type unknown"),
        (basic("_json_key", '{"type": "authorized_user"}'), "service account key (_json_key)", "of the type authorized_user"),
        (basic("me", "secret"), "user name and password", "_json_key_base64 and oauth2accesstoken only"),
        (basic("me", key()), "user name and password", "the user name for it is _json_key"),
        (StaticToken(token=Secret("ya29.x")), "access token", ""),
        (StaticToken(token=Secret("AIzaSy")), "access token", "API key"),
        (StaticToken(token=Secret(jwt(aud="x"))), "access token", "ID token"),
        (StaticToken(token=Secret(jwt(exp=time.time() - 5))), "access token", "has expired"),
        (StaticToken(token=Secret(jwt(exp="soon"))), "access token", "ID token"),
        (StaticToken(token=Secret("eyJ.%%.x")), "access token", "ID token"),
        (StaticToken(token=Secret("eyJ.W10.x")), "access token", "ID token"),
        (StaticToken(token=Secret(key())), "access token", "_json_key, or as gcp.credentials"),
    ],
)  # fmt: skip
def test_names_the_way_and_what_looks_wrong(given: Credential | None, name: str, complaint: str) -> None:
    found = method(registry(), given)
    assert found.name == name
    assert complaint in found.complaint
    assert bool(complaint) == bool(found.complaint)
    assert "AAAA" not in found.complaint
    assert found.lists == (given is not None)


def test_a_machine_with_narrow_scopes_is_told_before_anything_is_granted() -> None:
    narrow = Principal(name="sa", way="metadata service", scopes=("https://www.googleapis.com/auth/logging.write",))
    found = method(registry(), IdentityToken(token=Secret("x"), principal=narrow))
    assert found.name == "metadata service"
    assert "access scopes" in found.complaint


def test_user_names_for_access_tokens() -> None:
    assert all(map(is_token_name, ("oauth2accesstoken", "_dcgcr_2_1_0_token", "_dcgcloud_token")))
    assert not any(map(is_token_name, ("_json_key", "oauth2", "_dcgcr_", "token")))


def test_whom_a_key_is_for() -> None:
    assert key_principal(basic("_json_key", key())) == Principal(
        name=KEY_EMAIL, way="service account key", project=PROJECT
    )
    assert key_principal(basic("_json_key_base64", b64(key(project_id=None)))) == Principal(
        name=KEY_EMAIL, way="service account key"
    )
    for other in (
        None,
        basic("me", key()),
        basic("_json_key", "x"),
        basic("_json_key_base64", "%"),
        StaticToken(token=Secret(key())),
    ):
        assert key_principal(other) is None


async def test_a_password_that_is_a_token_is_shown_as_one() -> None:
    assert await credential_of(registry(username="oauth2accesstoken", password="ya29.x")) == StaticToken(
        token=Secret("ya29.x")
    )
    assert await credential_of(registry(username="_json_key", password=key())) == basic("_json_key", key())
    assert await credential_of(registry(token="ya29.y")) == StaticToken(token=Secret("ya29.y"))
    assert await credential_of(registry(auth="anonymous")) is None


async def test_the_metadata_service_is_asked_for_hosts_of_google_only() -> None:
    async with GcpFake() as google:
        await google.serve_metadata()
        for url in ("registry.example.com", "mirror.gcr.io", "docker.pkg.dev.example.com"):
            assert await credential_of(registry(url=url)) is None
        assert await credential_of(registry(username="_json_key", password=key())) is not None
        assert await credential_of(registry(auth="anonymous")) is None
        assert google.seen == []
        for more in ({}, {"url": "eu.gcr.io/proj"}, {"url": "registry.example.com", "auth": "gcp"}):
            found = await credential_of(registry(**more))
            assert isinstance(found, IdentityToken)
            assert "metadata service" in found.principal.way


async def test_without_an_identity_a_host_of_google_is_anonymous_unless_one_was_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert await credential_of(registry()) is None
    for more in ({"auth": "gcp"}, {"gcp": {"impersonate": "sa@p.iam.gserviceaccount.com"}}):
        with pytest.raises(SecretError, match="no Google identity was found"):
            await credential_of(registry(**more))


async def test_a_key_that_google_refuses_is_a_failed_login_and_no_crash(tmp_path: Path) -> None:
    async with GarFake(tmp_path) as fake:
        fake.google.refuse["/token"] = (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        opened = open_registry(fake.settings(), Http())
        ping = await opened.ping()
        assert (ping.reachable, ping.authenticated) == (True, False)
        assert ping.detail.startswith("authentication failed: ")
        assert "deleted, disabled" in ping.advice
        with pytest.raises(RegistryUnauthorized):
            await opened.method()
        await opened.close()


async def test_the_api_gets_a_token_for_a_key_and_nothing_for_what_it_does_not_know(tmp_path: Path) -> None:
    async with GarFake(tmp_path) as fake:
        opened = open_registry(fake.settings(fake.logins[1]), Http())
        await opened.repositories()
        await opened.repositories()
        assert fake.google.seen.count("/token") == 1
        assert {one.authorization.partition(" ")[0] for one in fake.seen if one.server == "api"} == {"Bearer"}
        await opened.close()
        fake.seen.clear()
        opened = open_registry(fake.settings(fake.mistakes[6]), Http())
        with pytest.raises(RegistryUnauthorized):
            await opened.repositories()
        assert [one.authorization for one in fake.seen if one.server == "api"] == [""]
        await opened.close()


async def test_the_api_may_have_a_token_of_its_own(tmp_path: Path) -> None:
    async with GarFake(tmp_path) as fake:
        own = fake.google.issue("other")
        settings = fake.settings(fake.logins[1])
        api = settings.api.model_copy(
            update={"token": Registry.model_validate({"name": "x", "url": "x", "token": own}).token}
        )
        opened = open_registry(settings.model_copy(update={"api": api}), Http())
        await opened.repositories()
        assert {one.authorization for one in fake.seen if one.server == "api"} == {f"Bearer {own}"}
        await opened.close()


async def test_no_secret_is_shown_by_what_holds_it() -> None:
    token = IdentityToken(token=Secret("ya29.secret"), principal=Principal(name="sa", way="key"))
    assert "ya29" not in repr(token)
    assert "AAAA" not in repr(basic("_json_key", key()))
