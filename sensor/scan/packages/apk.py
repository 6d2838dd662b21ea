"""Catalogs what apk installed: Alpine, Wolfi, Chainguard and their kin.

The database is one text file; a stanza is one package, a line one letter, a colon and a value, and the letter's case matters (`P` is the name,
`p` what it provides). Alpine wiki: "Apk spec", "Installed Database".
"""

from __future__ import annotations

import re
from itertools import takewhile

from sensor.limits import Limits
from sensor.model.package import Evidence
from sensor.scan.packages.ecosystem import Content, Ecosystem, Findings, is_metadata_name, is_program_directory

_DATABASES = frozenset({"lib/apk/db/installed", "usr/lib/apk/db/installed"})
_TIMESTAMP = re.compile(r"\d{8}\.\d{6}|0")
"""The version that `apk add --virtual` gives to its invention."""


def _read(path: str, content: Content, limits: Limits) -> Evidence:
    findings = Findings(ECOSYSTEM.name, path, limits)
    data = content.read()
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    for block in data.split(b"\n\n"):
        if block and not block.isspace():
            _note(block.split(b"\n"), findings)
    return findings.evidence()


def _note(lines: list[bytes], findings: Findings) -> None:
    """One package and the files of it that matter. Everything about the package itself stands before its first directory."""
    head = takewhile(lambda line: not line.startswith(b"F:"), lines)
    values = {line[:1]: line[2:].decode("utf-8", "replace") for line in head if line[1:2] == b":"}
    name, version, origin = (values.get(letter, "") for letter in (b"P", b"V", b"o"))
    has_files = any(line.startswith(b"R:") for line in lines)
    if not origin and not has_files and _is_virtual(name, version, values.get(b"T", "")):
        return
    noted = findings.package(
        "apk",
        name,
        version,
        arch=values.get(b"A", ""),
        source_name=origin or name,
        source_version=version,
        license=values.get(b"L", ""),
    )
    if noted and has_files:
        _note_files(lines, name.strip(), findings)


def _is_virtual(name: str, version: str, description: str) -> bool:
    """Whether the package only holds the dependencies of one `apk add --virtual` together."""
    return name.startswith(".") or description == "virtual meta package" or _TIMESTAMP.fullmatch(version) is not None


def _note_files(lines: list[bytes], owner: str, findings: Findings) -> None:
    directory, holds_programs = "", False
    for line in lines:
        letter = line[:2]
        if letter == b"F:":
            directory = line[2:].decode("utf-8", "replace").strip("/")
            holds_programs = is_program_directory(directory)
        elif letter == b"R:":
            name = line[2:].decode("utf-8", "replace")
            if holds_programs or is_metadata_name(name):
                findings.own(f"{directory}/{name}" if directory else name, owner)


ECOSYSTEM = Ecosystem(
    name="apk",
    version=1,
    read=_read,
    wants=_DATABASES.__contains__,
    directories=frozenset({"lib/apk/db", "usr/lib/apk/db"}),
)
