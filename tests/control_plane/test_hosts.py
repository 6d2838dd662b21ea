import pytest

from sensor.control_plane.hosts import is_allowed, is_named


@pytest.mark.parametrize(
    ("host", "patterns", "allowed"),
    [
        ("r.example.com", (), False),
        ("r.example.com", ("r.example.com",), True),
        ("R.Example.com", ("r.example.COM",), True),
        ("r.example.com:5000", ("r.example.com",), False),
        ("r.example.com:5000", ("r.example.com:5000",), True),
        ("r.example.com:5000", ("*.example.com",), True),
        ("r.Example.com", ("*.EXAMPLE.com",), True),
        ("example.com", ("*.example.com",), False),
        ("evilexample.com", ("*.example.com",), False),
        ("example.com.evil.test", ("*.example.com",), False),
        ("anything.test", ("*",), True),
        ("10.1.2.3:5000", ("*",), True),
        ("registry-1.docker.io", ("docker.io",), True),
        ("", ("*",), False),
    ],
)
def test_where_jobs_may_go(host: str, patterns: tuple[str, ...], allowed: bool) -> None:
    assert is_allowed(host, patterns) is allowed


def test_a_wildcard_names_no_host() -> None:
    assert is_named("Index.docker.io", ("registry.hub.docker.com",))
    assert not is_named("docker.io", ("docker.io:443", "*", "*.io"))
