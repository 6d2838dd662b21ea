"""What a server repeats of a request's secrets is taken out of its error, in whichever form it comes back."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

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


def test_the_beginning_of_a_long_secret_is_enough() -> None:
    said = without_secrets(
        f"token {KEY[:20]}... is unknown".encode(), secrets_shown({"Authorization": f"Bearer {KEY}"})
    )
    assert said == b"token *** is unknown"


def test_what_is_no_secret_stays() -> None:
    shown = secrets_shown(
        {"Accept": "application/json", "Authorization": "Bearer abc"}, b'{"password": 5, "name": "someone"}'
    )
    assert without_secrets(b"application/json abc someone", shown) == b"application/json abc someone"


@given(st.text(max_size=40), st.binary(max_size=80), st.binary(max_size=80))
def test_no_request_and_no_answer_makes_it_raise(value: str, body: bytes, answer: bytes) -> None:
    shown = secrets_shown({"Authorization": value, "X-Token": value}, body)
    assert isinstance(without_secrets(answer, shown), bytes)


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
