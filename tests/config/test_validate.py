from pathlib import Path
from typing import Any

import pytest

from sensor.config.schema import Config
from sensor.config.validate import find_problems, show_path

PLANE = {"url": "https://h.example", "api_key": {"env": "KEY"}}


def registry(**keys: Any) -> dict[str, Any]:
    return {"name": "a", "url": "a.example.net", **keys}


def problems(private: bool = True, **raw: Any) -> list[str]:
    found, _ = find_problems(Config.model_validate(raw), private=private)
    return [f"{show_path(problem.path)}: {problem.text}" for problem in found]


def warnings(**raw: Any) -> list[str]:
    return find_problems(Config.model_validate(raw))[1]


def one(**keys: Any) -> str:
    (found,) = problems(registries=[registry(**keys)])
    return found


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"url": "https://a.example", "insecure": True}, "registries[0].insecure: contradicts https://"),
        ({"url": "http://a.example"}, "registries[0].url: http:// sends credentials"),
        ({"url": "ftp://a.example"}, "registries[0].url: expected host[:port]"),
        ({"url": "a.example:port"}, "registries[0].url: expected host[:port]"),
        ({"url": "a.example/path"}, "registries[0].url: a registry's URL has no path"),
        ({"url": "a.example?x=1"}, "registries[0].url: a registry's URL has no path"),
        ({"url": "https://u:p@a.example"}, "registries[0].url: credentials do not belong"),
        ({"url": "oci:relative"}, "registries[0].url: expected oci:/path"),
        ({"url": "oci:/", "provider": "distribution"}, "registries[0].provider: an oci: URL is a layout"),
        ({"provider": "layout"}, "registries[0].provider: a layout needs a URL such as oci:/path"),
        ({"username": "u"}, "registries[0].password: is missing: there is a username"),
        ({"password": {"env": "P"}}, "registries[0].username: is missing"),
        ({"token": {"env": "T"}, "username": "u"}, "registries[0].token: stands instead of username and password"),
        ({"token": {"env": "T"}, "password": {"env": "P"}, "username": "u"}, "registries[0].token: stands instead of"),
        (
            {"schedule": "on_push"},
            "registries[0].schedule: on_push needs an event source, and this version has none; use {every: 15m}",
        ),
        ({"schedule": {"every": "2s"}}, "registries[0].schedule.every: expected 5s to 366d"),
        ({"schedule": {"cron": "99 * * * *"}}, "registries[0].schedule.cron: not a cron expression: minute"),
        ({"tags": {"exclude": ["ok", "[z-a]"]}}, "registries[0].tags.exclude[1]: not a pattern: the range z-a"),
        ({"repositories": {"include": []}}, "registries[0].repositories.include: an empty list selects nothing"),
        ({"repositories": {"names": ["Acme/App"]}}, "registries[0].repositories.names[0]: not a repository name"),
        ({"trusted_realms": ["https://auth.example"]}, "registries[0].trusted_realms[0]: expected host"),
        ({"platforms": ["linux"]}, "registries[0].platforms[0]: expected os/architecture"),
        ({"platforms": ["linux/x86_64"]}, "registries[0].platforms[0]: the architecture is called amd64 here"),
        ({"platforms": ["linux/amd64", "linux/amd64"]}, "registries[0].platforms[1]: stands twice"),
        ({"ca_file": "/nonexistent.pem"}, "registries[0].ca_file: there is no such file"),
        ({"proxy": "socks5://p.example"}, "registries[0].proxy: expected a URL"),
        (
            {"control_plane": {"api_key": {"env": "K"}}},
            "registries[0].control_plane.url: is missing, and there is no top-level",
        ),
        (
            {"control_plane": {"url": "h.example", "api_key": {"env": "K"}}},
            "registries[0].control_plane.url: expected a URL",
        ),
    ],
)
def test_registry_rules(keys: dict[str, Any], expected: str) -> None:
    assert one(**keys).startswith(expected)


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "http://a.example", "insecure": True},
        {"url": "https://a.example/"},
        {"insecure": True},
        {"token": {"env": "T"}},
        {"username": "u", "password": {"env": "P"}},
        {"schedule": {"every": "1m"}},
        {"proxy": "direct"},
        {"url": "[::1]:5000"},
        {"trusted_realms": ["auth.example:8443"]},
    ],
)
def test_good_registries(keys: dict[str, Any]) -> None:
    assert problems(registries=[registry(**keys)]) == []


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
        ({"platforms": []}, "platforms: name at least one"),
        ({"advisories": {"update": "on_push"}}, "advisories.update: on_push needs"),
        ({"advisories": {"max_age": "5m"}}, "advisories.max_age: expected 1h to 3660d"),
        ({"advisories": {"sources": ["ftp://a.example"]}}, "advisories.sources[0]: expected a directory"),
        ({"advisories": {"sources": ["https://u:p@a.example"]}}, "advisories.sources[0]: credentials do not belong"),
        ({"advisories": {"sources": ["relative/path"]}}, "advisories.sources[0]: expected an absolute path or a URL"),
        ({"state": {"directory": "relative"}}, "state.directory: expected an absolute path"),
        ({"state": {"directory": __file__}}, "state.directory: is not a directory"),
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


def test_names_and_places_stand_once() -> None:
    found = problems(
        registries=[
            registry(),
            registry(url="b.example.net"),
            registry(name="c", url="https://A.example.net:443/"),
            registry(name="d", url="a.example.net", username="other", password={"env": "P"}),
            registry(name="e", url="oci:/srv"),
            registry(name="f", url="oci:/srv/"),
        ]
    )
    assert found == [
        "registries[1].name: 'a' is also the name of registries[0]",
        "registries[2].url: registries[0] is the same registry with the same user; merge the two",
        "registries[5].url: registries[4] is the same registry with the same user; merge the two",
    ]


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


def test_a_proxy_of_the_environment_is_not_in_the_file() -> None:
    config = Config.model_validate({"http": {"proxy": "http://u:p@p.example"}, "registries": [registry()]})
    assert find_problems(config, private=False, elsewhere={("http", "proxy")}) == ([], [])


def test_paths_are_shown_inert() -> None:
    assert show_path(("registries", 2, "tags", "include", 0)) == "registries[2].tags.include[0]"
    assert show_path(("a\x1b[2J",)) == "'a\\x1b[2J'"
    assert show_path(()) == ""
