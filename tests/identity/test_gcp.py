"""Google's identities by the real google-auth, against its own services on loopback."""

from __future__ import annotations

import asyncio
import concurrent.futures
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sensor.config.logins import Gcp
from sensor.errors import NetworkError, SecretError
from sensor.identity.gcp import GoogleIdentity, GoogleRefused, GoogleToken, translate
from sensor.limits import DEFAULT_LIMITS
from sensor.route import Route
from sensor.secret import FromFile, InPlace, Secret
from tests.fakes.gcp import (
    CLEAN,
    KEY_EMAIL,
    SUBJECT,
    GcpFake,
)


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


# -- refusals -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        ({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, "deleted, disabled, or altered"),
        ({"error": "invalid_grant", "error_description": "Invalid JWT: Token must be a short-lived token (60 minutes)"}, "clock"),
        ({"error": "invalid_grant", "error_description": "Invalid grant: account not found"}, "no such service account"),
        ({"error": "invalid_target", "error_description": "The target service is invalid"}, "audience"),
        ({"error": "invalid_grant", "error_description": "Bad Request"}, "log in anew"),
        ({"error": "odd"}, "check the credentials"),
        ("plain words", "check the credentials"),
    ],
)  # fmt: skip
async def test_a_refusal_is_told_in_googles_words_with_advice(google: GcpFake, body: Any, advice: str) -> None:
    google.refuse["/token"] = (400, body)
    with pytest.raises(GoogleRefused, match="no token of Google") as refused:
        await GoogleIdentity(settings(google.key()), Route()).token()
    assert advice in refused.value.advice
    if isinstance(body, dict):
        assert body["error"] in refused.value.message
    assert not refused.value.retryable


async def test_who_may_not_impersonate_is_told_the_role(google: GcpFake, tmp_path: Path) -> None:
    (tmp_path / "subject").write_text(SUBJECT)
    message = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."
    google.refuse[":generateAccessToken"] = (
        403,
        {"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED"}},
    )
    text = google.federation({"file": str(tmp_path / "subject")}, impersonate=True)
    with pytest.raises(GoogleRefused, match=r"iam\.serviceAccounts\.getAccessToken") as refused:
        await GoogleIdentity(settings(text), Route()).token()
    assert "roles/iam.serviceAccountTokenCreator" in refused.value.advice
    assert "roles/iam.workloadIdentityUser" in refused.value.advice


async def test_a_machine_without_a_service_account_is_told_so(google: GcpFake) -> None:
    google.refuse["service-accounts"] = (404, "Not Found")
    await google.serve_metadata()
    with pytest.raises(GoogleRefused, match="404") as refused:
        await GoogleIdentity(settings(), Route()).token()
    assert "service account" in refused.value.advice


async def test_a_missing_subject_token_is_named(google: GcpFake, tmp_path: Path) -> None:
    text = google.federation({"file": str(tmp_path / "nowhere")})
    with pytest.raises(GoogleRefused, match="nowhere") as refused:
        await GoogleIdentity(settings(text), Route()).token()
    assert "credential_source" in refused.value.advice


async def test_a_reflected_secret_is_left_out(google: GcpFake) -> None:
    secret = f"{'e' * 50}.{'y' * 50}.{'J' * 50}"
    google.refuse["/token"] = (400, {"error": "invalid_grant", "error_description": f"assertion {secret} is\nbad"})
    with pytest.raises(GoogleRefused) as refused:
        await GoogleIdentity(settings(google.key()), Route()).token()
    assert secret[:50] not in str(refused.value)
    assert "(left out) is bad" in refused.value.message


@pytest.mark.parametrize(
    "body",
    [
        {"token_type": "Bearer"},
        {"access_token": None, "expires_in": 3600},
        {"access_token": "two\nlines", "expires_in": 3600},
        {"access_token": "x", "expires_in": "many"},
        {"access_token": "x", "expires_in": 10**18},
        [],
        "<html>",
    ],
)
async def test_an_answer_of_another_shape_is_a_refusal_and_no_crash(google: GcpFake, body: Any) -> None:
    google.refuse["/token"] = (200, body)
    with pytest.raises(SecretError, match=r"no token of Google|without a usable access token"):
        await GoogleIdentity(settings(google.key()), Route()).token()


async def test_a_token_of_unknown_life_is_used_for_a_while(google: GcpFake) -> None:
    google.refuse["/token"] = (200, {"access_token": "ya29.x"})
    clock = Clock()
    identity = GoogleIdentity(settings(google.key()), Route(), clock=clock)
    assert (await token_of(identity)).expires is None
    clock.now += 200
    await identity.token()
    assert len(google.seen) == 1
    clock.now += 200
    await identity.token()
    assert len(google.seen) == 2


async def test_what_has_no_cause_of_ours_is_no_answer_when_google_says_so() -> None:
    from google.auth.exceptions import RefreshError, TransportError

    assert isinstance(translate(RefreshError("backend", retryable=True)), NetworkError)
    assert isinstance(translate(TransportError("Compute Engine Metadata server unavailable.")), NetworkError)
    assert isinstance(translate(ValueError()), GoogleRefused)


async def test_an_endpoint_that_nobody_serves_is_a_network_error(google: GcpFake) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        text = google.key(token_uri=f"http://127.0.0.1:{nobody.getsockname()[1]}/token")
        with pytest.raises(NetworkError, match=r"no token of Google: .*127") as failed:
            await GoogleIdentity(settings(text), Route()).token()
    assert failed.value.retryable


async def test_an_endpoint_that_never_answers_is_given_up_in_time(google: GcpFake) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    text = google.key(token_uri=f"http://{address}/token")
    with pytest.raises(NetworkError, match="gave no answer within"):
        await GoogleIdentity(settings(text), Route(), seconds=0.2).token()
    server.close()
    await server.wait_closed()


async def test_a_body_without_end_is_cut_off(google: GcpFake) -> None:
    google.refuse["/token"] = (200, "x" * (1 << 17))
    with pytest.raises(NetworkError, match="no token of Google"):
        await GoogleIdentity(settings(google.key()), Route()).token()


async def test_names_are_resolved_however_busy_the_common_threads_are(google: GcpFake) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
    by_name = google.url.replace("127.0.0.1", "localhost")
    identities = [GoogleIdentity(settings(google.key(token_uri=f"{by_name}/token")), Route()) for _ in range(3)]
    tokens = await asyncio.gather(*map(token_of, identities))
    assert {token.principal.name for token in tokens} == {KEY_EMAIL}


async def test_somebody_who_is_cancelled_leaves_nothing_behind(google: GcpFake) -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    identity = GoogleIdentity(settings(google.key(token_uri=f"http://{address}/token")), Route(), limits=DEFAULT_LIMITS)
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(identity.token())
        await asked.wait()
        asking.cancel()
    assert asking.cancelled()
    server.close()
    await server.wait_closed()


# -- when it is renewed -----------------------------------------------------------------------------------------------------------------


async def test_a_token_is_kept_until_shortly_before_its_end(google: GcpFake) -> None:
    clock = Clock()
    identity = GoogleIdentity(settings(google.key()), Route(), clock=clock)
    first = await token_of(identity)
    clock.now += 3600 - 300
    assert (await token_of(identity)).value == first.value
    clock.now += 100
    assert (await token_of(identity)).value != first.value
    assert len(google.seen) == 2


async def test_a_metadata_token_with_minutes_left_is_taken_as_it_is(google: GcpFake) -> None:
    google.life = 100
    await google.serve_metadata()
    clock = Clock()
    identity = GoogleIdentity(settings(), Route(), clock=clock)
    first = await token_of(identity)
    assert first.expires == pytest.approx(clock.now + 100, abs=5)
    clock.now += 40
    assert (await token_of(identity)).value == first.value
    clock.now += 20
    assert (await token_of(identity)).value != first.value


async def test_a_refused_token_is_replaced_once_for_all_who_ask(google: GcpFake, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(google.key())
    identity = GoogleIdentity(Gcp(credentials=FromFile(str(tmp_path / "key.json"))), Route())
    first = await token_of(identity)
    (tmp_path / "key.json").write_text(google.key(client_email="next@example.iam.gserviceaccount.com"))
    again = await asyncio.gather(*(identity.token(renew=True) for _ in range(5)))
    assert len(google.seen) == 2
    assert {token.principal.name for token in again if token} == {"next@example.iam.gserviceaccount.com"}
    assert again[0] is not None
    assert again[0].value != first.value


async def test_a_token_that_still_holds_bridges_an_outage(google: GcpFake) -> None:
    clock = Clock()
    identity = GoogleIdentity(settings(google.key()), Route(), clock=clock)
    first = await token_of(identity)
    google.refuse["/token"] = (200, "x" * (1 << 17))
    clock.now += 3600 - 200
    assert (await token_of(identity)).value == first.value
    assert len(google.seen) == 2
    clock.now += 10
    assert (await token_of(identity)).value == first.value
    assert len(google.seen) == 2  # not asked again at once
    with pytest.raises(NetworkError):
        await identity.token(renew=True)
    clock.now += 300
    with pytest.raises(NetworkError):
        await identity.token()


async def test_the_library_is_imported_at_first_use_only(tmp_path: Path) -> None:
    program = "import sys, sensor.registry.kinds; sys.exit(any(m.startswith(('google.auth', 'botocore')) for m in sys.modules))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0
