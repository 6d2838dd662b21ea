"""Stand-ins keep the rest of a configuration checkable, whatever is wrong with it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sensor.config.logins import AwsRole
from sensor.config.mend import concerns, mended, section_at
from sensor.config.problems import KeyPath
from sensor.config.schema import Config, Registry, Rule

SECRET = {"env": "S"}
WHOLE: dict[str, Any] = {
    "control_plane": {"url": "https://h.example", "api_key": SECRET, "poll": "15s"},
    "registries": [
        {
            "name": "a",
            "url": "https://a.example",
            "provider": "auto",
            "username": "u",
            "password": SECRET,
            "insecure": False,
            "aws": {"region": "eu-central-1", "assume_roles": [{"arn": "r"}]},
            "github_app": {"app_id": "1", "private_key": SECRET},
            "docker_config": {"helpers": ["one"]},
            "plugin": {"command": "/bin/sh", "args": ["x"], "env": {"A": "b"}},
            "api": {"url": "https://a.example", "token": SECRET},
            "repositories": {"include": ["*"], "names": ["x"]},
            "rules": [{"tags": "*", "keep": {"last": 1, "max_age": "1d"}}],
            "keep": {"order": "pushed"},
            "quota": {"leave": "50%"},
            "windows": ["sat-sun"],
            "schedule": {"every": "1h"},
            "control_plane": {"api_key": SECRET},
        }
    ],
    "platforms": ["linux/amd64"],
    "limits": {"layer_bytes": "1GiB"},
    "advisories": {"sources": ["/a"], "update": "daily"},
    "health": {"listen": "off"},
}
WRONG = (5, "word", ["word"], [5], {"word": 5}, {}, True, [{"word": []}])


def _paths(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(one for key, item in inner for one in _paths(item, (*path, key)))]


def _bad(raw: dict[str, Any]) -> set[KeyPath]:
    try:
        Config.model_validate(raw)
    except ValidationError as error:
        found = {item["loc"] for item in error.errors(include_input=False, include_url=False)}
        # as `load` does: a union reports once for each member
        return {
            path[: path.index("schedule") + 1]
            if "schedule" in path
            else path[:2]
            if path[:2] == ("advisories", "update")
            else path
            for path in found
        }
    return set()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(_paths(WHOLE)), st.sampled_from(WRONG)), min_size=1, max_size=5))
def test_whatever_is_wrong_the_rest_can_be_checked(changes: list[tuple[KeyPath, Any]]) -> None:
    raw = copy.deepcopy(WHOLE)
    for (*parents, key), wrong in changes:
        place: Any = raw
        try:
            for part in parents:
                place = place[part]
            place[key] = copy.deepcopy(wrong)
        except (KeyError, IndexError, TypeError):
            continue
    before = copy.deepcopy(raw)
    bad = _bad(raw)
    config = Config.model_validate(mended(raw, bad))
    assert raw == before
    if isinstance(raw["registries"], list):
        assert len(config.registries) == len(raw["registries"])


@pytest.mark.parametrize(
    ("url", "insecure"), [("https://a.example", False), ("http://a.example", True), ("a.example", True)]
)
def test_plain_http_is_not_complained_about_where_its_switch_is_wrong(url: str, insecure: bool) -> None:
    raw = {"registries": [{"name": "a", "url": url, "insecure": "perhaps"}]}
    assert mended(raw, {("registries", 0, "insecure")})["registries"][0]["insecure"] is insecure


def test_what_is_said_about_a_stand_in_is_known() -> None:
    bad = {("registries", 0, "rules", 1), ("platforms",)}
    assert concerns(("registries", 0, "rules", 1), bad)
    assert concerns(("registries", 0, "rules", 1, "tags"), bad)
    assert concerns(("platforms", 0), bad)
    assert not concerns(("registries", 0, "rules"), bad)
    assert not concerns(("registries", 0, "rules", 0), bad)
    assert not concerns(("registries",), bad)


def test_sections_are_found_by_their_path() -> None:
    assert section_at(()) is Config
    assert section_at(("registries", 3)) is Registry
    assert section_at(("registries", 0, "rules", 2)) is Rule
    assert section_at(("registries", 0, "aws", "assume_roles", 0)) is AwsRole
    assert section_at(("registries", 0, "plugin", "env")) is None
    assert section_at(("nothing", "here")) is None
