"""Providers that turn on their clients, a stranger who listens, and what is secret in a login.

class Evil(twisted(QuayFake)): ...
async with twisted(QuayFake)(tmp_path) as fake, Stranger() as stranger:
    fake.instead = lambda server, request: redirect(stranger.url) ...
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote_plus

from aiohttp import web

from sensor.config.fields import secrets_of
from sensor.secret import read_secret
from tests.fakes.registries.provider import Login, Mistake, ProviderFake, Seen

STATUSES = (401, 403, 400, 500, 404)
"""What `repeating` refuses with, by turns."""
SHORTEST = 6
"""Shorter secrets of the fakes look like words."""
Instead = Callable[[str, web.Request], web.StreamResponse | None]
After = Callable[[str, web.Request, web.StreamResponse], web.StreamResponse]


class Twisted(ProviderFake):
    """What `twisted` makes: `instead` may answer before the provider does, `after` may change what it says."""

    instead: Instead | None = None
    after: After | None = None
    stranger: Stranger | None = None


def twisted(fake_type: type[ProviderFake]) -> type[Twisted]:
    """The provider, on all of its servers under the attacker's control."""

    class Hostile(fake_type, Twisted):  # type: ignore[valid-type, misc]
        async def listen(self, server: str, handler: Any, ssl_context: Any = None) -> None:
            async def answer(request: web.Request) -> web.StreamResponse:
                await request.read()  # whoever answers before that breaks the connection
                if self.stranger is not None and request.host == self.stranger.address:  # by the proxy
                    return await self.stranger.answer(request)
                place = place_of(server, request.host)
                if self.instead is not None and (given := self.instead(place, request)) is not None:
                    return given
                response: web.StreamResponse = await handler(request)
                return response if self.after is None else self.after(place, request, response)

            await super().listen(server, answer, ssl_context)

    return Hostile


def place_of(server: str, host: str) -> str:
    """The server that is meant; public ECR's stand behind one proxy."""
    if server != "proxy":
        return server
    return {"public.ecr.aws": "registry", "api.invalid": "api", "d5l0dvt14r5h8.cloudfront.net": "storage"}.get(
        host, "sts"
    )


class Stranger:
    """A server under another host name than the fakes', which answers everything with what might please."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self.answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    @property
    def address(self) -> str:
        """localhost:port."""
        assert self._runner is not None
        return f"localhost:{self._runner.addresses[0][1]}"

    @property
    def url(self) -> str:
        """http://localhost:port."""
        return f"http://{self.address}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Remember a request."""
        self.seen.append(
            Seen(
                server="stranger",
                method=request.method,
                path=request.raw_path,
                authorization=request.headers.get("Authorization", ""),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=await request.read(),
            )
        )
        return web.json_response({"token": "of-the-stranger", "repositories": [], "tags": [], "results": []})


# -- who repeats what it was shown -----------------------------------------------------------------------------------------------


def echo(request: web.Request, body: bytes) -> str:
    """All that somebody could repeat of a request."""
    seen = Seen(
        server="",
        method="",
        path="",
        authorization="",
        headers={k.lower(): v for k, v in request.headers.items()},
        body=body,
    )
    parts = list(texts_of(seen))
    return " ".join((*parts, *(base64.b64encode(part.encode()).decode() for part in parts)))


def repeating(statuses: tuple[int, ...] = STATUSES) -> After:
    """Refuses whoever shows anything, in all statuses and shapes by turns, and repeats what was shown."""
    turns = itertools.count()

    def after(_server: str, request: web.Request, _response: web.StreamResponse) -> web.StreamResponse:
        body: bytes = request._read_bytes or b""
        turn = next(turns)
        text, status = echo(request, body), statuses[turn % len(statuses)]
        error = {"code": "DENIED", "message": text, "detail": text}
        shapes: tuple[Any, ...] = (
            {"errors": [error]},
            {
                "__type": "AccessDeniedException",
                **dict.fromkeys(("message", "details", "detail", "error_description"), text),
                "error": text,
            },
            {"error": {**error, "status": "PERMISSION_DENIED"}},
            f"not with {text}",
            f"<ErrorResponse><Error><Code>AccessDenied</Code><Message>{text}</Message></Error></ErrorResponse>",
        )
        shape = shapes[turn // 2 % len(shapes)]
        headers = {"docker-ratelimit-source": text[:200], "ratelimit-limit": "5;w=60", "ratelimit-remaining": "0;w=60"}
        if status == 401:
            token = request.headers.get("Authorization", "").partition(" ")[2]
            headers["WWW-Authenticate"] = f'Basic realm="fake",error="{token}"'
        if isinstance(shape, str):
            return web.Response(status=status, text=shape, headers=headers)
        return web.Response(status=status, text=json.dumps(shape), content_type="application/json", headers=headers)

    return after


# -- what is secret ------------------------------------------------------------------------------------------------------------


def configured_secrets(fake: ProviderFake, login: Login | Mistake) -> dict[str, str]:
    """Secret to the key or variable that holds it, for everything in a login's settings, environment and files."""
    found = {
        read_secret(source).reveal(): ".".join(map(str, path)) for path, source in secrets_of(fake.settings(login))
    }
    for name, value in login.env.items():
        if name.endswith(("_SECRET_ACCESS_KEY", "_HEADER", "_AUTHORIZATION_TOKEN", "_SESSION_TOKEN")):
            found[value] = name
        if name.endswith(("_FILE", "_CREDENTIALS")) and value.startswith("/") and Path(value).is_file():
            found[Path(value).read_text()] = name
    return {secret.rstrip("\n"): where for secret, where in found.items() if len(secret) >= SHORTEST}


def issued_secrets(fake: Any) -> dict[str, str]:
    """Secret to its sort, for all that the fake, its clouds and its API have given out."""
    found = dict.fromkeys(fake._issued, "issued token")
    found |= dict.fromkeys(getattr(fake, "tokens", ()), "issued token")
    found |= dict.fromkeys(getattr(fake, "passwords", ()), "ecr password")
    found |= dict.fromkeys(getattr(fake, "_hub_tokens", ()), "hub token")
    found |= dict.fromkeys(getattr(fake, "_installation_tokens", ()), "installation token")
    if (cloud := getattr(fake, "cloud", None)) is not None:
        found |= dict.fromkeys(cloud.issued, "entra token")
    if (google := getattr(fake, "google", None)) is not None:
        found |= dict.fromkeys(google._issued, "google token")
    if (iam := getattr(fake, "iam", None)) is not None:
        found |= {key.secret: "aws secret" for key in iam.keys.values()}
        found |= {key.token: "aws session" for key in iam.keys.values() if key.token}
    return found


@functools.cache
def pieces(secret: str) -> tuple[str, ...]:
    """What must not be found anywhere: the secret, a piece of a long one, the base64 of both, and how they are in JSON."""
    middle = len(secret) // 2
    parts = [secret, *([secret[middle : middle + 40]] if len(secret) > 200 else [])]
    encoded = (base64.b64encode(part.encode()).decode().rstrip("=") for part in parts)
    return tuple(dict.fromkeys((*parts, *encoded, *(json.dumps(part)[1:-1] for part in parts))))


def held(text: str, secrets: Mapping[str, str]) -> list[str]:
    """The secrets (by what they are) that a text holds."""
    return [
        f"{what}: {secret[:60]}" for secret, what in secrets.items() if any(piece in text for piece in pieces(secret))
    ]


def texts_of(seen: Seen) -> Iterator[str]:
    """Everything in a request behind its path, decoded as far as it can be."""
    for value in seen.headers.values():
        yield value
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "basic":
            yield base64.b64decode(rest).decode()
    body = seen.body.decode("utf-8", "replace")
    yield body
    yield unquote_plus(body)
