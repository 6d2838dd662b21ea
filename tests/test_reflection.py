"""What comes back of what was shown is taken out, in every form and however little is left of it."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from sensor.control_plane import wire
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.errors import Unauthorized
from sensor.control_plane.links import Link
from sensor.reflection import secrets_shown, without_secrets
from sensor.secret import InPlace, Secret

TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSIsImV4cCI6MTIzNDU2Nzg5MH0.c2ln"


def basic(pair: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


@pytest.mark.parametrize(
    ("headers", "body", "secrets"),
    [
        ({"Authorization": f"Bearer {TOKEN}"}, None, {TOKEN, f"Bearer {TOKEN}"}),
        ({"PRIVATE-TOKEN": "glpat-secret"}, None, {"glpat-secret"}),
        ({"X-IDENTITY-HEADER": "of-the-machine"}, None, {"of-the-machine"}),
        ({"x-aws-ec2-metadata-token": "imds-token"}, None, {"imds-token"}),
        ({"X-Amz-Security-Token": "session"}, None, {"session"}),
        ({"Accept": "application/json", "User-Agent": "sensor"}, None, set()),
        ({}, b"grant_type=client_credentials&client_id=12345678&client_secret=a%2Bb%2Fcdef", {"a+b/cdef"}),
        ({}, b'{"identifier":"acme-bot","secret":"dckr_pat_abc"}', {"dckr_pat_abc"}),
        ({}, b"Action=AssumeRoleWithWebIdentity&WebIdentityToken=web.token", {"web.token"}),
        ({}, b'{"secret":5,"token":null}', set()),
        ({}, b"\xff\xfe", set()),
        ({}, b"[1", set()),
        ({}, b"{" * 100_000, set()),
        ({}, b"secret=" + b"x" * (1 << 19), set()),
        ({"Authorization": "Basic ///not base64///"}, None, {"Basic ///not base64///", "///not base64///"}),
        ({"Authorization": "Bearer short"}, None, {"Bearer short"}),
    ],
)
def test_what_is_secret_in_a_request(headers: dict[str, str], body: bytes | None, secrets: set[str]) -> None:
    assert set(secrets_shown(headers, body)) == secrets


def test_a_password_is_known_without_its_user() -> None:
    assert {"robot$a:s3cret:with:colons", "s3cret:with:colons"} < set(
        secrets_shown(basic("robot$a:s3cret:with:colons"))
    )


@pytest.mark.parametrize(
    "form",
    [
        lambda secret: secret,
        lambda secret: quote(secret, safe=""),
        quote_plus,
        lambda secret: base64.b64encode(secret.encode()).decode(),
        lambda secret: json.dumps(secret)[1:-1],
    ],
)
@given(secret=st.text(st.characters(exclude_categories=("Cs",)), min_size=6, max_size=60), around=st.text(max_size=20))
def test_every_usual_form_is_taken_out(form: object, secret: str, around: str) -> None:
    shown = secrets_shown(basic(f"user:{secret}"))
    assert callable(form)
    found = str(form(secret))
    if found not in around:
        text = f"{around}|{found}|{around}".encode()
        assert found.encode() not in without_secrets(text, shown)


def test_a_long_secret_is_known_by_its_beginning() -> None:
    shown = secrets_shown({"Authorization": f"Bearer {TOKEN}"})
    assert (
        without_secrets(f"invalid header: Bearer {TOKEN[:40]}... (cut)".encode(), shown) == b"invalid header: *** (cut)"
    )


def test_what_is_not_secret_stays() -> None:
    shown = secrets_shown({"Authorization": f"Bearer {TOKEN}"}, b"client_id=12345678")
    body = b'{"errors":[{"code":"DENIED","message":"requested access to 12345678 is denied"}]}'
    assert without_secrets(body, shown) == body


@given(
    st.binary(max_size=200), st.dictionaries(st.sampled_from(["Authorization", "Cookie", "X"]), st.text(max_size=60))
)
def test_takes_anything(body: bytes, headers: dict[str, str]) -> None:
    assert without_secrets(body, secrets_shown(headers, body)) is not None


KEY = "hg_ak_0123456789abcdefghijklmnop"
PAIR = base64.b64encode("jürgen:p&ss wörd/1".encode()).decode()


@pytest.mark.parametrize(
    ("headers", "body", "secret"),
    [
        ({"Authorization": f"Bearer {KEY}"}, None, KEY),
        ({"X-API-Key": KEY}, None, KEY),
        ({"Authorization": f"Basic {PAIR}"}, None, "p&ss wörd/1"),
        ({"Authorization": f"Basic {PAIR}"}, None, PAIR),
        ({"X-Amz-Security-Token": KEY}, None, KEY),
        ({}, f"grant_type=password&password={quote(KEY)}".encode(), KEY),
        ({}, json.dumps({"username": "u", "password": KEY}).encode(), KEY),
        ({}, json.dumps({"client_assertion": KEY}).encode(), KEY),
    ],
)
def test_a_secret_comes_back_in_no_form(headers: dict[str, str], body: bytes | None, secret: str) -> None:
    shown = secrets_shown(headers, body)
    for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()):
        said = without_secrets(f'you sent "{form}", which is wrong'.encode(), shown)
        # the padding of base64 may stay: it tells nothing
        assert said.replace(b"=", b"") == b'you sent "***", which is wrong'


async def test_a_control_plane_that_repeats_the_key_does_not_get_it_into_a_message() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"error": f"bad headers: {dict(request.headers)}"}, status=401)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    link = Link(name="l", url=f"http://127.0.0.1:{runner.addresses[0][1]}", api_key=InPlace(Secret(KEY)))
    transport = transport_for(link)
    with pytest.raises(Unauthorized, match=r"bad headers") as refused:
        await ControlPlaneClient(link, transport).heartbeat(wire.Heartbeat(agent_id="a"))
    assert KEY not in str(refused.value)
    assert "***" in refused.value.message
    await transport.close()
    await runner.cleanup()
