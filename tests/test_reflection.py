"""What comes back of what was shown is taken out, in every form and however little is left of it."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.reflection import secrets_shown, without_secrets

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
