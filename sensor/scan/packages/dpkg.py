"""Catalogs what dpkg installed: Debian, Ubuntu, and images without a package manager that keep one stanza per package.

`status` is the whole database, `status.d/NAME` one package of a distroless image (without a `Status` field), `info/NAME.list` the files of one
package. dpkg's own pages: deb-control(5), dpkg(1) "Package states".
"""

from __future__ import annotations

import re
from io import BytesIO

from sensor.limits import Limits
from sensor.model.package import Evidence
from sensor.scan.packages.ecosystem import Content, Ecosystem, Findings, is_metadata_name, is_program_directory
from sensor.scan.packages.stanzas import Stanza, blocks, read_stanza

_STATUS = "var/lib/dpkg/status"
_STATUS_D = "var/lib/dpkg/status.d"
_INFO = "var/lib/dpkg/info"

_WANTED = frozenset({b"package", b"status", b"version", b"architecture", b"source", b"maintainer"})
_ABSENT = frozenset({"not-installed", "config-files"})
"""States without files on disk: never installed, or removed with the configuration left behind. In all others files are there."""
_SOURCE = re.compile(r"(?P<name>[^\s(]+)\s*(?:\((?P<version>[^)]*)\))?")


def _wants(path: str) -> bool:
    directory, _, name = path.rpartition("/")
    if directory == _STATUS_D:
        return not name.endswith(".md5sums")
    return path == _STATUS or (directory == _INFO and name.endswith(".list"))


def _read(path: str, content: Content, limits: Limits) -> Evidence:
    findings = Findings(ECOSYSTEM.name, path, limits)
    if path.startswith(f"{_INFO}/"):
        _read_list(path, content.read(), findings)
    else:
        for block in blocks(content.read()):
            if findings.is_full():
                break
            _note(read_stanza(block, _WANTED), findings)
    return findings.evidence()


def _note(stanza: Stanza, findings: Findings) -> None:
    """One package. A field that is repeated counts the last time it is given, as dpkg has it."""
    state = stanza.get("status", [""])[-1].split()
    if state and state[-1] in _ABSENT:
        return
    name, version = stanza.get("package", [""])[-1], stanza.get("version", [""])[-1]
    source = _SOURCE.match(stanza.get("source", [""])[-1])
    findings.package(
        "deb",
        name,
        version,
        arch=stanza.get("architecture", [""])[-1],
        source_name=source["name"] if source else name,
        source_version=(source["version"] or version).strip() if source else version,
        vendor=stanza.get("maintainer", [""])[-1],
    )


def _read_list(path: str, data: bytes, findings: Findings) -> None:
    """The files of the package after which the list is named (`NAME.list`, `NAME:ARCH.list`)."""
    owner = path.rpartition("/")[2].removesuffix(".list").partition(":")[0]
    for line in BytesIO(data):
        directory, _, name = line.decode("utf-8", "replace").rstrip("\r\n").lstrip("/").rpartition("/")
        if name and (is_metadata_name(name) or is_program_directory(directory)):
            findings.own(f"{directory}/{name}" if directory else name, owner)


ECOSYSTEM = Ecosystem(
    name="dpkg",
    version=1,
    read=_read,
    wants=_wants,
    directories=frozenset({"var/lib/dpkg", _STATUS_D, _INFO}),
)
