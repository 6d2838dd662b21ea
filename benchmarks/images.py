"""Real images for the benchmarks, made once from Debian, Python and npm packages and kept under `.cache/bench`.

`base` is a debootstrap minbase; `large` adds a layer each of build tools with a JRE, a Python scientific stack, and npm packages: about 2 GB
unpacked. Layers are the differences between steps, as a builder makes them. Needs root, for debootstrap and chroot.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(".cache/bench")
RECIPE = 3
"""Raise when the steps below change: images of another recipe are made again."""

BASE_COMMANDS = ("apt-get clean && rm -rf /var/lib/apt/lists/*",)
LARGE_STEPS = (
    (
        "apt-get update && apt-get install -y --no-install-recommends build-essential default-jre-headless python3 python3-pip "
        "python3-venv nodejs npm git curl && apt-get clean && rm -rf /var/lib/apt/lists/*"
    ),
    (
        "python3 -m venv /opt/science && /opt/science/bin/pip install --no-cache-dir numpy scipy pandas scikit-learn matplotlib "
        "jupyterlab sympy statsmodels pyarrow bokeh django flask"
    ),
    (
        "mkdir -p /srv/app && cd /srv/app && npm init -y >/dev/null && npm install --no-audit --no-fund --ignore-scripts express webpack "
        "webpack-cli jest eslint react react-dom typescript @babel/core @babel/preset-env lodash rollup gulp && rm -rf /root/.npm"
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What lay where after a step: path to what would change if the file changed."""

    entries: dict[str, tuple[int, ...]]


def mirror() -> str:
    """The package source of this machine."""
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    sites = [site for site in found if "security" not in site]
    return max(set(sites), key=sites.count)


def snapshot(root: Path) -> Snapshot:
    """Walk a root file system."""
    entries: dict[str, tuple[int, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            state = path.lstat()
            size = 0 if stat.S_ISDIR(state.st_mode) else state.st_size
            changed = 0 if stat.S_ISDIR(state.st_mode) else state.st_mtime_ns
            entries[str(path.relative_to(root))] = (state.st_mode, state.st_uid, size, changed, state.st_ino)
        if Path(directory) == root:
            names[:] = [name for name in names if name not in {"proc", "sys", "dev"}]
    return Snapshot(entries=entries)


def write_layer(root: Path, before: Snapshot, after: Snapshot, target: Path) -> None:
    """A layer tar of what changed, with whiteouts for what went (OCI image specification, layer.md)."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(after.entries):
            if before.entries.get(path) != after.entries[path]:
                archive.add(root / path, arcname=path, recursive=False)
        gone = sorted(path for path in before.entries if path not in after.entries)
        for path in gone:
            parent, _, name = path.rpartition("/")
            if parent not in gone:
                archive.addfile(tarfile.TarInfo(f"{parent}/.wh.{name}" if parent else f".wh.{name}"))


def chroot(root: Path, command: str) -> None:
    """Run a shell command in a root file system, with this machine's way to its package indexes."""
    keep = ("PIP_", "npm_config_", "NPM_CONFIG_")
    environment = {
        name: value for name, value in os.environ.items() if name.startswith(keep) or name.lower().endswith("_proxy")
    }
    environment |= {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        **dict.fromkeys(_CA_VARIABLES, f"/{_CA_FILE}"),
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    print(f"  {command[:100]}", file=sys.stderr, flush=True)
    # a private mount namespace: the JRE's set-up needs /proc, and no mount may be left behind
    script = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" sh -ec "$1"'
    subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, str(root), command],
        check=True, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip


_HOST_CA = "/etc/ssl/certs/ca-certificates.crt"
_CA_FILE = "tmp/host-ca.crt"
_CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "npm_config_cafile", "CURL_CA_BUNDLE")
_HOST_FILES = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/pip.conf",
    "/etc/xdg/pip",
    "/root/.config/pip",
    "/root/.npmrc",
    "/etc/npmrc",
)


def lend_host_settings(root: Path) -> list[Path]:
    """Copy resolver, certificate authorities, pip and npm settings in; returns what must leave before a layer is made."""
    made = []
    for source, name in ((_HOST_CA, _CA_FILE), *((file, file[1:]) for file in _HOST_FILES)):
        path, target = Path(source), root / name
        if path.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
            made.append(target)
    return made


def take_back(made: list[Path]) -> None:
    """Remove what `lend_host_settings` copied."""
    for path in made:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def build(name: str) -> Path:
    """The layout of an image, made if it is not there. Layers are plain tars: skopeo compresses them on the way to the registry."""
    layout = CACHE / f"{name}-{RECIPE}"
    if (layout / "index.json").exists():
        return layout
    print(f"making the image {name!r} (once)", file=sys.stderr)
    shutil.rmtree(layout, ignore_errors=True)
    room = CACHE / f"{name}.root"
    shutil.rmtree(room, ignore_errors=True)
    (layout / "blobs/sha256").mkdir(parents=True)
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(room), mirror()],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    steps: tuple[str, ...] = BASE_COMMANDS if name == "base" else (*BASE_COMMANDS, *LARGE_STEPS)
    layers, before = [], Snapshot(entries={})
    for step in steps:
        made = lend_host_settings(room)
        chroot(room, step)
        take_back(made)
        after = snapshot(room)
        tar = layout / "layer.tar"
        write_layer(room, before, after, tar)
        layers.append((*_store(layout, tar), step))
        before = after
    _write_image(layout, name, layers)
    shutil.rmtree(room)
    return layout


def _store(layout: Path, source: Path) -> tuple[str, int]:
    with source.open("rb") as file:
        hexadecimal = hashlib.file_digest(file, "sha256").hexdigest()
    size = source.stat().st_size
    source.rename(layout / "blobs/sha256" / hexadecimal)
    return f"sha256:{hexadecimal}", size


def _write_image(layout: Path, name: str, layers: list[tuple[str, int, str]]) -> None:
    def blob(document: object) -> tuple[str, int]:
        data = json.dumps(document).encode()
        hexadecimal = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / hexadecimal).write_bytes(data)
        return f"sha256:{hexadecimal}", len(data)

    config, config_size = blob(
        {
            "os": "linux",
            "architecture": "amd64",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest for digest, _, _ in layers]},
            "history": [{"created_by": f"RUN {step}"} for _, _, step in layers],
        }
    )
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest, manifest_size = blob(
        {
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size}
                for digest, size, _ in layers
            ],
        }
    )
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = {
        "mediaType": manifest_type, "digest": manifest, "size": manifest_size,
        "annotations": {"org.opencontainers.image.ref.name": name},
    }  # fmt: skip
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
