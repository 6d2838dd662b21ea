import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.model.digest import Digest
from sensor.model.reference import Reference, is_repository, is_tag, parse_reference

DIGEST = Digest("sha256:" + "0" * 64)
COMPONENT = st.from_regex(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+){0,2}", fullmatch=True).filter(lambda text: len(text) < 40)
REFERENCES = st.builds(
    Reference,
    registry=st.sampled_from(
        ["", "docker.io", "registry.example.net:5000", "localhost", "localhost:1", "[::1]:5000", "10.0.0.1"]
    ),
    repository=st.lists(COMPONENT, min_size=1, max_size=4).map("/".join),
    tag=st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)),
    digest=st.sampled_from([None, DIGEST, Digest("sha512:" + "f" * 128)]),
)


def has_host_like_start(reference: Reference) -> bool:
    first, slash, _ = reference.repository.partition("/")
    return not reference.registry and bool(slash) and ("." in first or first == "localhost")


@settings(deadline=None)
@given(REFERENCES.filter(lambda reference: not has_host_like_start(reference)))
def test_a_reference_round_trips(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


def test_a_first_component_with_a_dot_is_read_as_a_host() -> None:
    # every container tool decides it so
    assert parse_reference("acme.io/app") == Reference(registry="acme.io", repository="app")


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("nginx", "", "nginx", "", None),
        ("library/nginx:1.27", "", "library/nginx", "1.27", None),
        ("ghcr.io/acme/app:1", "ghcr.io", "acme/app", "1", None),
        ("localhost/app", "localhost", "app", "", None),
        ("host:5000/app", "host:5000", "app", "", None),
        ("[::1]:5000/app:v1", "[::1]:5000", "app", "v1", None),
        (f"r.example.net/app@{DIGEST}", "r.example.net", "app", "", DIGEST),
        (f"r.example.net/app:1@{DIGEST}", "r.example.net", "app", "1", DIGEST),
        ("app:5000", "", "app", "5000", None),
    ],
)
def test_the_parts(text: str, registry: str, repository: str, tag: str, digest: Digest | None) -> None:
    assert parse_reference(text) == Reference(registry=registry, repository=repository, tag=tag, digest=digest)


@pytest.mark.parametrize(
    "text",
    [
        "", "/", ":tag", "@", "app@", f"@{DIGEST}", "App", "acme/App", "https://r.example.net/app", "docker://app", "app:", "app:-x",
        "app:" + "x" * 129,
        "app:1:2", "app@sha256:1", f"app@{DIGEST}@{DIGEST}", "r.example.net/", "r.example.net//app", "a/../b", "../app", "-option", "a b", "app\n",
        "app:tag\n", "$(id)", "app;id", "host:port/app", "host:123456/app", "é/app", "a" * 256, "-host.example/app", "r.example.net:/app", "a_.b",
    ],
)  # fmt: skip
def test_hostile_and_broken_text_is_refused(text: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_reference(text)
    assert len(caught.value.message) < 300


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=80), st.text("aA0.:/@-_[]\n $", max_size=60)))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_reference(text)
    except DataError:
        return
    assert str(parsed) == text
    assert is_repository(parsed.repository)
    assert not text.startswith("-")


def test_a_very_long_text_is_refused_at_once() -> None:
    with pytest.raises(DataError):
        parse_reference("a-" * 200_000 + "!")
    with pytest.raises(DataError):
        parse_reference("a-" * 200_000 + "./x")


def test_what_a_request_names() -> None:
    assert parse_reference("app").target == "latest"
    assert parse_reference("app:1").target == "1"
    assert parse_reference(f"app:1@{DIGEST}").target == DIGEST


def test_tags_and_repositories() -> None:
    assert [is_tag(text) for text in ("v1", "_x", "A.b-c", "", ".x", "-x", "a" * 128, "a" * 129, "a\n")] == [
        True, True, True, False, False, False, True, False, False,
    ]  # fmt: skip
    assert [is_repository(text) for text in ("a", "a/b", "a--b", "a__b", "a___b", "a/", "a/b:1", "a" * 255)] == [
        True, True, True, True, False, False, False, True,
    ]  # fmt: skip
