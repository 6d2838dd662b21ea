import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from sensor import events
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.links import Link
from sensor.daemon.link import LinkKeeper
from sensor.limits import Limits
from sensor.route import Route
from sensor.secret import FromFile, InPlace, Secret, SecretSource
from tests.fakes.control_plane import KEY, FakeControlPlane, Fault
from tests.fakes.pipeline import Clock

HEARTBEAT = 30.0


class Enough(Exception):
    pass


@dataclass(slots=True)
class Run:
    """A keeper whose pauses take no time; after `rounds` pauses it ends. `between` is called before each."""

    plane: FakeControlPlane
    keeper: LinkKeeper
    clock: Clock
    told: list[events.Event] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    active: int = 0
    rounds: int = 1
    between: dict[int, Callable[[], object]] = field(default_factory=dict)

    async def go(self, rounds: int) -> None:
        self.rounds = len(self.pauses) + rounds
        with pytest.raises(Enough):
            await self.keeper.run()

    @property
    def states(self) -> list[str]:
        return [event.state for event in self.told if isinstance(event, events.LinkChanged)]


Keep = Callable[..., AbstractAsyncContextManager[Run]]


@pytest.fixture
def keep() -> Keep:
    @asynccontextmanager
    async def made(
        *,
        key: SecretSource | None = None,
        url: str = "",
        name: str = "",
        route: Route | None = None,
        fallback: tuple[str, ...] = (),
    ) -> AsyncIterator[Run]:
        async with FakeControlPlane() as plane:
            link = Link(
                name="cp", url=url or plane.url, api_key=key or InPlace(Secret(KEY)), sensor_name=name,
                heartbeat=HEARTBEAT, route=route or Route(), fallback=fallback,
            )  # fmt: skip
            limits = Limits(idle_seconds=0.3)
            transport = transport_for(link, limits)
            run: Run

            async def sleep(seconds: float) -> None:
                run.pauses.append(seconds)
                run.between.get(len(run.pauses), lambda: None)()
                if len(run.pauses) >= run.rounds:
                    raise Enough
                await asyncio.sleep(0)

            clock = Clock()
            told: list[events.Event] = []
            agents: list[str] = []
            keeper = LinkKeeper(
                ControlPlaneClient(link, transport, limits=limits),
                version="1.2",
                active_scans=lambda: run.active,
                publish=told.append,
                clock=clock,
                registered_as=agents.append,
                sleep=sleep,
            )
            run = Run(plane, keeper, clock, told, agents=agents)
            try:
                yield run
            finally:
                await transport.close()

    return made


def paths(plane: FakeControlPlane) -> list[str]:
    return [path.rpartition("/")[2] for _, path in plane.requests]


async def test_it_registers_once_and_beats(keep: Keep) -> None:
    async with keep(name="edge") as run:
        run.clock.advance(timedelta(seconds=90))
        run.active = 2
        await run.go(3)
        assert paths(run.plane) == ["register", "heartbeat", "heartbeat", "heartbeat"]
        agent = run.plane.agents[KEY]
        assert (agent.registration["name"], agent.registration["version"]) == ("edge", "1.2")
        assert agent.registration["scannerVersions"] == {"harborguard-sensor": "1.2"}
        assert agent.metadata == {"agentId": agent.id, "status": "scanning", "activeScans": 2, "uptimeSeconds": 90}
        assert (run.keeper.agent, run.agents) == (agent.id, [agent.id])
        assert run.states == ["registered"]
        assert sum(isinstance(event, events.HeartbeatSent) for event in run.told) == 3
        await run.keeper.registered()


async def test_nothing_is_claimed_that_there_is_not(keep: Keep) -> None:
    async with keep() as run:
        await run.go(1)
        registration = run.plane.agents[KEY].registration
        assert (registration["capabilities"], registration["s3Configured"]) == (["scan", "discovery"], False)


async def test_without_a_name_it_takes_the_hosts(keep: Keep) -> None:
    async with keep() as run:
        await run.go(1)
        assert run.plane.agents[KEY].registration["name"] == socket.gethostname()
        assert run.plane.agents[KEY].metadata["status"] == "idle"


async def test_the_interval_counts_from_the_beginning_of_a_beat(keep: Keep) -> None:
    async with keep() as run:
        await run.go(2)
        assert all(HEARTBEAT - 5 < pause < HEARTBEAT for pause in run.pauses)


async def test_a_clock_that_was_set_back_gives_no_negative_uptime(keep: Keep) -> None:
    async with keep() as run:
        run.clock.advance(timedelta(hours=-1))
        await run.go(1)
        assert run.plane.agents[KEY].metadata["uptimeSeconds"] == 0


async def test_registering_goes_on_for_ever_more_and_more_slowly(keep: Keep) -> None:
    async with keep() as run:
        run.plane.fail("register", Fault(status=503, times=12))
        await run.go(12)
        assert paths(run.plane) == ["register"] * 12
        ceilings = [min(60.0, 2.0**attempt) for attempt in range(1, 13)]
        for pause, ceiling in zip(run.pauses, ceilings, strict=True):
            assert ceiling / 2 <= pause <= ceiling
        assert run.states == ["down"]
        await run.go(1)
        assert run.states == ["down", "registered"]
        assert paths(run.plane)[-2:] == ["register", "heartbeat"]


async def test_a_silent_server_is_down_and_told_once(keep: Keep) -> None:
    async with keep() as run:
        run.plane.fail("register", Fault(close="before", times=2))
        run.plane.fail("register", Fault(hang=True))
        await run.go(3)
        assert run.states == ["down"]


async def test_a_beat_is_never_later_than_its_interval_because_of_a_backoff(keep: Keep) -> None:
    async with keep() as run:
        await run.go(1)
        run.plane.fail("heartbeat", Fault(status=502, times=9, headers={"Retry-After": "3600"}))
        await run.go(10)
        assert all(pause <= HEARTBEAT for pause in run.pauses)
        assert paths(run.plane).count("register") == 1  # an outage is no reason to register again
        assert run.states == ["registered", "down", "registered"]


async def test_a_pause_that_the_server_asks_for_is_kept_up_to_a_minute(keep: Keep) -> None:
    async with keep() as run:
        run.plane.fail("register", Fault(status=429, headers={"Retry-After": "3600"}))
        await run.go(1)
        assert run.pauses == [60.0]


async def test_a_refused_key_is_told_once_and_tried_again(keep: Keep, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("hg_ak_wrong")
    key.chmod(0o600)
    async with keep(key=FromFile(str(key))) as run:
        await run.go(3)
        assert run.states == ["refused"]
        refusal = next(event for event in run.told if isinstance(event, events.LinkChanged))
        assert "API key" in refusal.error
        assert refusal.advice
        assert not run.keeper._registered.is_set()
        key.write_text(KEY)
        await run.go(1)
        assert run.states == ["refused", "registered"]


async def test_a_key_that_cannot_be_read_is_a_refusal(keep: Keep, tmp_path: Path) -> None:
    async with keep(key=FromFile(str(tmp_path / "missing"))) as run:
        await run.go(2)
        assert run.states == ["refused"]
        assert run.plane.requests == []


async def test_a_certificate_authority_that_cannot_be_read_is_a_refusal(keep: Keep, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    async with keep(route=Route(ca_file=str(tmp_path / "ca.pem"))) as run:
        await run.go(2)
        assert run.states == ["refused"]
        assert any("ca.pem" in event.error for event in run.told if isinstance(event, events.LinkChanged))


async def test_a_revoked_key_leads_back_to_registering(keep: Keep) -> None:
    async with keep() as run:
        await run.go(1)
        run.plane.agents[KEY].status = "INACTIVE"
        await run.go(2)
        assert run.states == ["registered", "refused"]
        run.plane.agents[KEY].status = "ACTIVE"
        await run.go(1)
        assert run.states == ["registered", "refused", "registered"]
        assert paths(run.plane)[-2:] == ["register", "heartbeat"]


async def test_demo_mode_is_a_refusal_with_its_reason(keep: Keep) -> None:
    async with keep() as run:
        await run.go(1)
        run.plane.is_demo = True
        await run.go(3)
        assert run.states == ["registered", "refused"]
        assert "demo mode" in next(e.advice for e in run.told if isinstance(e, events.LinkChanged) and e.error)
        waiting = asyncio.ensure_future(run.keeper.registered())
        await asyncio.sleep(0)
        assert not waiting.done()  # so nobody polls for jobs that could not be answered
        run.plane.is_demo = False
        await run.go(1)
        await waiting


async def test_a_page_that_is_no_control_plane_is_a_refusal(keep: Keep) -> None:
    async with keep() as run:
        run.plane.fail("register", Fault(status=200, body=b"<html>", content_type="text/html"))
        await run.go(1)
        assert run.states == ["refused"]


# --- several addresses ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def spare() -> AsyncIterator[FakeControlPlane]:
    async with FakeControlPlane() as plane:
        yield plane


def addresses(run: Run) -> list[str]:
    return [event.address for event in run.told if isinstance(event, events.LinkChanged) and event.address]


async def test_an_address_that_does_not_answer_is_left_for_the_next(keep: Keep, spare: FakeControlPlane) -> None:
    async with keep(fallback=(spare.url,)) as run:
        await run.go(1)
        run.plane.fail("heartbeat", Fault(close="before", times=99))
        await run.go(2)
        assert paths(spare) == ["register", "heartbeat"]
        assert run.states == ["registered", "down", "registered"]
        assert addresses(run) == [run.plane.url, spare.url]
        assert run.keeper._client.addresses.current == spare.url
        await run.go(2)
        assert paths(run.plane) == ["register", "heartbeat", "heartbeat"], "the first is not asked all the time"


async def test_the_first_address_is_taken_again_when_it_is_back(keep: Keep, spare: FakeControlPlane) -> None:
    async with keep(fallback=(spare.url,)) as run:
        run.plane.fail("register", Fault(status=503))
        await run.go(2)
        run.plane.fail("ready", Fault(status=503))
        run.keeper._look_home = 0.0
        await run.go(1)
        assert addresses(run) == [spare.url], "it is not ready yet"
        run.keeper._look_home = 0.0
        await run.go(1)
        assert addresses(run) == [spare.url, run.plane.url]
        assert paths(run.plane) == ["register", "ready", "ready", "register", "heartbeat"]


async def test_when_none_answers_they_take_turns(keep: Keep, spare: FakeControlPlane) -> None:
    async with keep(fallback=(spare.url,)) as run:
        for plane in (run.plane, spare):
            plane.fail("register", Fault(status=503, times=2))
        await run.go(5)
        assert (paths(run.plane), paths(spare)) == (["register"] * 3 + ["heartbeat"], ["register"] * 2)
        assert run.states == ["down", "registered"]


async def test_a_refusal_is_no_reason_to_move(keep: Keep, spare: FakeControlPlane) -> None:
    async with keep(fallback=(spare.url,)) as run:
        run.plane.agents[KEY].status = "INACTIVE"
        await run.go(3)
        assert spare.requests == []


# --- the key ----------------------------------------------------------------------------------------------------------------


async def test_a_rotated_key_registers_at_the_next_beat(keep: Keep, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    async with keep(key=FromFile(str(tmp_path / "key"))) as run:
        await run.go(2)
        other = run.plane.add_agent("rotated", "hg_ak_other")
        (tmp_path / "key").write_text("hg_ak_other\n")
        await run.go(1)
        assert paths(run.plane)[-2:] == ["register", "heartbeat"]
        assert run.agents == [run.plane.agents[KEY].id, other.id]
        assert other.registration["version"] == "1.2"
        assert run.states == ["registered"]


async def test_a_refused_key_that_changes_ends_the_pause(keep: Keep, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hg_ak_wrong")
    async with keep(key=FromFile(str(tmp_path / "key"))) as run:

        def rotate() -> None:
            if run.pauses[-1] == 5.0:
                (tmp_path / "key").write_text(KEY)

        run.between = dict.fromkeys(range(1, 21), rotate)
        await run.go(20)
        looked = run.pauses.index(5.0)
        assert run.pauses[looked + 1] > 20, "the next thing was a beat"
        assert run.states == ["refused", "registered"]


# --- clocks -----------------------------------------------------------------------------------------------------------------


async def test_the_difference_of_clocks_is_told_when_it_changes(keep: Keep) -> None:
    def skews(run: Run) -> list[float]:
        return [event.seconds for event in run.told if isinstance(event, events.ClockCompared)]

    async with keep() as run:
        await run.go(1)
        assert skews(run) == [], "a server may tell no time"
        run.plane.clock_offset = 300.0
        await run.go(3)
        (ahead,) = skews(run)
        assert 298.5 < ahead < 301.5
        run.plane.clock_offset = -40.0
        await run.go(1)
        assert -42 < skews(run)[-1] < -38
