from __future__ import annotations

import random
import subprocess

import pytest
from hypothesis import given, settings

from sensor.versions import compare
from sensor.versions.order import LONGEST_VERSION
from sensor.versions.rpm import RPM, is_valid, seen_by, without_epoch

from .tables import assert_total_order, assert_unparsable_is_lowest, versions_like, wrong_cases

_TEXTS = versions_like("01a~^.-:")


@pytest.mark.parametrize("table", ["rpmvercmp", "redhat-versions"])
def test_orders_all_versions_as_the_tables_say(table: str) -> None:
    assert wrong_cases(RPM, table) == []


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.0~rc1-1", "1.0-1"),
        ("1.0-1", "1.0^git1-1"),
        ("1.0^git1-1", "1.0.1-1"),
        ("1.a", "1.1"),
        ("1.0-9.el9", "1.0-10.el9"),
        ("9.9-1", "1:0.1-1"),
        ("5.14.0-362.8.1.el9_3", "5.14.0-362.13.1.el9_3"),
        ("1:16.13.1-3.module_el8.5.0+2605+45d748af", "1:16.14.0-4.module_el8.6.0+3264+1a2b3c4d"),
    ],
)
def test_lower_and_higher(lower: str, higher: str) -> None:
    assert compare(RPM, lower, higher) == -1
    assert compare(RPM, higher, lower) == 1


@pytest.mark.parametrize(
    ("a", "b"), [("0:1-1", "1-1"), ("1.0001-1", "1.1-1"), ("1..0-1", "1.0-1"), ("1.0.-1", "1.0-1")]
)
def test_equal_spellings(a: str, b: str) -> None:
    assert compare(RPM, a, b) == 0


@pytest.mark.parametrize("version", ["", "a:1-1", "1-2-3", "~", "...", ":1", "1" * (LONGEST_VERSION + 1)])
def test_texts_without_meaning_are_not_valid(version: str) -> None:
    assert not is_valid(version)


def test_garbage_is_below_every_version() -> None:
    assert_unparsable_is_lowest(RPM, "z:9-9", "0~~")
    assert_unparsable_is_lowest(RPM, "9" * (LONGEST_VERSION + 1), "0~~")


def test_a_bound_without_release_speaks_about_the_version_only() -> None:
    assert seen_by("1:1.2-3.el9", "1:1.2") == "1:1.2"
    assert seen_by("1.2-3.el9", "1.2-1") == "1.2-3.el9"
    assert compare(RPM, seen_by("1.2-3", "1.2"), "1.2") == 0


@pytest.mark.parametrize(
    ("version", "bare"), [("4:5.16-1", "5.16-1"), ("5.16-1", "5.16-1"), ("a:1", "a:1"), (":1", ":1")]
)
def test_the_epoch_can_be_left_out(version: str, bare: str) -> None:
    assert without_epoch(version) == bare


@settings(deadline=None, max_examples=150)
@given(_TEXTS, _TEXTS, _TEXTS)
def test_is_a_total_order(a: str, b: str, c: str) -> None:
    assert_total_order(RPM, a, b, c)


def test_agrees_with_the_rpm_of_this_machine() -> None:
    """One rpm process compares all pairs, through the Lua interpreter inside it."""
    source = random.Random(20)

    def some_version() -> str:
        epoch = source.choice(["", "", "0:", "1:"])
        return f"{epoch}1{some_text()}-1{some_text()}"

    def some_text() -> str:
        return "".join(source.choices("019az.~^_", k=source.randint(0, 4)))

    pairs = [(some_version(), some_version()) for _ in range(400)]
    script = " ".join(f"print(rpm.vercmp('{a}','{b}')) print(' ')" for a, b in pairs)
    done = subprocess.run(["rpm", "--eval", f"%{{lua:{script}}}"], check=True, capture_output=True, text=True)
    assert [compare(RPM, a, b) for a, b in pairs] == [int(number) for number in done.stdout.split()]
