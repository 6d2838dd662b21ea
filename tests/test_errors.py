import pytest

from sensor import errors
from sensor.errors import NetworkError, SensorError, StateError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SensorError)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_carries_its_message_and_advice(kind: type[SensorError]) -> None:
    error = kind("it broke", "mend it", retry_after=5.0)
    assert (error.message, error.advice, error.retry_after) == ("it broke", "mend it", 5.0)
    assert str(error) == "it broke (mend it)"
    assert str(kind("it broke")) == "it broke"


def test_only_network_errors_are_worth_a_retry_by_themselves() -> None:
    assert {kind for kind in KINDS if kind("x").retryable} == {NetworkError}


def test_one_error_may_differ_from_its_kind() -> None:
    assert StateError("full", retryable=True).retryable
    assert not NetworkError("no such host", retryable=False).retryable
    assert not StateError.retryable


def test_the_tree_has_one_root_and_its_documentation_names_every_branch() -> None:
    assert len(KINDS) == 9
    assert all(kind is SensorError or kind.__bases__ == (SensorError,) for kind in KINDS)
    assert all(f"── {kind.__name__} " in (errors.__doc__ or "") for kind in KINDS if kind is not SensorError)
