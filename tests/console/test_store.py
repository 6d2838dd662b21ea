import asyncio
from typing import Any

import pytest

from sensor.console.store import host_of, show_time
from tests.console.conftest import Caller, Clock, Connected, connect


async def ask(admin: Caller, count: int, registry: str, start: int = 0) -> list[str]:
    made = []
    for number in range(start, start + count):
        status, job = await admin.post("/api/jobs", {"reference": f"acme/app:{number}", "registryId": registry})
        assert status == 201, job
        made.append(job["id"])
    return made


async def job_of(admin: Caller, job: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in (await admin.get("/api/jobs"))["jobs"] if row["id"] == job)
    return found


async def test_twenty_polls_at_once_hand_out_each_job_once(admin: Caller, connected: Connected) -> None:
    wanted = await ask(admin, 60, connected.id)
    polls = await asyncio.gather(*(connected.sensor.poll() for _ in range(20)))
    claimed = [job["id"] for jobs in polls for job in jobs]
    assert sorted(claimed) == sorted(wanted)
    assert max(len(jobs) for jobs in polls) <= 5
    assert await connected.sensor.poll() == []


async def test_the_oldest_jobs_come_first(admin: Caller, connected: Connected, clock: Clock) -> None:
    wanted = []
    for number in range(7):
        wanted += await ask(admin, 1, connected.id, number)
        clock.advance(1)
    assert [job["id"] for job in await connected.sensor.poll()] == wanted[:5]
    assert [job["id"] for job in await connected.sensor.poll()] == wanted[5:]


async def test_a_key_gets_and_answers_the_jobs_of_its_own_registry_only(
    admin: Caller, connected: Connected, other: Connected
) -> None:
    (job,) = await ask(admin, 1, connected.id)
    assert await other.sensor.poll() == []
    status, body = await other.sensor.post(f"/api/agent/jobs/{job}/status", {"status": "completed"})
    assert (status, body["error"]) == (403, "Job not assigned to this agent")
    assert [row["id"] for row in await connected.sensor.poll()] == [job]
    status, _ = await other.sensor.post(f"/api/agent/jobs/{job}/status", {"status": "failed"})
    assert status == 403
    assert (await connected.sensor.post(f"/api/agent/jobs/{job}/status", {"status": "failed", "error": "no\0 way"}))[
        0
    ] == 200
    assert (await job_of(admin, job))["error"] == "no way"


async def test_a_reference_finds_its_registry_by_host(admin: Caller, connected: Connected, other: Connected) -> None:
    _, job = await admin.post("/api/jobs", {"reference": "other.example.net/acme/app:1", "scanners": ["trivy"]})
    assert job["registryId"] == other.id
    assert await connected.sensor.poll() == []
    (claimed,) = await other.sensor.poll()
    assert claimed == {
        "id": job["id"],
        "type": "SCAN",
        "createdAt": "2026-05-01T12:00:00.000Z",
        "scan": {"imageRef": "other.example.net/acme/app:1", "source": "registry", "scanners": ["trivy"]},
    }


async def test_the_host_is_written_into_a_job_for_a_named_registry(admin: Caller, connected: Connected) -> None:
    _, job = await admin.post("/api/jobs", {"reference": "acme/app:1", "registryId": connected.id})
    assert job["reference"] == "registry.example.net:5000/acme/app:1"


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"reference": "Not A Reference"}, 400, "reference: not an image reference"),
        ({"reference": "https://registry.example.net:5000/acme/app"}, 400, "reference: not an image reference"),
        ({"reference": "acme/app:1"}, 409, "reference: no sensor can reach a reference without a registry"),
        ({"reference": "unknown.example.net/app:1"}, 409, "reference: no sensor can reach unknown.example.net"),
        ({"reference": "acme/app:1", "registryId": "nope"}, 404, "registryId: there is no such registry"),
        ({"reference": ""}, 400, "reference: "),
        ({}, 400, "reference: Missing"),
        ({"reference": "a/b:1", "scanners": "trivy"}, 400, "scanners: "),
    ],
)
async def test_jobs_that_nobody_could_do_are_refused(
    admin: Caller, connected: Connected, body: dict[str, Any], status: int, error: str
) -> None:
    assert connected.id
    got, answer = await admin.post("/api/jobs", body)
    assert got == status
    assert answer["error"].startswith(error)


async def test_a_reference_of_another_registry_is_refused(admin: Caller, connected: Connected) -> None:
    status, answer = await admin.post("/api/jobs", {"reference": "other.example.net/a:1", "registryId": connected.id})
    assert status == 400
    assert "not of the registry" in answer["error"]


async def test_an_unbound_agent_takes_jobs_without_a_registry(admin: Caller, connected: Connected) -> None:
    status, made = await admin.post("/api/agents", {"name": "rack-7"})
    assert status == 201
    assert made["apiKey"].startswith("hg_ak_")
    _, job = await admin.post("/api/jobs", {"reference": "acme/app:1"})
    await ask(admin, 1, connected.id)
    assert [row["id"] for row in await admin(made["apiKey"]).poll()] == [job["id"]]


async def test_a_silent_sensors_job_is_pending_again_after_ten_minutes(admin: Caller, clock: Clock) -> None:
    keys = [(await admin.post("/api/agents", {"name": name}))[1]["apiKey"] for name in ("first", "second")]
    first, second = (admin(key) for key in keys)
    _, job = await admin.post("/api/jobs", {"reference": "acme/app:1"})
    assert [row["id"] for row in await first.poll()] == [job["id"]]
    clock.advance(599)
    assert await second.poll() == []
    assert (await job_of(admin, job["id"]))["status"] == "ASSIGNED"
    clock.advance(2)
    assert (await job_of(admin, job["id"]))["status"] == "PENDING"
    assert [row["id"] for row in await second.poll()] == [job["id"]]
    assert (await job_of(admin, job["id"]))["status"] == "ASSIGNED"
    status, _ = await first.post(f"/api/agent/jobs/{job['id']}/status", {"status": "completed"})
    assert status == 403  # it is the second one's now
    status, _ = await second.post(f"/api/agent/jobs/{job['id']}/status", {"status": "completed"})
    assert status == 200


async def test_a_sensor_that_beats_keeps_its_job_but_not_for_ever(
    admin: Caller, connected: Connected, clock: Clock
) -> None:
    (job,) = await ask(admin, 1, connected.id)
    await connected.sensor.poll()
    for _ in range(36):
        clock.advance(590)
        await connected.sensor.post("/api/agent/heartbeat", {})
        assert await connected.sensor.poll() == []
    clock.advance(590)
    assert [row["id"] for row in await connected.sensor.poll()] == [job]


async def test_a_late_answer_counts_while_nobody_else_has_the_job(
    admin: Caller, connected: Connected, clock: Clock
) -> None:
    (job,) = await ask(admin, 1, connected.id)
    await connected.sensor.poll()
    clock.advance(3600)
    assert (await connected.sensor.post(f"/api/agent/jobs/{job}/status", {"status": "completed"}))[0] == 200
    assert await connected.sensor.poll() == []


async def test_the_checks_of_a_job_status_in_their_order(admin: Caller, connected: Connected) -> None:
    (job,) = await ask(admin, 1, connected.id)
    path = f"/api/agent/jobs/{job}/status"
    for word in ("cancelled", "running", "COMPLETED", ""):
        assert (await connected.sensor.post("/api/agent/jobs/nope/status", {"status": word}))[0] == 400
    assert (await connected.sensor.post("/api/agent/jobs/nope/status", {"status": "failed"}))[0] == 404
    assert (await connected.sensor.post(path, {"status": "failed"}))[0] == 403  # nobody claimed it
    await connected.sensor.poll()
    assert (await connected.sensor.post(path, {"status": "completed"})) == (200, {"ok": True})
    assert (await connected.sensor.post(path, {"status": "failed"})) == (409, {"error": "Job already finalized"})
    row = await job_of(admin, job)
    assert (row["status"], row["error"], row["completedAt"]) == ("COMPLETED", None, "2026-05-01T12:00:00.000Z")


async def test_the_state_of_a_sensor(admin: Caller, connected: Connected, clock: Clock) -> None:
    async def state() -> str:
        found: str = (await admin.get(f"/api/registries/{connected.id}/sensor-status"))["status"]
        return found

    assert await state() == "waiting"
    await connected.sensor.post("/api/agent/register", {"hostname": "h"})
    assert await state() == "waiting"  # the wizard waits for the first heartbeat
    await connected.sensor.post("/api/agent/heartbeat", {"status": "idle"})
    assert await state() == "online"
    await connected.sensor.post("/api/agent/heartbeat", {"status": "scanning", "activeScans": 2})
    assert await state() == "scanning"
    clock.advance(120)
    assert await state() == "scanning"
    clock.advance(1)
    assert await state() == "offline"
    assert (await admin.get("/api/agents"))[0]["status"] == "DISCONNECTED"
    await connected.sensor.poll()  # any call of the sensor counts
    assert await state() == "scanning"
    await connected.sensor.post("/api/agent/heartbeat", {})
    assert await state() == "online"


async def test_the_list_of_agents(admin: Caller, connected: Connected, clock: Clock) -> None:
    clock.advance(1)
    _, rack = await admin.post("/api/agents", {"name": "rack-7"})
    body = {
        "name": "ignored",
        "hostname": "h",
        "os": "linux",
        "arch": "amd64",
        "version": "0.1.0",
        "scannerVersions": {"x": "1"},
        "capabilities": ["scan"],
    }
    assert await connected.sensor.post("/api/agent/register", body) == (
        200,
        {"agentId": connected.agent, "registryId": connected.id, "registryUrl": "registry.example.net:5000"},
    )
    assert await admin(rack["apiKey"]).post("/api/agent/register", {"scannerVersions": None}) == (
        200,
        {"agentId": rack["id"]},
    )
    await ask(admin, 2, connected.id)
    await connected.sensor.poll()
    newest, older = await admin.get("/api/agents")
    assert (newest["id"], newest["name"], newest["registryId"], newest["lastSeenAt"]) == (
        rack["id"],
        "rack-7",
        None,
        "2026-05-01T12:00:01.000Z",
    )
    assert {key: older[key] for key in ("hostname", "os", "arch", "sensorVersion", "scannerVersions", "capabilities", "_count", "registryId")} == {
        "hostname": "h", "os": "linux", "arch": "amd64", "sensorVersion": "0.1.0", "scannerVersions": {"x": "1"}, "capabilities": ["scan"],
        "_count": {"scanJobs": 2}, "registryId": connected.id,
    }  # fmt: skip


async def test_a_registry_name_stands_once(admin: Caller, connected: Connected) -> None:
    status, body = await admin.post("/api/registries", {"url": "registry.example.net:5000"})
    assert (status, body["field"]) == (409, "name")
    status, _ = await admin.post("/api/registries", {"url": "registry.example.net:5000", "name": "again"})
    assert status == 201
    names = [
        (row["name"], row["scanMethod"], row["sensor"]["status"])
        for row in (await admin.get("/api/registries"))["registries"]
    ]
    assert names == [("again", "sensor", "waiting"), ("registry.example.net:5000", "sensor", "waiting")]
    assert connected.id


async def test_docker_hub_goes_by_one_name(admin: Caller) -> None:
    hub = await connect(admin, "https://registry-1.docker.io")
    _, job = await admin.post("/api/jobs", {"reference": "docker.io/library/nginx:1"})
    assert job["registryId"] == hub.id
    assert [host_of(url) for url in ("index.docker.io", "HTTPS://R.Example.net:5000/x")] == [
        "docker.io",
        "r.example.net:5000",
    ]


def test_times_are_shown_in_utc() -> None:
    assert show_time(0.0004) == "1970-01-01T00:00:00.000Z"
    assert show_time(None) is None
