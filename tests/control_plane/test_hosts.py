import pytest

from sensor.control_plane.hosts import is_allowed, is_named, same_host


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
        # what a wildcard never means
        ("localhost:5000", ("*",), False),
        ("app.localhost", ("*",), False),
        ("127.0.0.1:5000", ("*",), False),
        ("[::1]:5000", ("*",), False),
        ("[::ffff:127.0.0.1]:5000", ("*",), False),
        ("169.254.169.254", ("*",), False),
        ("169.254.7.7", ("*",), False),
        ("[fe80::1]", ("*",), False),
        ("metadata.google.internal", ("*", "*.google.internal"), False),
        ("0.0.0.0:80", ("*",), False),
        ("", ("*",), False),
        # but whoever writes it down means it
        ("localhost:5000", ("localhost:5000",), True),
        ("127.0.0.1:5000", ("*", "127.0.0.1:5000"), True),
    ],
)
def test_where_jobs_may_go(host: str, patterns: tuple[str, ...], allowed: bool) -> None:
    assert is_allowed(host, patterns) is allowed


def test_names_of_one_host() -> None:
    assert same_host("Index.docker.io", "registry.hub.docker.com")
    assert not same_host("docker.io", "docker.io:443")
    assert not is_named("a.example", ("*", "*.example"))
