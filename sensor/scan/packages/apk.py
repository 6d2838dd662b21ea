"""Catalogs what apk installed: Alpine, Wolfi, Chainguard and their kin.

The database is one text file; a stanza is one package, a line one letter, a colon and a value, and the letter's case matters (`P` is the name,
`p` what it provides). Alpine wiki: "Apk spec", "Installed Database".
"""

from __future__ import annotations

import re
from io import BytesIO

from sensor.limits import Limits
from sensor.model.package import Evidence
from sensor.scan.packages.ecosystem import Content, Ecosystem, Findings, is_metadata_name, is_program_directory
from sensor.scan.packages.stanzas import blocks

_DATABASES = frozenset({"lib/apk/db/installed", "usr/lib/apk/db/installed"})
_WANTED = (b"P", b"V", b"A", b"o", b"L", b"T")
"""Name, version, architecture, origin, licence, description."""
_TIMESTAMP = re.compile(r"\d{8}\.\d{6}|0")
"""The version that `apk add --virtual` gives to its invention."""


def _read(path: str, content: Content, limits: Limits) -> Evidence:
    findings = Findings(ECOSYSTEM.name, path, limits)
    for block in blocks(content.read()):
        if findings.is_full():
            break
        _note(block, findings)
    return findings.evidence()


def _note(block: bytes, findings: Findings) -> None:
    """One package and the files of it that matter. Everything about the package itself stands before its first directory."""
    head, _, files = block.partition(b"\nF:")
    values = {line[:1]: line[2:] for line in BytesIO(head) if line[:1] in _WANTED and line[1:2] == b":"}
    name, version, arch, origin, licence, description = (
        values.get(letter, b"").decode("utf-8", "replace").strip() for letter in _WANTED
    )
    has_files = b"\nR:" in files
    if not origin and not has_files and _is_virtual(name, version, description):
        return
    noted = findings.package(
        "apk", name, version, arch=arch, source_name=origin or name, source_version=version, license=licence
    )
    if noted and has_files:
        _note_files(files, name, findings)


def _is_virtual(name: str, version: str, description: str) -> bool:
    """Whether the package only holds the dependencies of one `apk add --virtual` together."""
    return name.startswith(".") or description == "virtual meta package" or _TIMESTAMP.fullmatch(version) is not None


def _note_files(files: bytes, owner: str, findings: Findings) -> None:
    """Directories (`F:`, whose first letter was cut off with the head) and after each the files in it (`R:`)."""
    directory, holds_programs = "", False
    for line in BytesIO(b"F:" + files):
        letter = line[:2]
        if letter == b"F:":
            directory = line[2:].decode("utf-8", "replace").strip().strip("/")
            holds_programs = is_program_directory(directory)
        elif letter == b"R:":
            name = line[2:].decode("utf-8", "replace").rstrip("\n")
            if holds_programs or is_metadata_name(name):
                findings.own(f"{directory}/{name}" if directory else name, owner)


ECOSYSTEM = Ecosystem(
    name="apk",
    version=1,
    read=_read,
    wants=_DATABASES.__contains__,
    directories=frozenset({"lib/apk/db", "usr/lib/apk/db"}),
)
