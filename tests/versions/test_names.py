from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.versions import ORDERS
from sensor.versions.names import base_ecosystem, normal_name


@pytest.mark.parametrize(
    ("ecosystem", "name", "normal"),
    [
        ("PyPI", "Ruamel.YAML--clib_x", "ruamel-yaml-clib-x"),
        ("PyPI", " Django ", "django"),
        ("NuGet", "Newtonsoft.Json", "newtonsoft.json"),
        ("npm", "JSONStream", "JSONStream"),
        ("npm", "@babel/core", "@babel/core"),
        ("Go", "github.com/Masterminds/sprig", "github.com/Masterminds/sprig"),
        ("Debian:12", "libX11", "libX11"),
        ("Packagist:https://packages.drupal.org/8", "Drupal/Core", "drupal/core"),
        ("Unheard Of", "Name", "Name"),
    ],
)
def test_one_spelling_per_name(ecosystem: str, name: str, normal: str) -> None:
    assert normal_name(ecosystem, name) == normal


@pytest.mark.parametrize(("ecosystem", "base"), [("Ubuntu:Pro:18.04:LTS", "Ubuntu"), ("PyPI", "PyPI"), ("", "")])
def test_the_base_is_what_stands_before_the_first_colon(ecosystem: str, base: str) -> None:
    assert base_ecosystem(ecosystem) == base


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(sorted(ORDERS)), st.text(max_size=12))
def test_a_normal_name_stays_as_it_is(ecosystem: str, name: str) -> None:
    once = normal_name(ecosystem, name)
    assert normal_name(ecosystem, once) == once
