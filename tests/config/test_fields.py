"""Durations, sizes, shares, secret sources; and finding every secret of a configuration."""

import pytest

from sensor.config.fields import parse_duration, parse_secret_source, parse_share, parse_size, secrets_of
from sensor.config.schema import Config
from sensor.secret import FromEnv, FromFile, FromKeyring, InPlace, Secret


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("15m", 900), ("1.5h", 5400), (" 7 d ", 604800), ("2w", 1209600), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", ["30", 30, "", "s", "-1s", "1y", "1h30m", "1e3s", None, True, "٣s ."])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [(0, 0), (5, 5), ("5", 5), ("5k", 5000), ("512MiB", 2**29), ("10GB", 10**10), ("1gi", 2**30), ("7B", 7)],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", [-1, True, 1.5, "", "1.5G", "1T", "-5", None])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="expected a size such as"):
        parse_size(value)


def test_shares() -> None:
    assert [parse_share(text) for text in ("0%", " 50 % ", "100%", 0.25)] == [0.0, 0.5, 1.0, 0.25]


@pytest.mark.parametrize("value", ["50", 50, "101%", "-1%", 1.5, "", None, True])
def test_what_is_no_share(value: object) -> None:
    with pytest.raises(ValueError, match="expected a share such as"):
        parse_share(value)


def test_secret_sources() -> None:
    assert parse_secret_source({"keyring": "a"}) == FromKeyring("a")
    assert parse_secret_source({"env": "A"}) == FromEnv("A")
    assert parse_secret_source({"file": "/a"}) == FromFile("/a")
    assert parse_secret_source("text") == InPlace(Secret("text"))
    assert parse_secret_source(FromEnv("A")) == FromEnv("A")


@pytest.mark.parametrize(
    "value", [None, "", 5, [], {}, {"vault": "hunter2"}, {"env": ""}, {"env": 5}, {"env": "A", "file": "hunter2"}]
)
def test_what_is_no_secret_source_is_not_repeated(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected \{keyring: NAME\}") as caught:
        parse_secret_source(value)
    assert "hunter2" not in str(caught.value)


def test_every_secret_of_a_configuration_is_found_with_its_path() -> None:
    config = Config.model_validate({
        "control_plane": {"url": "https://hg.example", "api_key": {"env": "KEY"}},
        "registries": [
            {
                "name": "a", "url": "a.example", "username": "u", "password": {"file": "/p"},
                "aws": {"access_key_id": "AKIA", "secret_access_key": {"keyring": "aws"}},
                "github_app": {"app_id": "1", "private_key": {"file": "/k"}},
                "api": {"token": {"env": "T"}},
            },
            {"name": "b", "url": "b.example", "token": {"env": "B"}, "control_plane": {"api_key": {"env": "C"}}},
        ],
    })  # fmt: skip
    assert {".".join(map(str, path)) for path, _ in secrets_of(config)} == {
        "control_plane.api_key",
        "registries.0.password",
        "registries.0.aws.secret_access_key",
        "registries.0.github_app.private_key",
        "registries.0.api.token",
        "registries.1.token",
        "registries.1.control_plane.api_key",
    }
