"""npm: package roots and what only looks like one, licences of every age, hostile JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS
from sensor.model.package import Evidence, Package
from sensor.scan.packages.ecosystem import HeldContent
from sensor.scan.packages.npm import ECOSYSTEM

ROOT = "app/node_modules/lodash/package.json"


def read(document: object, path: str = ROOT) -> Evidence:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return ECOSYSTEM.read(path, HeldContent(data), DEFAULT_LIMITS)


def test_a_package() -> None:
    evidence = read({"name": "@babel/core", "version": "7.23.0", "license": "MIT", "dependencies": {"x": "^1"}})

    assert evidence == Evidence(
        cataloger="npm",
        path=ROOT,
        packages=(Package(type="npm", name="@babel/core", version="7.23.0", path=ROOT, license="MIT"),),
    )


def test_an_alias_is_told_by_its_true_name() -> None:
    (package,) = read(
        {"name": "string-width", "version": "4.2.3"}, "node_modules/string-width-cjs/package.json"
    ).packages

    assert package.name == "string-width"


@pytest.mark.parametrize(
    ("written", "told"), [("v1.2.3", "1.2.3"), ("= 1.2.3", "1.2.3"), (" 1.2.3-rc.1+b ", "1.2.3-rc.1+b"), ("v", "v")]
)
def test_versions_lose_what_npm_ignores(written: str, told: str) -> None:
    (package,) = read({"name": "a", "version": written}).packages

    assert package.version == told


@pytest.mark.parametrize(
    "document",
    [
        {"type": "module"},
        {"name": "a"},
        {"version": "1"},
        {"name": "", "version": "1"},
        {"name": None, "version": None},
        {},
    ],
)
def test_without_a_name_or_version_it_is_no_package_and_no_gap(document: object) -> None:
    assert read(document) == Evidence(cataloger="npm", path=ROOT)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"license": "MIT"}, "MIT"),
        ({"license": {"type": "BSD-3-Clause", "url": "https://example.org"}}, "BSD-3-Clause"),
        ({"license": ["MIT", {"type": "Apache-2.0"}]}, "MIT OR Apache-2.0"),
        ({"licenses": [{"type": "MIT", "url": "x"}, {"url": "y"}, "ISC"]}, "MIT OR ISC"),
        ({"licenses": "MIT"}, "MIT"),
        ({"license": "", "licenses": ["MIT"]}, "MIT"),
        ({"license": None, "licenses": "ISC"}, "ISC"),
        ({"license": 5}, ""),
        ({"license": {"type": 5}}, ""),
        ({"license": [1, 2]}, ""),
        ({}, ""),
    ],
)
def test_the_licence_in_every_form_that_npm_has_had(fields: dict[str, object], expected: str) -> None:
    (package,) = read({"name": "a", "version": "1", **fields}).packages

    assert package.license == expected


def test_a_byte_order_mark_and_bytes_that_are_not_utf8_are_survived() -> None:
    (package,) = read(b'\xef\xbb\xbf{"name":"a","version":"1","license":"caf\xe9","author":"\xff"}').packages

    assert (package.name, package.license) == ("a", "caf\ufffd")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"name":"a","version":1}',
        b'{"name":["a"],"version":"1"}',
        b'{"name":"a","version":"1"} trailing',
        b'{"name":"a","version":"1","x":' + b"[" * 1_000_000,
        b'{"name":"a","version":"1","x":' + b'{"x":' * 1_000_000,
    ],
    ids=lambda data: repr(data[:30]),
)
def test_a_file_that_is_no_manifest_is_unreadable(data: bytes) -> None:
    with pytest.raises(DataError, match="node_modules/lodash"):
        read(data)


def test_a_deeply_nested_licence_costs_the_licence_only() -> None:
    depth = 300
    evidence = read(b'{"name":"a","version":"1","license":' + b"[" * depth + b"]" * depth + b"}")

    assert [(package.name, package.license) for package in evidence.packages] == [("a", "")]


def test_a_vendored_copy_counts_where_its_name_fits_its_directory() -> None:
    path = "node_modules/typescript/vendor/vscode-jsonrpc/package.json"

    assert [package.name for package in read({"name": "vscode-jsonrpc", "version": "9.0.0"}, path).packages] == [
        "vscode-jsonrpc"
    ]
    assert read({"name": "fixture", "version": "1.0.0"}, path).packages == ()


def test_an_unprintable_name_is_a_gap() -> None:
    evidence = read({"name": "a\x1b]0;x", "version": "1"})

    assert evidence.packages == ()
    assert len(evidence.gaps) == 1


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (ROOT, True),
        ("node_modules/a/package.json", True),
        ("usr/local/lib/node_modules/npm/node_modules/@npmcli/arborist/package.json", True),
        ("node_modules/.pnpm/a@1.0.0/node_modules/a/package.json", True),
        ("node_modules/.pnpm/a@1.0.0_b@2/node_modules/@s/a/package.json", True),
        ("opt/yarn-v1.22.19/package.json", True),
        ("usr/share/nodejs/semver/package.json", True),
        ("usr/share/nodejs/@babel/core/package.json", True),
        ("usr/lib/nodejs/a/package.json", True),
        ("usr/share/nodejs/npm/node_modules/a/package.json", True),
        ("node_modules/typescript/vendor/vscode-jsonrpc/package.json", True),
        ("node_modules/@s/a/vendor/@t/b/package.json", True),
        ("usr/share/nodejs/package.json", False),
        ("usr/share/nodejs/@babel/package.json", False),
        ("usr/share/nodejs/terser/bin/package.json", False),
        ("opt/usr/share/nodejs/a/package.json", False),
        ("usr/share/doc/node-readdirp/package.json", False),
        ("node_modules/a/vendor/package.json", False),
        ("node_modules/a/lib/vendor/b/package.json", False),
        ("vendor/twbs/bootstrap/package.json", False),
        ("package.json", False),
        ("app/package.json", False),
        ("node_modules/package.json", False),
        ("node_modules/@scope/package.json", False),
        ("node_modules/a/esm/package.json", False),
        ("node_modules/a/test/fixtures/b/package.json", False),
        ("node_modules/.bin/package.json", False),
        ("my_node_modules/a/package.json", False),
        ("node_modules/a/package.json.orig", False),
    ],
)
def test_only_the_root_of_a_package_counts(path: str, wanted: bool) -> None:
    assert ECOSYSTEM.wants(path) is wanted


NAME = st.from_regex(r"(@[a-z0-9~-]{1,10}/)?[a-z0-9~-][a-z0-9._~-]{0,20}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(
    NAME,
    st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(-[a-z0-9.]{1,8})?", fullmatch=True),
    st.dictionaries(st.text(min_size=1, max_size=4), JSON, max_size=4),
)
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_back(name: str, version: str, rest: dict[str, object]) -> None:
    evidence = read({**rest, "name": name, "version": version})

    assert [(package.name, package.version) for package in evidence.packages] == [(name, version)]


@given(
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps({"name": value, "version": value, "license": value}).encode())
)
@settings(deadline=None)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    evidence = read_or_none(data)

    assert evidence is None or len(evidence.packages) <= 1


def read_or_none(data: bytes) -> Evidence | None:
    try:
        return read(data)
    except DataError:
        return None
