"""rpm: databases that rpm itself wrote or reads, the manifest of distroless images, hostile SQLite."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.package import Evidence, Gap, Package
from sensor.scan.packages.ecosystem import HeldContent
from sensor.scan.packages.rpm import ECOSYSTEM
from tests.fakes.rpmdb import RpmPackage, blob, database, header_blob, numbers, string, tags_of, write_database

DATABASE = "var/lib/rpm/rpmdb.sqlite"
MANIFEST = "var/lib/rpmmanifest/container-manifest-2"

BASH = RpmPackage(
    name="bash",
    version="5.1.8",
    release="9.el9",
    source="bash-5.1.8-9.el9.src.rpm",
    license="GPLv3+",
    vendor="Red Hat, Inc.",
    files=("/usr/bin/bash", "/etc/skel/.bashrc"),
)
NODE = RpmPackage(
    name="nodejs-docs",
    version="16.14",
    release="3",
    epoch=1,
    arch="noarch",
    source="nodejs-16.14.0-4.module_el8.src.rpm",
    modularity="nodejs:16:8080020220920:8b6",
    files=("/usr/lib/node_modules/npm/package.json", "/usr/share/doc/x", "/top"),
)
KEY = RpmPackage(name="gpg-pubkey", version="fd431d51", release="4ae0493b", arch="")


def read(data: bytes, path: str = DATABASE, limits: Limits = DEFAULT_LIMITS) -> Evidence:
    return ECOSYSTEM.read(path, HeldContent(data), limits)


def ask_rpm(directory: Path) -> list[str]:
    """What rpm says is installed, in the words of this project."""
    wanted = "%{NAME}|%{EPOCHNUM}|%{VERSION}-%{RELEASE}|%{ARCH}|%{SOURCERPM}|%{LICENSE}|%{VENDOR}|%{MODULARITYLABEL}\n"
    answer = subprocess.run(
        ["rpm", "--dbpath", str(directory), "-qa", "--qf", wanted], check=True, capture_output=True, text=True
    )
    assert answer.stderr == ""
    return sorted(answer.stdout.replace("(none)", "").splitlines())


def told(evidence: Evidence) -> list[str]:
    lines = []
    for package in evidence.packages:
        epoch, colon, version = package.version.rpartition(":")
        source = f"{package.source_name}-{package.source_version}.src.rpm" if package.source_name else ""
        fields = (package.name, epoch if colon else "0", version, package.arch, source)
        lines.append("|".join((*fields, package.license, package.vendor, package.modularity)))
    return sorted(lines)


def initialised(directory: Path) -> Path:
    """A database that rpm has made, still empty."""
    subprocess.run(["rpm", "--dbpath", str(directory), "--initdb"], check=True, capture_output=True)
    return directory / "rpmdb.sqlite"


def test_reads_a_database_that_rpm_has_installed_into(tmp_path: Path) -> None:
    (tmp_path / "demo.spec").write_text(
        "Name: demo\nEpoch: 3\nVersion: 1.2\nRelease: 4\nSummary: Demo\nLicense: MIT\nVendor: Someone\nBuildArch: noarch\n"
        "%description\nDemo\n%install\nmkdir -p %{buildroot}/usr/bin %{buildroot}/usr/lib/demo-1.2.dist-info\n"
        "touch %{buildroot}/usr/bin/demo %{buildroot}/usr/lib/demo-1.2.dist-info/METADATA %{buildroot}/usr/lib/other\n"
        "%files\n/usr/bin/demo\n/usr/lib/demo-1.2.dist-info/METADATA\n/usr/lib/other\n"
    )
    made = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {tmp_path}", str(tmp_path / "demo.spec")]
    subprocess.run(made, check=True, capture_output=True)
    (file,) = (tmp_path / "RPMS").rglob("*.rpm")
    installed = ["rpm", "-i", "--justdb", "--nodeps", "--dbpath", str(tmp_path / "db"), str(file)]
    subprocess.run(installed, check=True, capture_output=True)

    evidence = read((tmp_path / "db" / "rpmdb.sqlite").read_bytes())

    assert told(evidence) == ask_rpm(tmp_path / "db")
    assert [(package.name, package.version) for package in evidence.packages] == [("demo", "3:1.2-4")]
    assert evidence.owns == (("usr/bin/demo", "demo"), ("usr/lib/demo-1.2.dist-info/METADATA", "demo"))
    assert evidence.gaps == ()


def test_agrees_with_rpm_about_written_headers(tmp_path: Path) -> None:
    data = write_database(initialised(tmp_path), [blob(BASH), blob(NODE)])

    assert told(read(data)) == ask_rpm(tmp_path)


def test_every_field_of_a_package(tmp_path: Path) -> None:
    evidence = read(database(tmp_path / "db", NODE))

    assert evidence == Evidence(
        cataloger="rpm",
        path=DATABASE,
        packages=(
            Package(
                type="rpm",
                name="nodejs-docs",
                version="1:16.14-3",
                path=DATABASE,
                arch="noarch",
                source_name="nodejs",
                source_version="16.14.0-4.module_el8",
                modularity="nodejs:16:8080020220920:8b6",
            ),
        ),
        owns=(("usr/lib/node_modules/npm/package.json", "nodejs-docs"),),
    )


def test_a_signing_key_is_no_package(tmp_path: Path) -> None:
    evidence = read(database(tmp_path / "db", KEY, BASH))

    assert [package.name for package in evidence.packages] == ["bash"]
    assert evidence.gaps == ()


@pytest.mark.parametrize("source", ["", "(none)", "strange", "a-b.src.rpm"])
def test_a_source_that_is_none_is_left_empty(tmp_path: Path, source: str) -> None:
    (package,) = read(database(tmp_path / "db", replace(BASH, source=source))).packages

    assert (package.source_name, package.source_version) == ("", "")


def test_an_empty_database_is_an_empty_inventory(tmp_path: Path) -> None:
    assert read(initialised(tmp_path).read_bytes()) == Evidence(cataloger="rpm", path=DATABASE)


def test_a_bad_record_is_a_gap_and_the_next_one_is_read(tmp_path: Path) -> None:
    unnamed = header_blob([string(1001, "1"), string(1002, "2")])
    lying = header_blob([string(1000, "a"), string(1001, "1"), string(1002, "1"), numbers(1116, [7])])
    data = write_database(tmp_path / "db", [b"", b"\xff" * 100, unnamed, lying, blob(BASH)])

    evidence = read(data)

    assert [package.name for package in evidence.packages] == ["a", "bash"]
    assert [gap.reason.partition(":")[0] for gap in evidence.gaps] == [
        "record 1",
        "record 2",
        "the record of a package has no name",
        "record 4",
    ]


def test_a_record_above_the_limit_is_a_gap(tmp_path: Path) -> None:
    data = write_database(tmp_path / "db", [b"x" * 100_000, blob(BASH)])

    evidence = read(data, limits=replace(DEFAULT_LIMITS, package_file_bytes=50_000))

    assert [package.name for package in evidence.packages] == ["bash"]
    assert [gap.reason for gap in evidence.gaps] == ["record 1 is no header, or one of more than 50000 bytes"]


def test_more_packages_than_the_limit_are_told(tmp_path: Path) -> None:
    packages = [replace(BASH, name=f"package-{number}") for number in range(5)]

    evidence = read(database(tmp_path / "db", *packages), limits=replace(DEFAULT_LIMITS, packages_per_layer=3))

    assert len(evidence.packages) == 3
    assert [gap.kind for gap in evidence.gaps] == ["limit"]


def test_two_thousand_packages_stay_far_below_the_budget_of_steps(tmp_path: Path) -> None:
    packages = [replace(BASH, name=f"package-{number}") for number in range(2_000)]

    evidence = read(database(tmp_path / "db", *packages), limits=replace(DEFAULT_LIMITS, sqlite_steps=100_000))

    assert len(evidence.packages) == 2_000


def test_a_query_without_end_is_cut_off(tmp_path: Path) -> None:
    data = database(tmp_path / "db", *(replace(BASH, name=f"package-{number}") for number in range(2_000)))

    with pytest.raises(DataError, match="interrupted"):
        read(data, limits=replace(DEFAULT_LIMITS, sqlite_steps=5_000))


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE TABLE Other (hnum, blob);",
        "CREATE VIEW Packages AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n FROM r) SELECT n AS hnum, n AS blob FROM r;",
        "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob AS (zeroblob(1000000000)));",
        "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, x AS (zeroblob(1000000)) VIRTUAL, blob);",
        "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, data);",
        "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob) WITHOUT ROWID;",
        "CREATE VIRTUAL TABLE Packages USING fts5(hnum, blob);",
        f"CREATE TABLE Packages (hnum, blob, {'x' * 5_000});",
        "",
    ],
    ids=[
        "no table",
        "view",
        "computed",
        "other column computed",
        "other columns",
        "no rowid",
        "virtual",
        "long statement",
        "nothing",
    ],
)
def test_a_schema_that_is_not_rpms_is_refused(tmp_path: Path, schema: str) -> None:
    data = write_database(tmp_path / "db", [], schema=schema or "CREATE TABLE x (y); DROP TABLE x;")

    with pytest.raises(DataError, match=DATABASE):
        read(data)


def test_a_covering_index_does_not_answer_instead_of_the_table(tmp_path: Path) -> None:
    table = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB); CREATE INDEX i ON Packages (hex(blob), blob);"

    evidence = read(write_database(tmp_path / "db", [blob(BASH)], schema=table))

    assert [package.name for package in evidence.packages] == ["bash"]


def test_values_that_are_no_blobs_are_gaps(tmp_path: Path) -> None:
    table = "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob); INSERT INTO Packages VALUES (1, 'text'), (2, 5), (3, NULL);"

    evidence = read(write_database(tmp_path / "db", [], schema=table))

    assert len(evidence.gaps) == 3


def test_records_that_share_pages_are_refused(tmp_path: Path) -> None:
    data = bytearray(write_database(tmp_path / "db", [header_blob([*tags_of(BASH), string(1005, "x" * 150_000)])]))
    table = int.from_bytes(
        data[16:18], "big"
    )  # the second page: a leaf with one cell, to which ten pointers are made to lead
    assert (data[table], int.from_bytes(data[table + 3 : table + 5], "big")) == (13, 1)
    data[table + 3 : table + 5] = (10).to_bytes(2, "big")
    data[table + 8 : table + 28] = bytes(data[table + 8 : table + 10]) * 10

    with pytest.raises(DataError, match="overlap"):
        read(bytes(data))


def test_a_schema_that_is_not_utf8_is_unreadable(tmp_path: Path) -> None:
    data = database(tmp_path / "db", BASH).replace(b"PRIMARY KEY", b"PRIM\x80\x1b[ KEY")

    with pytest.raises(DataError, match="is not a readable rpm database") as caught:
        read(data)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("size", [0, 16, 99, 100, 512, 4096, 8192])
def test_a_cut_off_database_is_unreadable(tmp_path: Path, size: int) -> None:
    data = database(tmp_path / "db", *(replace(BASH, name=f"package-{number}") for number in range(50)))

    with pytest.raises(DataError, match=DATABASE):
        read(data[:size])


@pytest.mark.parametrize("data", [b"", b"nonsense", bytes(4096)])
def test_a_database_of_no_known_format_is_unreadable(data: bytes) -> None:
    with pytest.raises(DataError, match="var/lib/rpm/Packages"):
        read(data, "var/lib/rpm/Packages")


def test_a_log_that_was_not_written_back_is_told_and_an_empty_one_is_not() -> None:
    path = f"{DATABASE}-wal"

    assert read(b"", path) == Evidence(cataloger="rpm", path=path)
    assert [gap.kind for gap in read(bytes(4152), path).gaps] == ["unsupported"]


def test_the_manifest_of_a_distroless_image() -> None:
    evidence = read(
        b"zlib\t1.2.13-2.cm2\t1700000000\t1690000000\tMicrosoft Corporation\t(none)\t200\tx86_64\t0\tzlib-1.2.13-2.cm2.src.rpm\n"
        b"shadow\t4.9-13\t1\t1\t(none)\t2\t9\tnoarch\t2\tshadow-utils-4.9-13.src.rpm\r\n"
        b"gpg-pubkey\t1-2\t1\t1\t(none)\t(none)\t0\t(none)\t0\t(none)\n\n",
        MANIFEST,
    )

    assert evidence.gaps == ()
    assert evidence.packages == (
        Package(
            type="rpm",
            name="zlib",
            version="1.2.13-2.cm2",
            path=MANIFEST,
            arch="x86_64",
            source_name="zlib",
            source_version="1.2.13-2.cm2",
            vendor="Microsoft Corporation",
        ),
        Package(
            type="rpm",
            name="shadow",
            version="2:4.9-13",
            path=MANIFEST,
            arch="noarch",
            source_name="shadow-utils",
            source_version="4.9-13",
        ),
    )


def test_a_bad_line_of_the_manifest_is_a_gap() -> None:
    evidence = read(
        b"zlib\t1\nzlib\t1\t1\t1\tv\t\t1\tx\tmany\ts\n" + "zlib\t1\t1\t1\tv\t\t1\tx\t\u00b2\ts\n".encode(), MANIFEST
    )

    assert evidence.packages == ()
    assert [gap.reason for gap in evidence.gaps] == [f"line {line} does not describe a package" for line in (1, 2, 3)]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (DATABASE, True),
        ("usr/lib/sysimage/rpm/rpmdb.sqlite", True),
        ("usr/share/rpm/rpmdb.sqlite", True),
        ("var/lib/rpm/rpmdb.sqlite-wal", True),
        ("var/lib/rpm/Packages", True),
        ("usr/lib/sysimage/rpm/Packages.db", True),
        (MANIFEST, True),
        ("var/lib/rpm/rpmdb.sqlite-shm", False),
        ("var/lib/rpm/Basenames", False),
        ("var/lib/rpm/Index.db", False),
        ("var/lib/rpmmanifest/container-manifest-1", False),
        ("srv/var/lib/rpm/rpmdb.sqlite", False),
    ],
)
def test_which_files_are_wanted(path: str, wanted: bool) -> None:
    assert ECOSYSTEM.wants(path) is wanted
    assert not wanted or path.rpartition("/")[0] in ECOSYSTEM.directories


WORD = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9+._]{0,12}", fullmatch=True)
PACKAGES = st.builds(
    RpmPackage,
    name=st.from_regex(r"[a-z][a-z0-9+_-]{1,15}", fullmatch=True),
    version=WORD,
    release=WORD,
    epoch=st.none() | st.integers(min_value=0, max_value=2**32 - 1),
    license=WORD,
    files=st.lists(WORD.map("/usr/bin/{}".format), max_size=4, unique=True).map(tuple),
)


@given(packages=st.lists(PACKAGES, max_size=6, unique_by=lambda package: package.name))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back(tmp_path: Path, packages: list[RpmPackage]) -> None:
    (tmp_path / "db").unlink(missing_ok=True)

    evidence = read(database(tmp_path / "db", *packages))

    expected = [
        (p.name, f"{p.epoch}:{p.version}-{p.release}" if p.epoch else f"{p.version}-{p.release}", p.license)
        for p in packages
    ]
    assert [(p.name, p.version, p.license) for p in evidence.packages] == expected
    assert list(evidence.owns) == [(file.lstrip("/"), package.name) for package in packages for file in package.files]
    assert evidence.gaps == ()


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], bytearray]:
    data = database(tmp_path_factory.mktemp("rpm") / "db", BASH, NODE)
    return lambda: bytearray(data)


@given(changes=st.lists(st.tuples(st.integers(min_value=0), st.integers(min_value=0, max_value=255)), max_size=20))
@settings(deadline=None, max_examples=150)
def test_no_damage_breaks_the_reader(honest: Callable[[], bytearray], changes: list[tuple[int, int]]) -> None:
    data = honest()
    for position, value in changes:
        data[position % len(data)] = value
    try:
        evidence = read(bytes(data))
    except DataError:
        evidence = Evidence(cataloger="rpm", path=DATABASE)

    assert all(isinstance(gap, Gap) for gap in evidence.gaps)


@given(data=st.binary(max_size=300))
@settings(deadline=None)
def test_no_bytes_break_the_manifest_reader(data: bytes) -> None:
    assert all(package.name for package in read(data, MANIFEST).packages)
