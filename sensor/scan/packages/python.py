"""Catalogs installed Python distributions by their core metadata.

`NAME.dist-info/METADATA` of wheels, `NAME.egg-info/PKG-INFO` of setuptools, `NAME.egg-info` as a file of distutils, `EGG-INFO/PKG-INFO` of
unpacked eggs. Only the header is read; the body is the project's description. Lock files say what was wanted, not what is installed, and
are not looked at. Packaging specifications: "Core metadata", "Recording installed projects".
"""

from __future__ import annotations

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.model.package import Evidence
from sensor.scan.packages.ecosystem import Content, Ecosystem, Findings
from sensor.scan.packages.stanzas import Stanza, read_header

_WANTED = frozenset({b"name", b"version", b"license", b"license-expression", b"classifier"})
_LONGEST_LICENSE_NAME = 100
"""Characters. `License` may hold the whole text of a licence; then the classifiers name it better."""


def _wants(path: str) -> bool:
    directory, _, name = path.rpartition("/")
    parent = directory.rpartition("/")[2].lower()
    if name == "METADATA":
        return parent.endswith(".dist-info")
    if name == "PKG-INFO":
        return parent.endswith(".egg-info") or parent == "egg-info"
    return name.endswith(".egg-info")


def _read(path: str, content: Content, limits: Limits) -> Evidence:
    header = read_header(content.read(), _WANTED)
    name, version = header.get("name", [""])[0], header.get("version", [""])[0]
    if not name or not version:
        message = (
            f"{path} has no {'Name' if not name else 'Version'} field, so it is not the metadata of a distribution"
        )
        raise DataError(message)
    findings = Findings(ECOSYSTEM.name, path, limits)
    findings.package("pypi", name, version, license=_license(header))
    return findings.evidence()


def _license(header: Stanza) -> str:
    """The SPDX expression (core metadata 2.4), else the licence field when it is a name, else the classifiers."""
    expression = header.get("license-expression", [""])[0]
    if expression:
        return expression
    named = header.get("license", [""])[0]
    if named and "\n" not in named and len(named) <= _LONGEST_LICENSE_NAME and named.upper() != "UNKNOWN":
        return named
    classified = [
        line.rpartition("::")[2].strip() for line in header.get("classifier", []) if line.startswith("License ::")
    ]
    return "; ".join(name for name in classified if name != "OSI Approved")


ECOSYSTEM = Ecosystem(
    name="python",
    version=1,
    read=_read,
    wants=_wants,
    names=frozenset({"METADATA", "PKG-INFO"}),
    suffixes=(".egg-info",),
    most_bytes=lambda limits: limits.metadata_file_bytes,
)
