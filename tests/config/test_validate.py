from pathlib import Path
from typing import Any

import pytest

from sensor.config.schema import Config
from sensor.config.validate import find_problems
from tests.config.checking import PLANE, of_registry, problems, registry, warnings


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"schedule": "on_push"},
            "schedule: on_push needs an event source, and this version has none; use {every: 15m}",
        ),
        ({"schedule": {"every": "2s"}}, "schedule.every: expected 5s to 366d"),
        ({"schedule": {"cron": "99 * * * *"}}, "schedule.cron: not a cron expression: minute"),
        ({"platforms": ["linux"]}, "platforms[0]: expected os/architecture"),
        ({"platforms": ["linux/x86_64"]}, "platforms[0]: the architecture is called amd64 here"),
        ({"platforms": ["linux/amd64", "linux/amd64"]}, "platforms[1]: stands twice"),
        ({"ca_file": "/nonexistent.pem"}, "ca_file: there is no such file"),
        ({"proxy": "socks5://p.example"}, "proxy: expected a URL"),
        (
            {"control_plane": {"api_key": {"env": "K"}}},
            "control_plane.url: is missing, and there is no top-level",
        ),
        (
            {"control_plane": {"url": "h.example", "api_key": {"env": "K"}}},
            "control_plane.url: expected a URL",
        ),
    ],
)
def test_what_registries_share_with_others(keys: dict[str, Any], expected: str) -> None:
    (found,) = of_registry(**keys)
    assert found.startswith(expected)


@pytest.mark.parametrize("keys", [{"schedule": {"every": "1m"}}, {"proxy": "direct"}])
def test_good_schedules_and_connections(keys: dict[str, Any]) -> None:
    assert of_registry(**keys) == []


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"control_plane": {**PLANE, "url": "h.example"}}, "control_plane.url: expected a URL"),
        (
            {"control_plane": {**PLANE, "url": "https://k@h.example"}},
            "control_plane.url: a control plane's URL holds no user name",
        ),
        (
            {"control_plane": {**PLANE, "url": "https://h.example/?k=1"}},
            "control_plane.url: a control plane's URL holds no",
        ),
        ({"control_plane": {**PLANE, "url": "https://h.example/api/"}}, "control_plane.url: leave out /api"),
        ({"control_plane": {**PLANE, "heartbeat": "61s"}}, "control_plane.heartbeat: expected 5s to 1m"),
        ({"control_plane": {**PLANE, "poll": "11m"}}, "control_plane.poll: expected 1s to 10m"),
        (
            {"control_plane": {**PLANE, "default_registry": "https://r.example"}},
            "control_plane.default_registry: expected host",
        ),
        ({"control_plane": {"url": "https://h.example"}}, "control_plane.api_key: is missing"),
        ({"control_plane": {**PLANE, "fallback": ["hg"]}}, "control_plane.fallback[0]: expected a URL"),
        (
            {"control_plane": {**PLANE, "client_certificate": "/nonexistent.pem"}},
            "control_plane.client_certificate: there is no such file",
        ),
        (
            {"advisories": {"client_key": __file__}},
            "advisories.client_certificate: is missing: there is a client_key",
        ),
        (
            {"control_plane": {**PLANE, "allow_hosts": ["https://r.example"]}},
            "control_plane.allow_hosts[0]: expected host, host:port",
        ),
        (
            {"control_plane": {**PLANE, "fallback_registries": ["*"]}},
            "control_plane.fallback_registries[0]: expected host",
        ),
        ({"s3": {"bucket": "s3://b"}}, "s3.bucket: expected the name of a bucket"),
        ({"s3": {"bucket": "reports", "endpoint": "minio:9000"}}, "s3.endpoint: expected a URL"),
        ({"s3": {"bucket": "reports", "access_key_id": "A"}}, "s3.secret_access_key: is missing"),
        ({"s3": {"bucket": "reports", "secret_access_key": {"env": "A"}}}, "s3.access_key_id: is missing"),
        ({"s3": {"bucket": "reports", "ca_file": "/nonexistent.pem"}}, "s3.ca_file: there is no such file"),
        ({"outbox": {"size": "1MiB"}}, "outbox.size: expected at least 16MiB"),
        ({"outbox": {"age": "1m"}}, "outbox.age: expected 1h to 3660d"),
        ({"outbox": {"trusted_keys": ["ed25519:abc"]}}, "outbox.trusted_keys[0]: expected ed25519:"),
        ({"platforms": []}, "platforms: name at least one"),
        ({"advisories": {"update": "on_push"}}, "advisories.update: on_push needs"),
        ({"advisories": {"max_age": "5m"}}, "advisories.max_age: expected 1h to 3660d"),
        ({"advisories": {"sources": ["ftp://a.example"]}}, "advisories.sources[0]: expected a directory"),
        ({"advisories": {"sources": ["https://u:p@a.example"]}}, "advisories.sources[0]: credentials do not belong"),
        ({"advisories": {"sources": ["relative/path"]}}, "advisories.sources[0]: expected an absolute path or a URL"),
        ({"state": {"directory": "relative"}}, "state.directory: expected an absolute path"),
        ({"state": {"directory": __file__}}, "state.directory: is not a directory"),
        ({"limits": {"bandwidth": 1000}}, "limits.bandwidth: expected at least 64KiB"),
        ({"limits": {"idle_timeout": "2h"}}, "limits.idle_timeout: expected 1s to 1h"),
        ({"health": {"listen": "9180"}}, "health.listen: expected host:port"),
        ({"http": {"no_proxy": ["http://a"]}}, "http.no_proxy[0]: expected a host"),
        ({"http": {"proxy": "proxy.example:3128"}}, "http.proxy: expected a URL"),
        ({"http": {"ca_file": "/nonexistent.pem"}}, "http.ca_file: there is no such file"),
    ],
)
def test_other_rules(raw: dict[str, Any], expected: str) -> None:
    (found,) = problems(**raw)
    assert found.startswith(expected)


def test_a_bucket_that_nobody_reads_is_warned_about() -> None:
    assert any("s3" in text for text in warnings(s3={"bucket": "reports"}))
    assert not any("s3" in text for text in warnings(s3={"bucket": "reports"}, control_plane=PLANE))


def test_an_offline_control_plane_needs_no_key() -> None:
    assert problems(control_plane={"url": "https://h.example", "offline": True}) == []


def test_a_plain_http_control_plane_is_warned_about_except_on_this_machine() -> None:
    assert warnings(control_plane={**PLANE, "url": "http://dashboard:3000"})[0].startswith(
        "control_plane.url: http:// sends the API key"
    )
    assert warnings(control_plane={**PLANE, "url": "http://127.0.0.1:3000"}) == []


def test_things_that_may_appear_later_are_warned_about(tmp_path: Path) -> None:
    found = warnings(
        registries=[registry(url=f"oci:{tmp_path}/none", username="u", password={"env": "P"})],
        advisories={"sources": [f"{tmp_path}/a.zip", str(tmp_path)]},
    )
    assert [warning.partition(":")[0] for warning in found] == [
        "registries[0].url",
        "registries[0]",
        "advisories.sources[0]",
    ]


def test_literal_secrets_everywhere() -> None:
    raw = {
        "control_plane": {**PLANE, "api_key": "k"},
        "registries": [
            registry(username="u", password="p", control_plane={"api_key": "k"}),
            registry(name="b", url="b.example", token="t", proxy="http://u:p@p.example"),
        ],
        "http": {"proxy": "http://u:p@p.example"},
    }
    places = [
        "control_plane.api_key", "registries[0].password", "registries[0].control_plane.api_key", "registries[1].token", "http.proxy",
        "registries[1].proxy",
    ]  # fmt: skip
    found = problems(private=False, **raw)
    assert [problem.partition(":")[0] for problem in found] == places
    assert all("chmod 600" in problem for problem in found)
    assert problems(private=True, **raw) == []
    assert [warning.partition(":")[0] for warning in warnings(**raw)] == places


def test_literal_secrets_of_every_login() -> None:
    keys: dict[str, Any] = {
        "aws": {"access_key_id": "A" * 20, "secret_access_key": "s", "session_token": "s"},
        "gcp": {"credentials": "s"},
        "azure": {"client_secret": "s", "certificate": "s"},
        "github_app": {"app_id": "1", "private_key": "s"},
        "api": {"password": "s", "token": "s"},
    }
    found = [text for text in problems(private=False, registries=[registry(**keys)]) if "chmod 600" in text]
    assert [text.partition(":")[0].removeprefix("registries[0].") for text in found] == [
        "aws.secret_access_key", "aws.session_token", "gcp.credentials", "azure.client_secret", "azure.certificate",
        "github_app.private_key", "api.password", "api.token",
    ]  # fmt: skip
    assert not any("chmod" in text for text in problems(private=True, registries=[registry(**keys)]))
    assert sum("plain text" in text for text in warnings(registries=[registry(**keys)])) == 8


def test_a_proxy_of_the_environment_is_not_in_the_file() -> None:
    config = Config.model_validate({"http": {"proxy": "http://u:p@p.example"}, "registries": [registry()]})
    assert find_problems(config, private=False, elsewhere={("http", "proxy")}) == ([], [])
