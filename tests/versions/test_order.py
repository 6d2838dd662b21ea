from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.versions import ORDERS, compare, order_of
from sensor.versions.order import COMPARABLE, KEYS_KEPT


@pytest.mark.parametrize(
    ("ecosystem", "name"),
    [
        ("Debian:12", "deb"),
        ("Ubuntu:22.04:LTS", "deb"),
        ("Alpine:v3.18", "apk"),
        ("Wolfi", "apk"),
        ("AlmaLinux:9", "rpm"),
        ("Rocky Linux:9", "rpm"),
        ("Red Hat:enterprise_linux:9::baseos", "rpm"),
        ("PyPI", "pep440"),
        ("npm", "semver"),
        ("Go", "semver"),
    ],
)
def test_each_ecosystem_has_its_order(ecosystem: str, name: str) -> None:
    order = order_of(ecosystem)
    assert order is not None
    assert order.name == name


def test_an_ecosystem_that_cannot_be_judged_has_none() -> None:
    assert order_of("Maven") is None
    assert order_of("") is None


@pytest.mark.parametrize(
    "order", {order.name: order for order in ORDERS.values()}.values(), ids=lambda order: order.name
)
def test_every_order_keeps_a_bounded_number_of_keys(order) -> None:
    assert order.key.cache_info().maxsize == KEYS_KEPT


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(sorted(ORDERS)), st.text(max_size=10))
def test_valid_texts_have_comparable_keys(ecosystem: str, text: str) -> None:
    order = ORDERS[ecosystem]
    assert not order.is_valid(text) or order.key(text)[0] == COMPARABLE
    assert compare(order, order.seen_by(text, text), text) == 0
