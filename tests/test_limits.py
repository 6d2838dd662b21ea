import ast
import inspect
from dataclasses import FrozenInstanceError, fields

import pytest

from sensor import limits
from sensor.config.schema import LimitSettings
from sensor.limits import DEFAULT_LIMITS, MIB, Limits


def test_every_limit_is_positive_and_explained() -> None:
    body = ast.parse(inspect.getsource(Limits)).body[0]
    assert isinstance(body, ast.ClassDef)
    named = [node for node in body.body if isinstance(node, ast.AnnAssign)]
    # a limit is followed by its reason, or shares that of the next limits of the same sentence
    explained = sum(isinstance(node, ast.Expr) for node in body.body) - 1
    assert len(named) == len(fields(Limits))
    assert explained >= len(named)
    assert all(getattr(DEFAULT_LIMITS, field.name) > 0 for field in fields(Limits))


def test_limits_never_change() -> None:
    with pytest.raises(FrozenInstanceError):
        DEFAULT_LIMITS.manifest_bytes = 1  # type: ignore[misc]


def test_the_protocols_own_bounds() -> None:
    assert DEFAULT_LIMITS.manifest_bytes >= 4 * MIB  # what the distribution specification asks for
    assert DEFAULT_LIMITS.envelope_bytes < 10 * MIB  # where the control plane cuts off
    assert DEFAULT_LIMITS.indexed_text_bytes < 2_700
    assert DEFAULT_LIMITS.layer_ratio > 1032  # DEFLATE's own maximum


def test_the_configurable_limits_default_to_the_same_values() -> None:
    settings = LimitSettings()
    assert settings.layer_bytes == DEFAULT_LIMITS.layer_bytes
    assert settings.layer_entries == DEFAULT_LIMITS.layer_entries
    assert settings.spool_bytes == DEFAULT_LIMITS.spool_bytes
    assert settings.idle_timeout == DEFAULT_LIMITS.idle_seconds


def test_units_are_binary() -> None:
    assert (limits.KIB, limits.MIB, limits.GIB) == (2**10, 2**20, 2**30)
