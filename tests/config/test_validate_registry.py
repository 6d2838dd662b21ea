"""One registry: its address, and what it selects."""

from pathlib import Path
from typing import Any

import pytest

from tests.config.checking import of_registry, problems, registry, warned


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"url": "https://a.example", "insecure": True}, "insecure: contradicts https://"),
        ({"url": "http://a.example"}, "url: http:// sends credentials"),
        ({"url": "ftp://a.example"}, "url: registries are reached over http:// or https://"),
        ({"url": "bücher.example"}, "url: a host name is written in ASCII here"),
        ({"url": "a.example:99999"}, "url: a port is a number from 1 to 65535"),
        ({"url": "https://a.example:0/team"}, "url: a port is a number from 1 to 65535"),
        ({"url": "https://u:p@"}, "url: expected host[:port]"),
        ({"url": "a.example/team/app:1.0"}, "url: this is one image; leave out its tag"),
        ({"url": "a.example/app:1.0"}, "url: this is one image; leave out its tag"),
        ({"url": "a.example/app@sha256:00"}, "url: this is one image; leave out its digest"),
        ({"url": "a.example:port"}, "url: expected host[:port]"),
        ({"url": "a.example/path", "provider": "distribution"}, "url: a registry's URL has no path"),
        ({"url": "a.example?x=1"}, "url: a registry's URL has no query"),
        ({"url": "a.example/team#x"}, "url: a registry's URL has no query and no fragment"),
        ({"url": "a.example/team//app"}, "url: the path is not that of a namespace"),
        ({"url": "https://a.example/../x"}, "url: the path is not that of a namespace"),
        ({"url": "https://u:p@a.example"}, "url: credentials do not belong"),
        ({"url": "oci:relative"}, "url: expected oci:/path"),
        ({"url": "oci:/", "provider": "distribution"}, "provider: an oci: URL means an image layout"),
        (
            {"url": "oci:/", "provider": "archive"},
            "provider: an oci: URL means an image layout on disk; use auto or layout",
        ),
        (
            {"url": "archive:/", "provider": "layout"},
            "provider: an archive: URL means image archives on disk; use auto or archive",
        ),
        ({"url": "archive:images.tar"}, "url: expected archive:/path/to"),
        ({"url": "oci-archive:images.tar"}, "url: expected archive:/path/to"),
        ({"provider": "archive"}, "provider: archive needs a URL such as archive:/path"),
        ({"provider": "layout"}, "provider: layout needs a URL such as oci:/path"),
        ({"tags": {"exclude": ["ok", "[z-a]"]}}, "tags.exclude[1]: not a pattern: the range z-a"),
        ({"repositories": {"include": []}}, "repositories.include: an empty list selects nothing"),
        ({"repositories": {"names": ["Acme/App"]}}, "repositories.names[0]: not a repository name"),
        ({"trusted_realms": ["https://auth.example"]}, "trusted_realms[0]: expected host"),
        ({"repositories": {"namespaces": ["team", "a b"]}}, "repositories.namespaces[1]: expected a namespace"),
        ({"repositories": {"namespaces": ["/team"]}}, "repositories.namespaces[0]: expected a namespace"),
        ({"repositories": {"namespaces": ["a" * 256]}}, "repositories.namespaces[0]: expected a namespace"),
        ({"windows": ["sat-sun", "22-06"]}, "windows[1]: expected hours, days or both"),
        ({"windows": ["06:00-06:00"]}, "windows[0]: begins when it ends"),
        ({"keep": {"max_age": "30m"}}, "keep.max_age: expected 1h to 36525d"),
        ({"rules": [{"action": "include"}]}, "rules[0]: expected exactly one of tags, regex, semver; found none"),
        (
            {"rules": [{"tags": "v*", "semver": "1.x"}]},
            "rules[0]: expected exactly one of tags, regex, semver; found tags and semver",
        ),
        ({"rules": [{"tags": "*"}, {"tags": "[z-a]"}]}, "rules[1].tags: not a pattern: the range z-a"),
        ({"rules": [{"tags": "*", "repositories": "["}]}, "rules[0].repositories: not a pattern: a [ is not closed"),
        ({"rules": [{"tags": "*", "repositories": ""}]}, "rules[0].repositories: not a pattern"),
        ({"rules": [{"regex": "(a"}]}, "rules[0].regex: not a regular expression: a ( is not closed"),
        ({"rules": [{"regex": "(?!rc).*"}]}, "rules[0].regex: not a regular expression: (?!r is not known here"),
        ({"rules": [{"semver": "latest"}]}, "rules[0].semver: not a version: 'latest'; expected a range such as"),
        ({"rules": [{"tags": "*", "keep": {"max_age": "1s"}}]}, "rules[0].keep.max_age: expected 1h"),
        (
            {"rules": [{"tags": "a", "action": "exclude", "keep": {"last": 1}}, {"tags": "b"}]},
            "rules[0].keep: a rule that excludes",
        ),
        ({"rules": [{"tags": "a", "action": "exclude"}]}, "rules: no rule includes anything"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(keys: dict[str, Any], expected: str) -> None:
    (found,) = of_registry(**keys)
    assert found.startswith(expected)


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "http://a.example", "insecure": True},
        {"url": "https://a.example/"},
        {"url": "https://a.example/v2/", "provider": "distribution"},
        {"url": "harbor.example/project", "provider": "harbor"},
        {"url": "europe-docker.pkg.dev/my-project/images"},
        {"url": "europe-docker.pkg.dev/example.com:my-project"},
        {"url": "europe-docker.pkg.dev/example.com:my-project/images"},
        {"url": "nexus.example/repository/docker-hosted", "provider": "nexus"},
        {"insecure": True},
        {"url": "[::1]:5000"},
        {"trusted_realms": ["auth.example:8443"]},
        {"repositories": {"namespaces": ["team", "group/sub-group/project", "example.com:project", "Acme_1"]}},
        {"windows": ["22:00-06:00", "sat-sun", "mon-fri 20:00-07:00"]},
        {"keep": {"last": 3, "max_age": "90d", "order": "version"}},
        {
            "rules": [
                {"repositories": "team/*", "semver": ">=1.2 <3 || ^4", "keep": {"last": 3}},
                {"regex": "pr-[0-9]+", "action": "exclude"},
                {"tags": "latest", "keep": {}},
            ]
        },
        {"materialize": True, "max_new_per_day": 100, "quota": {"leave": "50%"}},
    ],
)
def test_good_registries(keys: dict[str, Any]) -> None:
    assert of_registry(**keys) == []
    assert warned(**keys) == []


def test_registries_on_disk(tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(b"")
    assert of_registry(url=f"archive:{tmp_path}/images.tar", provider="archive") == []
    for scheme in ("archive", "oci-archive", "docker-archive"):
        assert warned(url=f"{scheme}:{tmp_path}/images.tar") == []
    assert warned(url=f"archive:{tmp_path}") == []
    assert warned(url=f"oci:{tmp_path}/images.tar") == ["url: there is no such directory now"]
    assert warned(url=f"archive:{tmp_path}/none.tar") == ["url: there is no such file or directory now"]
    assert warned(url=f"archive:{tmp_path}", token={"env": "T"}) == [
        "registries[0]: there is nothing to log in to for image archives on disk; the credentials are not used"
    ]


def test_what_has_no_effect_is_warned_about() -> None:
    assert warned(provider="distribution", repositories={"namespaces": ["team"]}) == [
        "repositories.namespaces: distribution has no namespaces; use repositories.include"
    ]
    rules = [{"semver": "1.x"}, {"tags": "*"}, {"tags": "latest"}, {"regex": "x", "action": "exclude"}]
    assert warned(rules=rules) == [
        "rules[2]: never decides: rule 2 already speaks about every tag",
        "rules[3]: never decides: rule 2 already speaks about every tag",
    ]
    assert warned(rules=[{"regex": ".*"}, {"tags": "latest"}]) == [
        "rules[1]: never decides: rule 1 already speaks about every tag"
    ]
    team, latest = {"repositories": "team/*", "tags": "**"}, {"repositories": "team/*", "tags": "latest"}
    assert warned(rules=[team, latest, {"tags": "latest"}]) == [
        "rules[1]: never decides: rule 1 already speaks about every tag of team/*"
    ]
    assert warned(rules=[team, {"repositories": "*", "tags": "*"}, {"repositories": "other", "tags": "x"}]) == [
        "rules[2]: never decides: rule 2 already speaks about every tag"
    ]
    assert warned(rules=[{"repositories": "team/*", "tags": "*"}, {"tags": "latest"}]) == []


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


def test_a_host_may_have_several_registries_in_different_places_or_with_different_logins() -> None:
    found = problems(
        registries=[
            registry(url="harbor.example/one"),
            registry(name="b", url="harbor.example/two"),
            registry(name="c", url="harbor.example", repositories={"namespaces": ["three", "four"]}),
            registry(name="d", url="harbor.example", repositories={"namespaces": ["five"]}),
            registry(name="e", url="harbor.example", token={"env": "ONE"}),
            registry(name="f", url="harbor.example", token={"env": "TWO"}),
            registry(name="g", url="https://harbor.example/one/"),
            registry(name="h", url="harbor.example", repositories={"namespaces": ["four", "three"]}),
            registry(name="i", url="harbor.example/v2", token={"env": "ONE"}, tags={"exclude": ["x"]}),
            registry(name="j", url="https://:80", provider="harbor"),
        ]
    )
    assert found[:3] == [
        "registries[6].url: registries[0] is the same registry with the same user; merge the two",
        "registries[7].url: registries[2] is the same registry with the same user; merge the two",
        "registries[8].url: registries[4] is the same registry with the same user; merge the two",
    ]
    assert found[3].startswith("registries[9].url: expected host[:port]")
