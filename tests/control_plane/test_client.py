import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensor.config.schema import Config
from sensor.control_plane import wire
from sensor.control_plane.addresses import Addresses
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.errors import (
    AlreadyDone,
    Forbidden,
    NotFound,
    NothingStored,
    OutcomeUnknown,
    PlanLimit,
    Refused,
    TooLarge,
    Unauthorized,
    Unavailable,
    WrongAddress,
)
from sensor.control_plane.links import Link, links_of
from sensor.errors import ControlPlaneError, SecretError
from sensor.limits import Limits
from sensor.secret import FromFile, InPlace, Secret, SecretSource
from tests.fakes.certificates import Authority
from tests.fakes.control_plane import KEY, FakeControlPlane, Fault

LIMITS = Limits(idle_seconds=20.0, upload_seconds=20.0)
SHORT = Limits(idle_seconds=0.1, upload_seconds=0.1)
EXCHANGES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "fixtures/control_plane/exchanges.jsonl").read_text("utf-8").splitlines()
]
ENVELOPE: dict[str, Any] = EXCHANGES[62]["request"]["json"]
Make = Callable[..., ControlPlaneClient]


def body(scan_id: str = "8c1f6a36-0000-4000-8000-000000000001", **more: Any) -> bytes:
    return json.dumps(ENVELOPE | {"scan": ENVELOPE["scan"] | {"id": scan_id}} | more).encode()


@pytest.fixture
async def plane() -> AsyncIterator[FakeControlPlane]:
    async with FakeControlPlane() as running:
        yield running


@pytest.fixture
async def make(plane: FakeControlPlane) -> AsyncIterator[Make]:
    made = []

    def client(url: str = "", key: SecretSource | None = None, limits: Limits = LIMITS) -> ControlPlaneClient:
        link = Link(name="l", url=url or plane.url, api_key=key or InPlace(Secret(KEY)))
        transport = transport_for(link, limits)
        made.append(transport)
        return ControlPlaneClient(link, transport, limits=limits)

    yield client
    for transport in made:
        await transport.close()


REGISTRATION = wire.Registration(name="n", version="0.1.0", hostname="h", arch="amd64", scanner_versions={"a": "1"})


async def test_the_whole_conversation(plane: FakeControlPlane, make: Make) -> None:
    client = make()
    agent = await client.register(REGISTRATION)
    assert agent == plane.agents[KEY].id
    await client.heartbeat(wire.Heartbeat(agent_id=agent, status="scanning", active_scans=1, uptime_seconds=5))
    assert plane.agents[KEY].metadata["activeScans"] == 1
    queued = plane.add_job("r.example.com/acme/app:1", scanners=["trivy"])
    poll = await client.poll_jobs(agent)
    assert [(job.id, job.type) for job in poll.jobs] == [(queued.id, "SCAN")]
    answer = await client.upload(body(queued.id))
    assert queued.scan is not None
    assert (answer.status, answer.scan_id) == (200, queued.scan.id)
    await client.report_job(queued.id, "completed")
    assert queued.status == "COMPLETED"
    assert (await client.upload(body())).status == 201
    assert await client.probe()
    assert [path for _, path in plane.requests] == [
        "/api/agent/register",
        "/api/agent/heartbeat",
        f"/api/agent/jobs?agentId={agent}",
        "/api/scans/upload",
        f"/api/agent/jobs/{queued.id}/status",
        "/api/scans/upload",
        "/api/ready",
    ]
    assert len(plane.connections) == 7, "a connection for each call"


async def test_both_key_headers_are_sent_but_not_with_the_probe(plane: FakeControlPlane, make: Make) -> None:
    client = make()
    await client.heartbeat(wire.Heartbeat(agent_id=""))
    await client.probe()
    beat, probe = plane.headers
    assert (beat["Authorization"], beat["X-API-Key"]) == (f"Bearer {KEY}", KEY)
    assert not {"Authorization", "X-API-Key"} & set(probe)


async def test_a_rotated_key_is_used_at_once(plane: FakeControlPlane, make: Make, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("hg_ak_old\n")
    client = make(key=FromFile(str(file)))
    with pytest.raises(Unauthorized, match=r"Invalid API key.*file .*key"):
        await client.register(REGISTRATION)
    file.write_text(f"{KEY}\n")
    assert await client.register(REGISTRATION)
    file.unlink()
    with pytest.raises(SecretError):
        await client.register(REGISTRATION)
    assert len(plane.requests) == 2


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "\x7f"])
async def test_what_cannot_be_a_key_is_not_sent(plane: FakeControlPlane, make: Make, key: str) -> None:
    with pytest.raises(SecretError) as caught:
        await make(key=InPlace(Secret(key))).poll_jobs("a")
    assert key not in str(caught.value)
    assert plane.requests == []


async def test_text_the_database_refuses_is_cleaned(plane: FakeControlPlane, make: Make) -> None:
    client = make()
    await client.register(
        wire.Registration(name="n", version="1\0", hostname="\ud800h", scanner_versions={"a\0": "\udfff"})
    )
    assert plane.agents[KEY].registration["hostname"] == "\ufffdh"
    queued = plane.add_job("a/b:1")
    plane.claim(queued.id)
    await client.report_job(queued.id, "failed", "it\0 broke \ud800" + "x" * 100_000)
    assert queued.error is not None
    assert queued.error.startswith("it broke \ufffdxxx")
    assert len(queued.error) < 20_000


async def test_the_job_status_answers(plane: FakeControlPlane, make: Make) -> None:
    client = make()
    with pytest.raises(NotFound, match="Job not found") as missing:
        await client.report_job("no-such-job", "completed")
    assert not missing.value.is_route
    queued = plane.add_job("a/b:1")
    with pytest.raises(Forbidden, match="not assigned") as foreign:
        await client.report_job(queued.id, "completed")
    assert not foreign.value.is_demo
    plane.claim(queued.id)
    await client.report_job(queued.id, "failed", "no")
    with pytest.raises(AlreadyDone):
        await client.report_job(queued.id, "completed")


@pytest.mark.parametrize("job", ["..", "", "a\nb", "x" * 200])
async def test_a_job_id_cannot_change_the_path(plane: FakeControlPlane, make: Make, job: str) -> None:
    with pytest.raises(Refused):
        await make().report_job(job, "completed")
    assert plane.requests == []


async def test_a_job_id_is_quoted(plane: FakeControlPlane, make: Make) -> None:
    with pytest.raises(NotFound):
        await make().report_job("a/../b?c#d", "completed")
    assert plane.requests == [("POST", "/api/agent/jobs/a%2F..%2Fb%3Fc%23d/status")]


CALLS: dict[str, Callable[[ControlPlaneClient], Awaitable[object]]] = {
    "register": lambda client: client.register(REGISTRATION),
    "heartbeat": lambda client: client.heartbeat(wire.Heartbeat(agent_id="a")),
    "jobs": lambda client: client.poll_jobs("a"),
    "status": lambda client: client.report_job("j", "completed"),
    "upload": lambda client: client.upload(body()),
}


@pytest.mark.parametrize("endpoint", CALLS)
@pytest.mark.parametrize(
    ("fault", "error", "retryable"),
    [
        (Fault(status=400, body=b'{"error":"no"}'), Refused, False),
        (Fault(status=401, body=b'{"error":"Invalid API key"}'), Unauthorized, False),
        (Fault(status=402, body=b'{"error":{"code":"PLAN_LIMIT","message":"m"}}'), PlanLimit, False),
        (Fault(status=403, body=b'{"error":"Demo mode is enabled"}'), Forbidden, False),
        (Fault(status=404, body=b"<html>", content_type="text/html"), NotFound, False),
        (Fault(status=405), WrongAddress, False),
        (Fault(status=409, body=b'{"error":"done"}'), AlreadyDone, False),
        (Fault(status=413, body=b"<html>", content_type="text/html"), TooLarge, False),
        (Fault(status=418), Refused, False),
        (Fault(status=301, headers={"Location": "https://x.example.com/"}), WrongAddress, False),
        (Fault(status=308, headers={"Location": "/api/x"}), WrongAddress, False),
        (Fault(status=429, body=b"{}", headers={"Retry-After": "7"}), Unavailable, True),
        (Fault(status=503, headers={"Retry-After": "7"}), Unavailable, True),
        (Fault(status=200, body=b"<html>login</html>", content_type="text/html"), WrongAddress, False),
    ],
)
async def test_every_refusal_has_its_error(
    plane: FakeControlPlane,
    make: Make,
    endpoint: Any,
    fault: Fault,
    error: type[ControlPlaneError],
    retryable: bool,
) -> None:
    plane.fail(endpoint, Fault(**vars(fault)))
    with pytest.raises(error) as caught:
        await CALLS[endpoint](make())
    assert caught.value.retryable is retryable
    assert caught.value.retry_after == (7.0 if "Retry-After" in fault.headers else None)
    assert KEY not in str(caught.value)
    assert len(plane.requests) == 1, "never repeated, never redirected"


async def test_demo_mode_and_wrong_paths_are_told_apart(plane: FakeControlPlane, make: Make) -> None:
    plane.is_demo = True
    with pytest.raises(Forbidden) as demo:
        await make().register(REGISTRATION)
    assert demo.value.is_demo
    with pytest.raises(NotFound, match="without /api") as route:
        await make(plane.url + "/api").poll_jobs("")
    assert route.value.is_route


async def test_a_redirect_names_the_fix(make: Make, plane: FakeControlPlane) -> None:
    with pytest.raises(WrongAddress, match="no slash at the end"):
        await make(plane.url + "/").register(REGISTRATION)


@pytest.mark.parametrize("endpoint", ["register", "heartbeat", "jobs", "status"])
@pytest.mark.parametrize(
    "fault", [Fault(status=500, body=b'{"error":"x"}'), Fault(status=500), Fault(status=504), Fault(close="before")]
)
async def test_calls_without_an_answer_are_unavailable(
    plane: FakeControlPlane, make: Make, endpoint: Any, fault: Fault
) -> None:
    plane.fail(endpoint, Fault(**vars(fault)))
    with pytest.raises(Unavailable) as caught:
        await CALLS[endpoint](make())
    assert caught.value.retryable
    assert len(plane.requests) == 1


async def test_a_poll_whose_answer_is_lost_is_not_repeated(plane: FakeControlPlane, make: Make) -> None:
    for _ in range(7):
        plane.add_job("r.example.com/a:1")
    plane.fail("jobs", Fault(close="after"))
    with pytest.raises(Unavailable):
        await make().poll_jobs("a")
    assert sum(job.status == "ASSIGNED" for job in plane.jobs.values()) == 5
    assert [method for method, _ in plane.requests] == ["GET"]


@pytest.mark.parametrize("endpoint", ["register", "heartbeat", "jobs", "status"])
async def test_silence_is_bounded(plane: FakeControlPlane, make: Make, endpoint: Any) -> None:
    plane.fail(endpoint, Fault(hang=True))
    with pytest.raises(Unavailable, match="did not answer"):
        await CALLS[endpoint](make(limits=SHORT))


async def test_an_answer_that_is_too_large_is_not_read(plane: FakeControlPlane, make: Make) -> None:
    limits = Limits(answer_bytes=1000)
    plane.fail("jobs", Fault(status=200, body=b" " * 2000, times=1))
    with pytest.raises(ControlPlaneError, match="larger than 1000"):
        await make(limits=limits).poll_jobs("a")
    plane.fail("upload", Fault(status=200, body=b" " * 2000))
    with pytest.raises(OutcomeUnknown):
        await make(limits=limits).upload(body())
    plane.fail("ready", Fault(status=200, body=b" " * 2000))
    with pytest.raises(Unavailable):
        await make(limits=limits).probe()


async def test_empty_successes_are_successes(plane: FakeControlPlane, make: Make) -> None:
    client = make()
    for endpoint in ("heartbeat", "status", "upload"):
        plane.fail(endpoint, Fault(status=204))
        await CALLS[endpoint](client)
    plane.fail("register", Fault(status=200))
    with pytest.raises(WrongAddress):
        await client.register(REGISTRATION)


async def test_upload_outcomes(plane: FakeControlPlane, make: Make) -> None:
    client = make()
    with pytest.raises(NothingStored, match="Error uploading"):
        await client.upload(b"{")
    with pytest.raises(OutcomeUnknown) as half:
        await client.upload(body(sensor=None))
    assert half.value.is_half
    assert len(plane.standalone) == 1
    with pytest.raises(AlreadyDone):
        await client.upload(body())
    plane.fail("upload", Fault(status=500, body=b"<html>", content_type="text/html"))
    with pytest.raises(OutcomeUnknown) as page:
        await client.upload(body("other"))
    assert page.value.is_half


@pytest.mark.parametrize(
    "fault", [Fault(close="before"), Fault(close="after"), Fault(hang=True), Fault(status=502), Fault(status=504)]
)
async def test_a_lost_answer_to_an_upload_is_unknown(plane: FakeControlPlane, make: Make, fault: Fault) -> None:
    plane.fail("upload", Fault(**vars(fault)))
    limits = SHORT if fault.hang else LIMITS
    with pytest.raises(OutcomeUnknown) as caught:
        await make(limits=limits).upload(body())
    assert not caught.value.is_half
    assert not caught.value.retryable
    assert len(plane.requests) == 1
    assert len(plane.standalone) == (fault.close == "after")


async def test_a_refused_connection_surely_stored_nothing(make: Make) -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    client = make(f"http://127.0.0.1:{port}")
    for call in (client.upload(body()), client.probe(), client.register(REGISTRATION)):
        with pytest.raises(Unavailable, match="cannot connect"):
            await call


async def test_tls_against_a_plain_port_surely_stored_nothing(plane: FakeControlPlane, make: Make) -> None:
    with pytest.raises(Unavailable) as caught:
        await make(plane.url.replace("http:", "https:")).upload(body())
    assert not caught.value.retryable


async def test_a_large_upload_passes(plane: FakeControlPlane, make: Make) -> None:
    large = body(pad="x" * 9_000_000)
    assert (await make().upload(large)).status == 201
    assert plane.uploads == [large]


async def test_probes(plane: FakeControlPlane, make: Make) -> None:
    client = make()
    plane.fail("ready", Fault(status=404))
    assert not await client.probe()
    plane.has_database = False
    with pytest.raises(Unavailable, match="not ready"):
        await client.probe()
    plane.fail("ready", Fault(hang=True))
    with pytest.raises(Unavailable):
        await make(limits=SHORT).probe()


async def test_a_hosted_server_is_understood(plane: FakeControlPlane, make: Make) -> None:
    client = make()
    plane.fail("register", Fault(status=200, body=b'{"data":{"agentId":"x","registry":{"id":"r"}}}'))
    assert await client.register(REGISTRATION) == "x"
    plane.fail("jobs", Fault(status=200, body=b'{"data":{"jobs":[{"id":"j","type":"scan","scan":{"imageRef":"a"}}]}}'))
    assert [job.id for job in (await client.poll_jobs("x")).jobs] == ["j"]
    plane.fail("upload", Fault(status=200, body=b'{"ok":true}'))
    assert (await client.upload(body())).scan_id == ""


def recorded_calls() -> list[tuple[int, str, dict[str, Any]]]:
    """The recorded answers that a client's call can get."""
    endpoints = {
        "register": "register",
        "heartbeat": "heartbeat",
        "jobs": "jobs",
        "status": "status",
        "upload": "upload",
    }
    return [
        (number, endpoints[name], exchange["response"])
        for number, exchange in enumerate(EXCHANGES)
        if (name := exchange["request"]["path"].partition("?")[0].rstrip("/").rpartition("/")[2]) in endpoints
        and exchange["request"]["method"] != "HEAD"
    ]


@pytest.mark.parametrize(("number", "endpoint", "answer"), recorded_calls())
async def test_every_recorded_answer_is_understood(
    plane: FakeControlPlane, make: Make, number: int, endpoint: Any, answer: dict[str, Any]
) -> None:
    text = json.dumps(answer["json"]).encode() if "json" in answer else answer["body"].encode()
    plane.fail(endpoint, Fault(status=answer["status"], body=text, content_type=answer["contentType"] or "text/plain"))
    if answer["status"] < 300:
        await CALLS[endpoint](make())
        return
    with pytest.raises(ControlPlaneError) as caught:
        await CALLS[endpoint](make())
    assert type(caught.value) is not ControlPlaneError, number


async def test_a_control_plane_may_want_to_know_who_we_are(tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.issue_client(tmp_path)
    plane = FakeControlPlane()
    plane.tls = authority.demanding_context(tmp_path)
    settings = {
        "api_key": {"env": "HG_TEST_KEY"},
        "ca_file": authority.write(tmp_path / "ca.pem"),
        "client_certificate": certificate,
        "client_key": key,
    }
    async with plane:
        (link,) = links_of(Config.model_validate({"control_plane": {"url": plane.url, **settings}}))
        transport = transport_for(replace(link, api_key=InPlace(Secret(KEY))))
        client = ControlPlaneClient(replace(link, api_key=InPlace(Secret(KEY))), transport)
        assert await client.register(REGISTRATION) == plane.agents[KEY].id
        await transport.close()
        bare = replace(link, route=replace(link.route, client_certificate="", client_key=""))
        transport = transport_for(bare)
        with pytest.raises(Unavailable):
            await ControlPlaneClient(bare, transport).probe()
        await transport.close()


async def test_all_clients_of_a_link_move_together(plane: FakeControlPlane, make: Make) -> None:
    addresses = Addresses(("http://127.0.0.1:9", plane.url))
    link = Link(name="l", url="http://127.0.0.1:9", fallback=(plane.url,), api_key=InPlace(Secret(KEY)))
    transport = transport_for(link, LIMITS)
    first, second = (ControlPlaneClient(link, transport, limits=LIMITS, addresses=addresses) for _ in range(2))
    with pytest.raises(Unavailable):
        await first.probe()
    assert addresses.advance()
    assert await second.probe()
    assert not addresses.is_preferred
    assert addresses.advance()
    assert addresses.current == addresses.preferred == "http://127.0.0.1:9"
    assert not Addresses(("http://one",)).advance()
    await transport.close()


@pytest.mark.parametrize(("offset", "expected"), [(None, None), (0.0, 0.0), (120.0, 120.0), (-86_400.0, -86_400.0)])
async def test_the_servers_clock_is_compared(
    plane: FakeControlPlane, make: Make, offset: float | None, expected: float | None
) -> None:
    plane.clock_offset = offset
    client = make()
    await client.probe()
    assert client.skew == (None if expected is None else pytest.approx(expected, abs=1.5))
    plane.clock_offset = None
    await client.probe()
    assert (client.skew is None) == (expected is None), "an answer without a time tells nothing"


async def test_the_mark_of_a_key_changes_with_it_and_does_not_tell_it(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    client = make(key=FromFile(str(file)))
    first = client.key_mark()
    assert KEY not in first
    file.write_text(f"{KEY}\n")
    assert client.key_mark() == first
    file.write_text("hg_ak_other")
    assert client.key_mark() != first
    file.unlink()
    with pytest.raises(SecretError):
        client.key_mark()


async def test_without_a_key_nothing_is_sent(plane: FakeControlPlane, make: Make) -> None:
    link = Link(name="l", url=plane.url, api_key=None)
    transport = transport_for(link, LIMITS)
    with pytest.raises(SecretError, match="no API key"):
        await ControlPlaneClient(link, transport).poll_jobs("a")
    assert plane.requests == []
    await transport.close()
