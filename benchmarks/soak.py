"""The daemon under churn for half an hour: is its memory flat, is its heartbeat on time, is nothing lost?

    python -m benchmarks.soak [--minutes 30] [--seed 1] [--output FILE]

A registry and a control plane in this process, both on loopback, and the real sensor in a process of its own. All the time images are pushed,
tags moved and deleted, jobs handed out and cancelled, and both servers fail now and then. Every ten seconds the sensor is looked at from
outside (`/proc`) and through its own `/metrics`. Then the churn ends, the sensor may finish, and what the control plane has must be what the
registry holds. Exit status 1 when a bound is broken; the table says which.

Two pauses of the sensor are shortened so that half an hour holds many of them: housekeeping comes every minute, and what is delivered or
gone is forgotten after two. Nothing else differs from `run`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.churn import REPOSITORIES, Churn, Plane, Registry, serving
from sensor.advisories.database import database_path
from sensor.advisories.update import demo_advisories, import_sources
from tests.fakes.control_plane import KEY

LOOK_SECONDS = 10.0
BEAT_SECONDS = 30.0
LATEST_BEAT = 35.0
"""The bound on the time between two heartbeats as they come to the server; those that it was told to fail count."""
SETTLE_SECONDS = 600.0
KEPT = 120.0
STEPS_A_SECOND = 5.0
GROWTH = {
    "resident_mib": (1.10, 8.0),
    "files": (1.0, 4.0),
    "threads": (1.0, 4.0),
    "tasks": (1.0, 8.0),
    "state_mib": (1.10, 4.0),
}
"""The last quarter's median may be so many times the second quarter's, or so much above it, whichever is more."""


def main() -> None:
    """Run the soak; or, as its child, the sensor with the shortened pauses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--sensor", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sensor:
        run_sensor(options.sensor)
        return
    text, is_good = asyncio.run(soak(options.minutes * 60, options.seed))
    print(text)
    if options.output:
        options.output.write_text(text + "\n")
    sys.exit(0 if is_good else 1)


def run_sensor(config: Path) -> None:
    """`harborguard-sensor run`, with the two pauses."""
    from sensor.cli.main import main as run  # noqa: PLC0415 - the parent needs none of it
    from sensor.daemon import run as daemon  # noqa: PLC0415
    from sensor.report import outbox  # noqa: PLC0415

    daemon._HOUSEKEEPING_SECONDS = 60.0
    outbox.KEEP_DELIVERED = KEPT
    sys.argv = ["harborguard-sensor", "run", "--config", str(config)]
    run()


# -- the look from outside ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """The sensor at one moment."""

    at: float
    values: dict[str, float]


async def look(pid: int, state: Path, session: aiohttp.ClientSession, health: str) -> Look:
    """`/proc`, the state directory, and the sensor's own metrics."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = int(status.partition("VmRSS:")[2].split()[0])
    async with session.get(f"{health}/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    told = {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}
    sizes = [path.stat().st_size for path in state.glob("state.db*")]
    return Look(time.monotonic(), {
        "resident_mib": kib / 1024, "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status.partition("Threads:")[2].split()[0]),
        "tasks": told["harborguard_sensor_tasks"], "state_mib": sum(sizes) / 2**20,
    })  # fmt: skip


async def snapshot(session: aiohttp.ClientSession, health: str) -> dict[str, Any]:
    """The sensor's status."""
    async with session.get(f"{health}/status") as answer:
        found: dict[str, Any] = await answer.json()
        return found


# -- the run -----------------------------------------------------------------------------------------------------------------------


async def soak(seconds: float, seed: int) -> tuple[str, bool]:
    """Everything; the report, and whether all bounds were kept."""
    chance = random.Random(seed)
    registry = Registry(chance)
    registry.prepare()
    async with contextlib.AsyncExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak.")))
        plane = await stack.enter_async_context(Plane())
        host = await stack.enter_async_context(serving(registry))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        state = room / "state"
        state.mkdir(mode=0o700)
        await asyncio.to_thread(import_sources, [demo_advisories()], database_path(state))
        churn = Churn(registry, plane, host, chance)
        for _ in range(2 * REPOSITORIES):
            churn.step()
        process, health = await stack.enter_async_context(sensor(room, plane.url, host))
        looks: list[Look] = []
        registry.faults = 0.01
        began, swept = time.monotonic(), 0.0
        while (now := time.monotonic()) < began + seconds:
            churn.step()
            if now > swept + 20:
                swept = now
                process.send_signal(signal.SIGUSR1)
            if not looks or now > looks[-1].at + LOOK_SECONDS:
                looks.append(await look(process.pid, state, session, health))
            if process.returncode is not None:
                return f"the sensor ended with {process.returncode}", False
            await asyncio.sleep(1 / STEPS_A_SECOND)
        registry.faults = 0.0
        plane.cancelled = []
        plane.forgive()
        missed = await settle(process, session, health, registry, plane)
        return report(seconds, looks, plane, churn, await snapshot(session, health), missed)


@contextlib.asynccontextmanager
async def sensor(room: Path, plane: str, host: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The sensor's process and its health endpoint; ended by SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    config = room / "config.yaml"
    config.touch(mode=0o600)
    config.write_text(json.dumps({
        "control_plane": {"url": plane, "api_key": KEY, "heartbeat": f"{BEAT_SECONDS}s", "poll": "2s"},
        "registries": [{"name": "soak", "url": f"http://{host}", "provider": "distribution", "insecure": True, "schedule": "manual"}],
        "state": {"directory": str(room / "state"), "retain_gone": f"{KEPT}s"},
        "health": {"listen": listen}, "logging": {"format": "json", "level": "info"},
    }))  # fmt: skip
    log = (room / "log").open("wb+")
    command = [sys.executable, "-m", "benchmarks.soak", "--sensor", str(config)]
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, stderr=log)
    try:
        async with aiohttp.ClientSession() as session:
            while not await is_ready(session, f"http://{listen}"):
                if process.returncode is not None:
                    sys.exit((room / "log").read_text())
                await asyncio.sleep(0.1)
        yield process, f"http://{listen}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        log.close()


async def is_ready(session: aiohttp.ClientSession, health: str) -> bool:
    """Whether the sensor answers."""
    try:
        async with session.get(f"{health}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def settle(
    process: asyncio.subprocess.Process, session: aiohttp.ClientSession, health: str, registry: Registry, plane: Plane
) -> list[str]:
    """Let the sensor finish; what is then missing at the control plane."""
    end = time.monotonic() + SETTLE_SECONDS
    missed = ["nothing was looked at"]
    while missed and time.monotonic() < end:
        process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(LOOK_SECONDS)
        found = await snapshot(session, health)
        scanned = {image.digest for image in plane.images.values()}
        waiting = sum(
            part["counts"].get(name, 0) for part in found["outbox"] for name in ("waiting", "sending", "unknown")
        )
        ledger = found["registries"][0]["ledger"]
        missed = [f"image {digest[:19]} was not reported" for digest in registry.held() - scanned]
        missed += [
            f"job {job.id} is {job.status}" for job in plane.jobs.values() if job.status not in {"COMPLETED", "FAILED"}
        ]
        missed += [f"{waiting} results wait in the outbox"] if waiting else []
        if ledger["listed"] != sum(count for name, count in ledger.items() if name != "listed"):
            missed.append(f"the ledger does not add up: {ledger}")
    return missed


def report(
    seconds: float, looks: list[Look], plane: Plane, churn: Churn, found: dict[str, Any], missed: list[str]
) -> tuple[str, bool]:
    """The table, and whether all bounds were kept."""
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, Python {sys.version.split()[0]}: {seconds / 60:.0f} minutes of churn",
        "",
        "steps: " + ", ".join(f"{count:,} {way}" for way, count in sorted(churn.counts.items())),
        f"images judged {found['images']}, layers {found['layers']}, jobs {found['jobs']}",
        "",
        "| measure | second quarter | last quarter | most | bound |",
        "|---|---:|---:|---:|---:|",
    ]
    is_good = not missed
    quarter = max(1, len(looks) // 4)
    for name, (times, more) in GROWTH.items():
        values = [one.values[name] for one in looks]
        early, late = statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])
        bound = max(early * times, early + more)
        is_good = is_good and late <= bound
        lines.append(f"| {name.replace('_', ' ')} | {early:.1f} | {late:.1f} | {max(values):.1f} | {bound:.1f} |")
    gaps = [after - before for before, after in zip(plane.beats, plane.beats[1:], strict=False)]
    longest = max(gaps, default=0.0)
    is_good = is_good and bool(gaps) and longest <= LATEST_BEAT
    lines.append(
        f"| seconds between heartbeats ({len(gaps)}) | | {statistics.median(gaps or [0]):.1f} | {longest:.1f} | {LATEST_BEAT} |"
    )
    lines += ["", *(f"missed: {one}" for one in missed[:20]), "all bounds kept" if is_good else "A BOUND IS BROKEN"]
    return "\n".join(lines), is_good


if __name__ == "__main__":
    main()
