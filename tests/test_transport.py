"""Requests over real sockets: bodies, caps, retry, parking, TLS, proxies."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.server
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from sensor.errors import ConfigError, DataError, NetworkError
from sensor.failures import Unresolved, translate, was_never_sent
from sensor.limits import Limits
from sensor.pacing import Budgets, Rate
from sensor.route import Route
from sensor.tls import ClientRefused, NotTls, TlsOnly, Untrusted
from sensor.transport import NO_RETRY, USER_AGENT, HostParked, Retry, Transport
from tests.fakes.certificates import Authority
from tests.fakes.docker_registry import free_port
from tests.fakes.proxy import FakeProxy

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Pauses:
    """Instead of asyncio.sleep and time.monotonic: sleeping moves the clock."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.now = 100.0

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def server(handler: Handler, *, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def raw_server(answer: bytes, *, seen: list[bytes] | None = None) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(4096)
        if seen is not None:
            seen.append(data)
        writer.write(answer)
        with contextlib.suppress(OSError):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def transport(
    pauses: Pauses | None = None, route: Route | None = None, **options: object
) -> AsyncIterator[Transport]:
    pauses = pauses or Pauses()
    made = Transport(route, **{"budgets": Budgets(pauses.clock), **options}, sleep=pauses.sleep)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.close()


def answering(*replies: web.Response | int) -> tuple[Handler, list[web.Request]]:
    """A handler that gives these answers in order, the last one for ever."""
    seen: list[web.Request] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        reply = replies[min(len(seen), len(replies) - 1)]
        seen.append(request)
        await request.read()
        return web.Response(status=reply) if isinstance(reply, int) else _copy(reply)

    return handle, seen


def _copy(reply: web.Response) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers)


# -- requests and bodies -----------------------------------------------------------------------------------------------


async def test_a_request_and_its_answer() -> None:
    async def handle(request: web.Request) -> web.Response:
        assert request.headers["User-Agent"] == USER_AGENT
        assert "Accept-Encoding" not in request.headers
        response = web.Response(body=request.method.encode() + await request.read(), headers={"X-One": "1"})
        response.headers.add("WWW-Authenticate", "Basic")
        response.headers.add("WWW-Authenticate", "Bearer")
        return response

    async with server(handle) as url, transport() as client:
        reply = await client.fetch("POST", url + "/a%2Fb?x=%2B", body=b"+body")
        assert (reply.status, reply.body, reply.headers["x-one"]) == (200, b"POST+body", "1")
        assert reply.header_lists["www-authenticate"] == ("Basic", "Bearer")
        assert client.requests == 1


async def test_an_error_loses_what_it_repeats_of_the_request() -> None:
    async def handle(request: web.Request) -> web.Response:
        text = f"{request.headers['Authorization']} and {(await request.read()).decode()}"
        return web.Response(status=int(request.query["status"]), text=text)

    shown = {"Authorization": "Bearer s3cret-token"}
    async with server(handle) as url, transport() as client:
        for status, text in ((200, b"Bearer s3cret-token and password=s3cret+word"), (403, b"*** and password=***")):
            reply = await client.fetch("PUT", f"{url}/?status={status}", headers=shown, body=b"password=s3cret+word")
            assert reply.body == text


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b"])
async def test_a_header_that_cannot_be_sent_is_told_without_its_value(value: str) -> None:
    handle, seen = answering(200)
    async with server(handle) as url, transport() as client:
        with pytest.raises(NetworkError, match="cannot be sent") as refused:
            await client.fetch("GET", url, headers={"Authorization": value})
        assert not refused.value.retryable
        assert value not in str(refused.value)
        assert seen == []


async def test_urls_and_redirects_are_left_alone() -> None:
    handle, seen = answering(web.Response(status=302, headers={"Location": "/elsewhere"}))
    async with server(handle) as url, transport() as client:
        reply = await client.fetch("GET", url + "/a%2Fb?sig=%2B%3D%7E")
        assert (reply.status, reply.headers["location"]) == (302, "/elsewhere")
        assert [request.raw_path for request in seen] == ["/a%2Fb?sig=%2B%3D%7E"]


async def test_a_body_larger_than_allowed_is_cut_off() -> None:
    handle, _ = answering(web.Response(body=b"x" * 100))
    async with server(handle) as url, transport() as client:
        assert len((await client.fetch("GET", url, most_bytes=100)).body) == 100
        with pytest.raises(DataError, match="larger than 99 bytes"):
            await client.fetch("GET", url, most_bytes=99)


async def test_an_answer_compressed_unasked_is_inflated_within_the_limit() -> None:
    bomb = gzip.compress(b"\0" * 5_000_000)
    replies = [
        web.Response(body=gzip.compress(b"hello"), headers={"Content-Encoding": "gzip"}),
        web.Response(body=bomb, headers={"Content-Encoding": "x-gzip"}),
        web.Response(body=b"no gzip at all", headers={"Content-Encoding": "gzip"}),
    ]
    handle, _ = answering(*replies)
    async with server(handle) as url, transport() as client:
        assert (await client.fetch("GET", url)).body == b"hello"
        with pytest.raises(DataError, match="larger than 1000000"):
            await client.fetch("GET", url, most_bytes=1_000_000)
        with pytest.raises(DataError, match="not the gzip stream"):
            await client.fetch("GET", url)


async def test_a_streamed_body_is_given_as_it_is_stored() -> None:
    packed = gzip.compress(b"layer" * 1000)
    handle, _ = answering(web.Response(body=packed, headers={"Content-Encoding": "gzip"}))
    async with server(handle) as url, transport() as client, client.stream("GET", url) as answer:
        assert b"".join([chunk async for chunk in answer.chunks]) == packed
        assert answer.header_lists["content-encoding"] == ("gzip",)


async def test_a_stream_that_breaks_off_is_a_network_error() -> None:
    async with (
        raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this") as url,
        transport() as client,
        client.stream("GET", url) as answer,
    ):
        with pytest.raises(NetworkError, match="broke"):
            await anext(_all(answer.chunks))


async def _all(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"".join([chunk async for chunk in chunks])


async def test_what_the_reader_of_a_stream_raises_is_its_own() -> None:
    handle, _ = answering(web.Response(body=b"data"))
    async with server(handle) as url, transport() as client:
        with pytest.raises(OSError, match="disk full") as raised:
            async with client.stream("GET", url):
                raise OSError("disk full")
        assert not isinstance(raised.value, NetworkError)
        assert (await client.fetch("GET", url)).body == b"data"


async def test_a_silent_server_is_given_up_after_the_idle_time() -> None:
    async def hang(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response()

    async with server(hang) as url, transport(limits=Limits(idle_seconds=0.02)) as client:
        with pytest.raises(NetworkError, match="did not answer in time") as raised:
            await client.fetch("GET", url, retry=NO_RETRY)
        assert raised.value.retryable
        assert (await client.fetch("GET", url, idle_seconds=30)).status == 200


async def test_connections_are_kept_or_not() -> None:
    ports: list[int] = []

    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.Response(body=b"x" * 10)

    async with server(handle) as url:
        for keep, expected in ((True, 1), (False, 3)):
            ports.clear()
            async with transport(keep_alive=keep) as client:
                for _ in range(3):
                    await client.fetch("GET", url)
            assert len(set(ports)) == expected


async def test_no_more_connections_to_a_host_than_configured() -> None:
    now, most = 0, 0

    async def handle(_request: web.Request) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return web.Response()

    async with server(handle) as url, transport(connections_per_host=2) as client, asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(client.fetch("GET", url))
    assert most == 2


# -- retry and parking -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_passing_failures_are_repeated_with_jitter(status: int) -> None:
    pauses = Pauses()
    handle, seen = answering(status, status, web.Response(body=b"ok"))
    async with server(handle) as url, transport(pauses) as client:
        assert (await client.fetch("GET", url)).body == b"ok"
        assert len(seen) == 3
        assert len(pauses.taken) == 2
        assert pauses.taken[0] <= 1
        assert pauses.taken[1] <= 2


async def test_the_last_answer_is_given_whatever_it_is() -> None:
    pauses = Pauses()
    handle, seen = answering(500)
    async with server(handle) as url, transport(pauses) as client:
        assert (await client.fetch("GET", url)).status == 500
        assert len(seen) == 5
        assert (await client.fetch("GET", url, retry=Retry(attempts=2))).status == 500
        assert len(seen) == 7


@pytest.mark.parametrize("status", [200, 304, 400, 401, 403, 404, 416, 501])
async def test_other_answers_are_not_repeated(status: int) -> None:
    handle, seen = answering(status)
    async with server(handle) as url, transport() as client:
        assert (await client.fetch("GET", url)).status == status
        assert len(seen) == 1


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_may_have_been_acted_upon_is_never_sent_twice(method: str) -> None:
    handle, seen = answering(503)
    async with server(handle) as url, transport() as client:
        assert (await client.fetch(method, url, body=b"x", retry=Retry(attempts=5))).status == 503
        assert len(seen) == 1
    requests: list[bytes] = []
    async with raw_server(b"", seen=requests) as url, transport() as client:
        with pytest.raises(NetworkError):
            await client.fetch(method, url, body=b"x", retry=Retry(attempts=5))
        assert len(requests) == 1


async def test_put_is_repeated_when_told_to() -> None:
    handle, seen = answering(503, 200)
    async with server(handle) as url, transport() as client:
        assert (await client.fetch("PUT", url)).status == 503
        assert (await client.fetch("PUT", url, retry=Retry(attempts=2))).status == 200
        assert len(seen) == 2


async def test_network_errors_are_repeated_and_then_raised() -> None:
    pauses = Pauses()
    async with transport(pauses) as client:
        with pytest.raises(NetworkError, match="refused") as raised:
            await client.fetch("GET", f"http://127.0.0.1:{free_port()}/")
        assert len(pauses.taken) == 4
        assert client.requests == 5
        assert was_never_sent(raised.value)


@pytest.mark.parametrize(("header", "low", "high"), [("20", 20, 20), (None, 17, 20)])
async def test_a_host_that_asks_for_a_pause_gets_it(header: str | None, low: float, high: float) -> None:
    pauses = Pauses()
    text = header or formatdate(time.time() + 20, usegmt=True)
    handle, seen = answering(web.Response(status=429, headers={"Retry-After": text}), 200)
    async with server(handle) as url, transport(pauses) as client:
        assert (await client.fetch("GET", url)).status == 200
        assert len(seen) == 2
        assert len(pauses.taken) == 1
        assert low <= pauses.taken[0] <= high


async def test_a_parked_host_waits_and_the_others_do_not() -> None:
    pauses = Pauses()
    busy, _ = answering(web.Response(status=429, headers={"Retry-After": "30"}), 200)
    free, _ = answering(200)
    async with server(busy) as one, server(free) as other, transport(pauses) as client:
        async with client.stream("GET", one) as answer:
            assert answer.status == 429
        await client.fetch("GET", other)
        assert pauses.taken == []
        async with client.stream("GET", one) as answer:
            assert answer.status == 200
        assert pauses.taken == [pytest.approx(30)]
        await client.fetch("GET", one)
        assert len(pauses.taken) == 1


async def test_a_long_pause_is_handed_to_the_caller() -> None:
    pauses = Pauses()
    handle, seen = answering(web.Response(status=503, headers={"Retry-After": "300"}))
    async with server(handle) as url, transport(pauses) as client:
        assert (await client.fetch("GET", url)).status == 503
        with pytest.raises(HostParked) as raised:
            await client.fetch("GET", url)
        assert raised.value.retryable
        assert raised.value.retry_after == pytest.approx(300)
        with pytest.raises(HostParked):
            async with client.stream("GET", url):
                pass
        assert len(seen) == 1
        assert (await client.fetch("GET", url, retry=NO_RETRY)).status == 503  # its caller does the pacing
        pauses.now += 1000
        assert (await client.fetch("GET", url)).status == 503
        assert pauses.taken == []


async def test_pauses_grow_and_are_capped() -> None:
    plan = Retry(first=1, most=10)
    assert all(0 <= plan.pause(n) <= min(10, 2**n) for n in range(10) for _ in range(20))
    assert plan.pause(0, 8.0) >= 8
    pauses = Pauses()
    async with transport(pauses) as client:
        await client.pause(3, 5.0)
        assert 5 <= pauses.taken[0] <= 8


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_a_private_authority_is_trusted_when_named(tmp_path: Path) -> None:
    authority = Authority("Lab CA")
    handle, _ = answering(200)
    async with server(handle, context=authority.server_context(tmp_path)) as url:
        async with transport(route=Route(ca_file=authority.write(tmp_path / "ca.pem"))) as client:
            assert (await client.fetch("GET", url)).status == 200
        async with transport() as client:
            with pytest.raises(Untrusted, match=r"issued by Lab CA, Example Org, is not trusted") as raised:
                await client.fetch("GET", url)
            assert not raised.value.retryable
            assert "ca_file" in raised.value.advice
            assert was_never_sent(raised.value)


async def test_a_changed_authority_file_is_noticed(tmp_path: Path) -> None:
    old, new = Authority("Old CA"), Authority("New CA")
    path = tmp_path / "ca.pem"
    old.write(path)
    handle, _ = answering(web.Response(body=b"x" * 3_000_000))
    async with (
        server(handle, context=new.server_context(tmp_path)) as url,
        transport(route=Route(ca_file=str(path))) as client,
    ):
        with pytest.raises(Untrusted, match="New CA"):
            await client.fetch("GET", url)
        new.write(path)
        async with client.stream("GET", url) as running:
            path.write_text("broken: the old authority stays")
            assert (await client.fetch("GET", url)).status == 200
            old.write(path)
            with pytest.raises(Untrusted):
                await client.fetch("GET", url)
            size = sum([len(chunk) async for chunk in running.chunks])  # its session is kept until it is done
        assert size == 3_000_000
        path.unlink()
        with pytest.raises(Untrusted):
            await client.fetch("GET", url)


async def test_a_missing_authority_file_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    async with transport(route=Route(ca_file=str(tmp_path / "none.pem"))) as client:
        with pytest.raises(ConfigError, match=r"none\.pem"):
            await client.fetch("GET", "https://127.0.0.1/")


def mutual(tmp_path: Path, authority: Authority, *, host: str = "127.0.0.1") -> Route:
    certificate, key = authority.issue_client(tmp_path)
    ca_file = authority.write(tmp_path / "ca.pem")
    return Route(ca_file=ca_file, client_certificate=certificate, client_key=key, client_hosts=(host,))


@contextlib.contextmanager
def strict_server(context: ssl.SSLContext) -> Iterator[str]:
    """A server that tells why it closes; asyncio's closes without a word."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

        def shutdown_request(self, request: Any) -> None:
            # closed at once, what the client has sent meanwhile would make the kernel take the alert back
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_WR)
                while request.recv(4096):
                    pass
            self.close_request(request)

    with Server(("127.0.0.1", 0), Page) as served:
        served.socket = context.wrap_socket(served.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"https://127.0.0.1:{served.server_address[1]}"
        finally:
            served.shutdown()
            thread.join()


def peer(seen: list[str]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        assert request.transport is not None
        shown = request.transport.get_extra_info("peercert") or {}
        seen.append(dict(pair for part in shown.get("subject", ()) for pair in part).get("commonName", ""))
        return web.Response()

    return handle


async def test_a_client_certificate_is_shown_to_its_hosts_alone(tmp_path: Path) -> None:
    authority, seen = Authority(), list[str]()
    context = authority.server_context(tmp_path)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=authority.pem.decode())
    async with (
        server(peer(seen), context=context) as url,
        transport(route=mutual(tmp_path, authority)) as client,
        FakeProxy() as proxy,
        transport(route=replace(mutual(tmp_path, authority), proxy=proxy.url)) as tunnelled,
    ):
        await client.fetch("GET", url)
        await client.fetch("GET", url.replace("127.0.0.1", "localhost"))
        await tunnelled.fetch("GET", url)
    assert seen == ["sensor", "", "sensor"]


async def test_a_host_that_wants_a_certificate_says_so(tmp_path: Path) -> None:
    authority, stranger = Authority(), Authority("Other CA")
    (tmp_path / "other").mkdir()
    theirs = replace(mutual(tmp_path / "other", stranger), ca_file=authority.write(tmp_path / "ca.pem"))
    with strict_server(authority.demanding_context(tmp_path)) as url:
        for route in (Route(ca_file=authority.write(tmp_path / "ca.pem")), theirs):
            async with transport(route=route) as client:
                with pytest.raises(ClientRefused, match="does not accept us: alert") as raised:
                    await client.fetch("GET", url)
                assert "client_certificate" in raised.value.advice
                assert not raised.value.retryable
        async with transport(route=mutual(tmp_path, authority)) as client:
            assert (await client.fetch("GET", url)).status == 200


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    authority, seen = Authority(), list[str]()
    async with (
        server(peer(seen), context=authority.demanding_context(tmp_path)) as url,
        transport(route=mutual(tmp_path, authority), keep_alive=False) as client,
    ):
        await client.fetch("GET", url)
        (tmp_path / "sensor.crt").write_text("half-written")
        await client.fetch("GET", url)
        authority.issue_client(tmp_path, "renewed")
        for kind in ("key", "crt"):
            (tmp_path / f"renewed.{kind}").replace(tmp_path / f"sensor.{kind}")
        await client.fetch("GET", url)
    assert seen == ["sensor", "sensor", "renewed"]


@pytest.mark.parametrize("trouble", ["missing", "other key", "passphrase", "one file"])
async def test_files_of_certificates_that_do_not_work(tmp_path: Path, trouble: str) -> None:
    authority = Authority()
    route = mutual(tmp_path, authority)
    match trouble:
        case "missing":
            (tmp_path / "sensor.key").unlink()
        case "other key":
            route = replace(route, client_key=authority.issue_client(tmp_path, "other")[1])
        case "passphrase":
            authority.issue_client(tmp_path, passphrase=b"secret")
        case _:
            both = (tmp_path / "sensor.crt").read_text() + (tmp_path / "sensor.key").read_text()
            (tmp_path / "both.pem").write_text(both)
            route = replace(route, client_certificate=str(tmp_path / "both.pem"), client_key="")
    async with (
        server(peer([]), context=authority.demanding_context(tmp_path)) as url,
        transport(route=route) as client,
    ):
        if trouble == "one file":
            assert (await client.fetch("GET", url)).status == 200
        else:
            with pytest.raises(ConfigError, match="client") as raised:
                await client.fetch("GET", url)
            assert ("without one" in raised.value.advice) is (trouble == "passphrase")


async def test_tls_to_a_plain_port_and_plain_to_a_tls_port_are_recognised(tmp_path: Path) -> None:
    handle, _ = answering(200)
    async with server(handle) as url, transport() as client:
        with pytest.raises(NotTls, match="does not speak TLS"):
            await client.fetch("GET", url.replace("http:", "https:"))
    async with raw_server(b"\x15\x03\x01\x00\x02\x02\x46") as url, transport() as client:
        with pytest.raises(TlsOnly, match="speaks TLS"):
            await client.fetch("GET", url)


# -- proxies -----------------------------------------------------------------------------------------------------------


async def test_plain_requests_and_tunnels_go_through_the_proxy(tmp_path: Path) -> None:
    authority = Authority()
    ca_file = authority.write(tmp_path / "ca.pem")
    handle, _ = answering(web.Response(body=b"through"))
    async with (
        server(handle) as plain,
        server(handle, context=authority.server_context(tmp_path)) as secure,
        FakeProxy(user="u", password="p@ss") as proxy,
        transport(route=Route(proxy=proxy.url.replace("p@ss", "p%40ss"), ca_file=ca_file)) as client,
    ):
        assert (await client.fetch("GET", plain + "/x?y=1")).body == b"through"
        assert (await client.fetch("GET", secure)).body == b"through"
        assert proxy.asked == [plain + "/x?y=1", secure.removeprefix("https://")]


async def test_hosts_in_no_proxy_are_reached_directly() -> None:
    handle, _ = answering(200)
    async with (
        server(handle) as url,
        FakeProxy() as proxy,
        transport(route=Route(proxy=proxy.url, no_proxy=("127.0.0.0/8",))) as client,
    ):
        assert (await client.fetch("GET", url)).status == 200
        assert proxy.asked == []


async def test_a_proxy_that_refuses_or_is_away_is_told_apart(tmp_path: Path) -> None:
    async with FakeProxy(refuse=403) as proxy, transport(route=Route(proxy=proxy.url)) as client:
        with pytest.raises(NetworkError, match=r"the proxy refused registry\.example with status 403") as raised:
            await client.fetch("GET", "https://registry.example/")
        assert not raised.value.retryable
    async with FakeProxy(user="u", password="p") as proxy:
        bad = proxy.url.replace("u:p@", "u:wrong@")
        async with transport(route=Route(proxy=bad)) as client:
            with pytest.raises(NetworkError, match="407") as raised:
                await client.fetch("GET", "https://registry.example/")
            assert "wrong" not in str(raised.value)
    async with transport(route=Route(proxy=f"http://u:secret@127.0.0.1:{free_port()}")) as client:
        with pytest.raises(NetworkError, match=r"proxy for registry\.example cannot be reached") as raised:
            await client.fetch("GET", "https://registry.example/", retry=NO_RETRY)
        assert "secret" not in str(raised.value)
        assert was_never_sent(raised.value)


async def test_an_untrusted_certificate_behind_a_proxy_is_told_without_going_around_it(tmp_path: Path) -> None:
    handle, _ = answering(200)
    async with (
        server(handle, context=Authority().server_context(tmp_path)) as url,
        FakeProxy() as proxy,
        transport(route=Route(proxy=proxy.url)) as client,
    ):
        with pytest.raises(Untrusted):
            await client.fetch("GET", url)
        assert len(proxy.asked) == 1


# -- translation -------------------------------------------------------------------------------------------------------


async def test_an_unknown_name_is_told_as_such() -> None:
    async with transport() as client:
        with pytest.raises(Unresolved, match=r"no-such-host\.invalid cannot be resolved"):
            await client.fetch("GET", "https://no-such-host.invalid/", retry=NO_RETRY)
        with pytest.raises(NetworkError, match="not a usable URL"):
            await client.fetch("GET", "https://h:99999/")


async def test_garbage_is_no_http() -> None:
    async with raw_server(b"SSH-2.0-OpenSSH\r\n") as url, transport() as client:
        with pytest.raises(NetworkError, match="not HTTP") as raised:
            await client.fetch("GET", url, retry=NO_RETRY)
        assert not was_never_sent(raised.value)


def test_every_kind_of_failure_has_words_and_most_have_advice() -> None:
    for error in (
        TimeoutError(),
        aiohttp.ServerDisconnectedError(),
        aiohttp.InvalidURL("x"),
        ConnectionResetError(),
        ssl.SSLError("odd"),
        OSError(5, "odd"),
    ):
        told = translate(error, "https://r.example:5000/x?secret=1")
        assert "r.example:5000" in told.message
        assert "secret" not in str(told)


async def test_closing_twice_and_unused_is_fine() -> None:
    client = Transport()
    await client.close()
    handle, _ = answering(200)
    async with server(handle) as url:
        await client.fetch("GET", url)
    await client.close()
    await client.close()


async def test_requests_of_one_kind_take_turns_over_everybody_who_shares_the_budgets() -> None:
    pauses = Pauses()
    budgets = Budgets(pauses.clock)
    rate = Rate(per_second=4, burst=1)
    async with transport(pauses, budgets=budgets) as one, transport(pauses, budgets=budgets) as other:
        for client in (one, other, one):
            await client.take_turn("quay.example listings", rate)
        await one.take_turn("elsewhere.example listings", rate)
        await one.take_turn("quay.example listings", None)
        assert pauses.taken == [pytest.approx(0.25), pytest.approx(0.25)]


async def test_a_documented_rate_and_a_quota_are_kept_by_host() -> None:
    pauses = Pauses()
    handle, _ = answering(web.Response(headers={"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "7;w=21600"}))
    async with server(handle) as url, transport(pauses) as client:
        client.budget(url).pace(Rate(per_second=2))
        for _ in range(3):
            assert (await client.fetch("GET", url)).status == 200
        assert len(pauses.taken) == 2
        quota = client.budget(url).quota
        assert quota is not None
        assert (quota.limit, quota.remaining, quota.window) == (100, 7, 21600)
