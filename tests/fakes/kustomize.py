"""Manifests as `kubectl kustomize` renders them: the real one of this machine.

Debian 12's kubectl (1.20) holds a kustomize that is older than components and the `patches` list. For such a one a copy is written the way it
knows: `bases`, `patchesStrategicMerge`, and components spelled out. What it renders must be the same.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

NAME = "kustomization.yaml"


def render(tree: Path, directory: str, room: Path) -> list[dict[str, Any]]:
    """The objects of one directory below `tree`; `room` is an empty directory for a copy."""
    if _minor() < 21:
        copy = room / "kustomize"
        shutil.copytree(tree, copy, dirs_exist_ok=True)
        for path in sorted(copy.rglob(NAME)):
            _respell(path)
        tree = copy
    ran = subprocess.run(["kubectl", "kustomize", str(tree / directory)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == "", "a warning"
    return list(yaml.safe_load_all(ran.stdout))


def _minor() -> int:
    """Of kubectl 1.N."""
    ran = subprocess.run(["kubectl", "version", "--client", "-o", "json"], capture_output=True, text=True, check=True)
    return int(json.loads(ran.stdout)["clientVersion"]["minor"].rstrip("+"))


def _respell(path: Path) -> None:
    here, new = path.parent, yaml.safe_load(path.read_text())
    if new["kind"] == "Component":
        return
    for component in new.pop("components", []):
        for file in (here / component).iterdir():
            if file.name != NAME:
                shutil.copy(file, here)
        more = yaml.safe_load((here / component / NAME).read_text())
        assert more.keys() <= {"apiVersion", "kind", "resources", "patches"}
        for key in ("resources", "patches"):
            new.setdefault(key, []).extend(more.get(key, []))
    patches = new.pop("patches", [])
    assert all(patch.keys() == {"path"} for patch in patches)
    new["patchesStrategicMerge"] = [patch["path"] for patch in patches]
    new["bases"] = [name for name in new["resources"] if (here / name).is_dir()]
    new["resources"] = [name for name in new["resources"] if not (here / name).is_dir()]
    path.write_text(yaml.safe_dump(new))
