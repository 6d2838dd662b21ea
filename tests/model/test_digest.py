import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.model.digest import is_digest, parse_digest, sha256_digest


@given(st.binary(max_size=100))
def test_a_digest_round_trips(data: bytes) -> None:
    digest = sha256_digest(data)
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert parse_digest(digest) == digest
    assert is_digest(digest)


def test_sha512_is_known_too() -> None:
    assert is_digest("sha512:" + "0" * 128)


@pytest.mark.parametrize(
    "text",
    [
        "", "sha256:", "sha256:" + "0" * 63, "sha256:" + "0" * 65, "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha512:" + "0" * 64,
        " sha256:" + "0" * 64, "sha256:" + "0" * 64 + "\n", "repo@sha256:" + "0" * 64, "sha256:" + "٠" * 64, "../../etc/passwd",
    ],
)  # fmt: skip
def test_other_text_is_refused(text: str) -> None:
    assert not is_digest(text)
    with pytest.raises(DataError, match="not a digest"):
        parse_digest(text)


@given(st.text(max_size=300))
def test_any_text_is_judged(text: str) -> None:
    assert is_digest(text) is False
