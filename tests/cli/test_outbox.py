import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.config.load import load_config
from sensor.control_plane.links import links_of
from sensor.report.document import envelope
from sensor.report.entries import Kind, NewEntry, put
from sensor.report.outbox import Outbox, State
from sensor.storage import open_storage
from tests.cli.conftest import Ran, Run, in_thread
from tests.fakes.control_plane import KEY, FakeControlPlane, Fault
from tests.report.results import SENSOR, finding, result


def write_config(room: Path, url: str, **more: Any) -> Path:
    room.mkdir(exist_ok=True)
    (room / "state").mkdir(mode=0o700)
    (room / "key").write_text(KEY)
    document = {
        "control_plane": {"url": url, "api_key": {"file": str(room / "key")}, **more.pop("plane", {})},
        "state": {"directory": str(room / "state")},
        "health": {"listen": "off"},
        **more,
    }
    path = room / "config.yaml"
    path.write_text(json.dumps(document))
    return path


def link_of(config: Path) -> str:
    return links_of(load_config(config, {}, required=True).config)[0].name


def fill(config: Path, *tags: str, link: str = "", dead: str = "") -> None:
    """Results in the outbox of a sensor that is not running; the one with tag `dead` was refused."""

    async def work() -> None:
        storage = await open_storage(config.parent / "state")
        outbox, name = Outbox(storage), link or link_of(config)
        for tag in tags:
            image = result(finding(), reference=f"registry.example.net/acme/app:{tag}")
            body = envelope(image, scan_id=f"scan-{tag}", sensor=SENSOR).body
            async with storage.transaction() as connection:
                entry = NewEntry(
                    link=name, kind=Kind.STANDALONE, scan_id=f"scan-{tag}", reference=image.reference,
                    digest=image.digest, body=body,
                )  # fmt: skip
                await put(connection, entry, now=time.time())
        for entry in await outbox.entries(name):
            if entry.reference.endswith(f":{dead}"):
                await outbox.give_up(await outbox.begin(entry, time.time()), time.time(), "400 [red]no")
        await storage.close()

    asyncio.run(work())


def states_of(config: Path) -> dict[str, State]:
    async def read() -> dict[str, State]:
        storage = await open_storage(config.parent / "state", shared=True)
        found = {entry.scan_id: entry.state for entry in await Outbox(storage).entries(link_of(config))}
        await storage.close()
        return found

    return asyncio.run(read())


@pytest.fixture
def plane() -> Iterator[FakeControlPlane]:
    with in_thread(FakeControlPlane) as served:
        yield served


@pytest.fixture
def island(tmp_path: Path) -> Path:
    """A sensor that reaches no control plane."""
    return write_config(tmp_path / "island", "https://hg.example", plane={"offline": True})


def key_of(run: Run, config: Path) -> str:
    return run("outbox", "key", "-c", str(config)).stdout.strip()


def test_what_waits_and_what_was_refused_is_listed(run: Run, island: Path) -> None:
    fill(island, "1", "2", dead="2")
    shown = run("outbox", "list", "-c", str(island))
    assert shown.status == 0
    assert "acme/app:1" in shown.stdout
    assert "400 [red]no" in shown.stdout
    (only,) = run("outbox", "list", "--dead", "-c", str(island), "-o", "json").json()
    assert (only["state"], only["lastError"], only["scanId"]) == ("dead", "400 [red]no", "scan-2")
    assert "nothing there" in run("outbox", "list", "--link", "other", "-c", str(island)).stdout


def test_without_a_state_there_is_advice(run: Run, tmp_path: Path) -> None:
    path = write_config(tmp_path, "https://hg.example")
    (tmp_path / "state").rmdir()
    for command in (("outbox", "list"), ("outbox", "retry"), ("outbox", "key"), ("status", "--outbox")):
        shown = run(*command, "-c", str(path))
        assert (shown.status, "no state directory" in shown.stderr) == (3, True)


def test_a_refused_result_is_tried_again(run: Run, island: Path) -> None:
    fill(island, "1", "2", dead="2")
    number = run("outbox", "list", "--dead", "-c", str(island), "-o", "json").json()[0]["id"]
    assert run("outbox", "retry", "999", "-c", str(island)).status == 3
    assert run("outbox", "retry", str(number), "-c", str(island)).stdout == f"1 tried again: {number}\n"
    assert set(states_of(island).values()) == {State.WAITING}
    assert run("outbox", "retry", "-c", str(island), "-o", "json").json() == {"retried": []}


def test_status_shows_the_outbox_by_links_also_of_former_ones(run: Run, island: Path) -> None:
    assert "empty" in run("status", "--outbox", "-c", str(island)).stdout
    fill(island, "1", "2", dead="2")
    fill(island, "3", link="former-1")
    shown = run("status", "--outbox", "-c", str(island))
    assert shown.status == 0
    assert "not configured any more" in shown.stdout
    assert "offline" in shown.stdout
    former, mine = run("status", "--outbox", "-c", str(island), "-o", "json").json()
    assert (former["link"], former["configured"], former["counts"]) == ("former-1", False, {"waiting": 1})
    assert (mine["configured"], mine["counts"]) == (True, {"waiting": 1, "dead": 1})
    assert mine["oldest"]


def test_results_cross_an_air_gap(run: Run, island: Path, plane: FakeControlPlane, tmp_path: Path) -> None:
    mainland = write_config(tmp_path / "mainland", plane.url, outbox={"trusted_keys": [key_of(run, island)]})
    parcel = tmp_path / "results.parcel"
    fill(island, "1", "2", "3", dead="3")
    shown = run("outbox", "export", str(parcel), "-c", str(island), "-o", "json")
    assert (shown.status, shown.json()["exported"]) == (0, 2)
    assert oct(parcel.stat().st_mode & 0o777) == "0o600"
    assert states_of(island) == {"scan-1": State.EXPORTED, "scan-2": State.EXPORTED, "scan-3": State.DEAD}

    arguments = ("outbox", "import", str(parcel), "--link", link_of(mainland), "-c", str(mainland))
    brought = run(*arguments)
    assert (brought.status, brought.stderr) == (0, "")
    assert "2 results taken over, 0 left out" in brought.stdout
    assert "2 delivered, 0 refused, 0 wait" in brought.stdout
    assert sorted(scan.request_id for scan in plane.standalone) == ["scan-1", "scan-2"]
    again = run(*arguments, "-o", "json").json()
    assert (again["taken"], again["known"]) == (0, 2), "the same file twice"
    assert len(plane.uploads) == 2


def test_what_was_exported_is_exported_again_only_when_asked(run: Run, island: Path, tmp_path: Path) -> None:
    fill(island, "1", "2", dead="2")
    first, second = tmp_path / "1", tmp_path / "2"
    assert run("outbox", "export", str(first), "-c", str(island)).status == 0
    nothing = run("outbox", "export", str(second), "-c", str(island))
    assert (nothing.status, nothing.stdout, second.exists()) == (3, "nothing to export\n", False)
    assert "2 results" in run("outbox", "export", str(second), "--again", "--dead", "-c", str(island)).stdout
    assert run("outbox", "export", str(second), "-c", str(island)).status == 2, "a file is never written over"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "island"], "nothing half-written is left"


def test_an_export_that_cannot_be_written_exports_nothing(run: Run, island: Path, tmp_path: Path) -> None:
    fill(island, "1")
    shown = run("outbox", "export", str(tmp_path / "no" / "where"), "-c", str(island))
    assert (shown.status, "nothing was exported" in shown.stderr) == (3, True)
    assert states_of(island) == {"scan-1": State.WAITING}


@pytest.mark.parametrize("trusted", [False, True])
def test_a_stranger_delivers_nothing(
    run: Run, island: Path, plane: FakeControlPlane, tmp_path: Path, trusted: bool
) -> None:
    mainland = write_config(tmp_path / "mainland", plane.url)
    parcel = tmp_path / "p"
    fill(island, "1")
    run("outbox", "export", str(parcel), "-c", str(island))
    if trusted:
        parcel.write_bytes(parcel.read_bytes().replace(b"scan-1", b"scan-9"))
    trust = ("--trust", key_of(run, island)) if trusted else ()
    shown = run("outbox", "import", str(parcel), "--link", link_of(mainland), "-c", str(mainland), *trust)
    assert shown.status == 3
    assert ("changed after it was signed" if trusted else "not trusted") in shown.stderr
    assert (plane.uploads, states_of(mainland)) == ([], {})


def test_an_entry_finds_its_link_by_its_address(run: Run, plane: FakeControlPlane, tmp_path: Path) -> None:
    island = write_config(tmp_path / "island", plane.url, plane={"offline": True})
    mainland = write_config(tmp_path / "mainland", plane.url)
    fill(island, "1")
    run("outbox", "export", str(tmp_path / "p"), "-c", str(island))
    arguments = ("outbox", "import", str(tmp_path / "p"), "--trust", key_of(run, island), "-c")
    assert link_of(mainland) != link_of(island)
    assert run(*arguments, str(mainland), "-o", "json").json()["delivered"] == 1
    elsewhere = run(*arguments, str(write_config(tmp_path / "elsewhere", "https://other.example")))
    assert elsewhere.status == 2
    assert "no link of this configuration" in elsewhere.stderr
    assert "--link" in elsewhere.stderr


def test_what_is_not_delivered_at_once_waits_and_is_said(
    run: Run, island: Path, plane: FakeControlPlane, tmp_path: Path
) -> None:
    mainland = write_config(tmp_path / "mainland", plane.url)
    fill(island, "1", "2")
    run("outbox", "export", str(tmp_path / "p"), "-c", str(island))
    plane.fail("upload", Fault(status=400, body=b'{"error":"no"}'))
    plane.fail("upload", Fault(status=503))
    arguments = ("outbox", "import", str(tmp_path / "p"), "--trust", key_of(run, island), "--link", link_of(mainland))
    shown = run(*arguments, "-c", str(mainland), "-o", "json")
    assert shown.status == 3
    assert {name: shown.json()[name] for name in ("delivered", "refused", "waiting")} == {
        "delivered": 0, "refused": 1, "waiting": 1,
    }  # fmt: skip


def test_a_sensor_that_runs_here_delivers_what_is_imported(
    run: Run, island: Path, plane: FakeControlPlane, tmp_path: Path
) -> None:
    mainland = write_config(tmp_path / "mainland", plane.url)
    fill(island, "1")
    run("outbox", "export", str(tmp_path / "p"), "-c", str(island))

    class Held:
        async def __aenter__(self) -> None:
            self.storage = await open_storage(mainland.parent / "state")

        async def __aexit__(self, *_: object) -> None:
            await self.storage.close()

    arguments = ("outbox", "import", str(tmp_path / "p"), "--trust", key_of(run, island), "--link", link_of(mainland))
    with in_thread(Held):
        shown: Ran = run(*arguments, "-c", str(mainland))
    assert (shown.status, "the sensor that runs here delivers them" in shown.stdout) == (0, True)
    assert states_of(mainland) == {"scan-1": State.WAITING}


def test_a_key_of_its_own_may_be_configured(run: Run, island: Path, tmp_path: Path) -> None:
    made = key_of(run, island)
    pem = (island.parent / "state" / "parcel-signing.pem").read_text()
    (tmp_path / "own.pem").write_text(pem)
    other = write_config(
        tmp_path / "other", "https://hg.example", outbox={"signing_key": {"file": str(tmp_path / "own.pem")}}
    )
    assert key_of(run, other) == made
    assert not (tmp_path / "other" / "state" / "parcel-signing.pem").exists()


def test_a_parcel_that_is_not_there_is_told(run: Run, island: Path, tmp_path: Path) -> None:
    shown = run("outbox", "import", str(tmp_path / "none"), "-c", str(island))
    assert (shown.status, "cannot read" in shown.stderr) == (3, True)
