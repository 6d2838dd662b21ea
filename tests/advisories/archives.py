"""Records and archives for the tests of the advisory side."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sensor.advisories.archive import Archive

FIXTURES = Path(__file__).parent.parent / "fixtures" / "advisories"


def real(path: str) -> bytes:
    """A real record: `PyPI/PYSEC-2022-15`."""
    return (FIXTURES / f"{path}.json").read_bytes()


def record(advisory_id: str, *entries: Mapping[str, Any], **fields: Any) -> bytes:
    """A record with entries made by `entry`."""
    return json.dumps(
        {"id": advisory_id, "modified": "2024-05-01T00:00:00Z", "affected": list(entries), **fields}
    ).encode()


def entry(ecosystem: str, name: str, fixed: str = "2", **fields: Any) -> dict[str, Any]:
    """An entry with one range from the beginning to before `fixed`."""
    events = [{"introduced": "0"}, {"fixed": fixed}]
    return {
        "package": {"ecosystem": ecosystem, "name": name},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
        **fields,
    }


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as zipped:
        for name, data in members.items():
            zipped.writestr(name, data)
    return path


def archive(path: Path, *records: bytes, name: str = "") -> Archive:
    """A zip file with these records, each under its id."""
    members = {f"{json.loads(data)['id']}.json": data for data in records}
    write_zip(path, members)
    return Archive(name=name or path.stem, path=path, origin=str(path))


def write_fixtures(root: Path) -> list[Archive]:
    """All real records in the bulk layout."""
    archives = []
    for directory in sorted(path for path in FIXTURES.iterdir() if path.is_dir()):
        members = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
        path = write_zip(root / directory.name / "all.zip", members)
        archives.append(Archive(name=directory.name, path=path, origin=str(path)))
    return archives
