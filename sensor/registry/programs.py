"""Credentials from other programs: docker's credential helpers, and plug-ins that speak the kubelet's exec protocol.

A program runs only if the configuration names it. It gets its question on stdin and answers JSON on stdout; what it says on stderr is
not shown, because nobody knows what is in there. Time and size are bounded. It inherits the environment without the sensor's own secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import math
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from sensor.config.logins import CredentialPlugin
from sensor.errors import SecretError
from sensor.registry.errors import inert
from sensor.registry.login import Basic, Credential
from sensor.secret import Secret, environment_for_others, remembered

_MOST_OUTPUT = 64 * 1024
_HELPER_SECONDS = 30.0
_API_VERSION = "credentialprovider.kubelet.k8s.io/v1"
_NOT_FOUND = "credentials not found"
"""How a helper says, on stdout, that it knows nothing of a host; that is an anonymous login, not a failure."""
IDENTITY_TOKEN = "<token>"  # noqa: S105 - a user name, not a password
"""The user name that says that the secret is an OAuth2 refresh token."""
_GO_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3}
_LEAST_CACHED, _MOST_CACHED = 60.0, 12 * 3600.0
"""kubelet asks once for a pull, the sensor would ask for every request: even an answer that is not to be kept is good for a minute."""


class _HelperAnswer(msgspec.Struct):
    Username: str = ""
    Secret: str = ""


class _PluginAuth(msgspec.Struct):
    username: str = ""
    password: str = ""


class _PluginAnswer(msgspec.Struct, rename="camel"):
    auth: dict[str, _PluginAuth] | None = None
    cache_duration: str = ""


async def run(
    command: Sequence[str], question: bytes, *, seconds: float, environment: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Run a program with a question on stdin; its exit status and what it wrote to stdout.

    Raises:
        SecretError: it cannot be started, takes too long, or writes too much.
    """
    try:
        process = await _start(command, {**environment_for_others(), **(environment or {})})
    except OSError as error:
        message = f"the program {command[0]} cannot be run: {error.strerror}"
        raise SecretError(message, "install it for the sensor's user, or take it out of the configuration") from error
    try:
        async with asyncio.timeout(seconds):
            assert process.stdin is not None  # noqa: S101 - for the type checker
            assert process.stdout is not None  # noqa: S101
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(question)
                await process.stdin.drain()
            process.stdin.close()
            answer = await process.stdout.read(_MOST_OUTPUT + 1)
            while len(answer) <= _MOST_OUTPUT and (more := await process.stdout.read(_MOST_OUTPUT)):
                answer += more
            if len(answer) > _MOST_OUTPUT:
                message = f"the program {command[0]} answered with more than {_MOST_OUTPUT // 1024} KiB"
                raise SecretError(message, "run it by hand and look at what it writes")
            return await process.wait(), answer
    except TimeoutError as error:
        message = f"the program {command[0]} did not answer within {seconds:g} s"
        raise SecretError(message, "run it by hand as the sensor's user; it may wait for somebody") from error
    finally:
        await _end(process)


async def _start(command: Sequence[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    """Start a program in a group of its own. Cancelled while it starts, asyncio would kill it alone, and wait for what it has started."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
            limit=_MOST_OUTPUT,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait([starting])
        if starting.exception() is None:
            await _end(starting.result())
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program that has not ended, with what it has started."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # what left the group may hold the pipes open for ever, and `wait` waits for them too
    process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way
    await process.wait()


async def ask_helper(name: str, server: str) -> tuple[str, Secret] | None:
    """User name and secret of a server, from `docker-credential-NAME get`; None when it has none.

    Raises:
        SecretError: the helper fails, or answers something else than a credential.
    """
    command = f"docker-credential-{name}"
    status, output = await run([command, "get"], server.encode(), seconds=_HELPER_SECONDS)
    if status != 0:
        said = inert(output.decode("utf-8", "replace"))
        if _NOT_FOUND in said.lower():
            return None
        message = (
            f"{command} failed for {server}: status {status}, {said}" if said else f"{command} failed for {server}"
        )
        raise SecretError(message, f"run `echo {server} | {command} get` as the sensor's user")
    try:
        answer = msgspec.json.decode(output, type=_HelperAnswer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{command} answered something else than a credential"
        raise SecretError(message, "update the helper") from error
    return (answer.Username, remembered(answer.Secret)) if answer.Secret else None


class PluginCredential:
    """What a kubelet credential provider plug-in says, for as long as it says so."""

    def __init__(self, plugin: CredentialPlugin, image: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`image` is what the plug-in is asked about: host[:port], with the namespace if there is one."""
        self._plugin = plugin
        self._image = image
        self._clock = clock
        self.missing = ""
        """Why the plug-in's answer holds no credential for the image."""
        self._credential: Credential | None = None
        self._until = -math.inf
        self._asking = asyncio.Lock()

    async def credential(self, *, renew: bool) -> Credential | None:
        """The plug-in's credential for the image; None when it has none.

        Raises:
            SecretError: the plug-in fails, or answers something else than the protocol has.
        """
        async with self._asking:
            if renew or self._clock() >= self._until:
                self._credential, seconds = await self._ask()
                self._until = self._clock() + seconds
            return self._credential

    async def _ask(self) -> tuple[Credential | None, float]:
        plugin = self._plugin
        request = {"apiVersion": _API_VERSION, "kind": "CredentialProviderRequest", "image": self._image}
        status, output = await run(
            [plugin.command, *plugin.args],
            msgspec.json.encode(request),
            seconds=plugin.timeout,
            environment=plugin.env,
        )
        if status != 0:
            message = f"the credential plug-in {plugin.command} failed with status {status}"
            raise SecretError(
                message, "run it by hand with a CredentialProviderRequest on stdin; its own log says more"
            )
        try:
            answer = msgspec.json.decode(output, type=_PluginAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"the credential plug-in {plugin.command} answered no CredentialProviderResponse"
            raise SecretError(message, f"it must speak {_API_VERSION}") from error
        seconds = min(max(go_duration(answer.cache_duration), _LEAST_CACHED), _MOST_CACHED)
        found = best_match(answer.auth or {}, self._image)
        self.missing = ""
        if found is None:
            others = (
                f" (only for {', '.join(inert(key[:100]) for key in list(answer.auth)[:5])})" if answer.auth else ""
            )
            self.missing = f"the credential plug-in {plugin.command} gives no credential for {self._image}{others}"
            return None, seconds
        return Basic(username=found.username, password=remembered(found.password)), seconds


def best_match(entries: Mapping[str, _PluginAuth], image: str) -> _PluginAuth | None:
    """The entry whose key fits an image best: `*.dkr.ecr.*.amazonaws.com`, `registry.example:5000/team` (KEP-2133).

    Each label of a host may be a pattern, but none reaches over a dot; ports must be the same; a path is a prefix. The longest key wins.
    """
    host, _, path = image.partition("/")
    name, _, port = host.partition(":")
    fitting = []
    for key in entries:
        wanted_host, _, wanted_path = key.removeprefix("https://").removeprefix("http://").partition("/")
        wanted_name, _, wanted_port = wanted_host.partition(":")
        labels, wanted = name.split("."), wanted_name.split(".")
        same = len(labels) == len(wanted) and all(map(fnmatch.fnmatchcase, labels, wanted))
        if same and wanted_port == port and f"{path}/".startswith(f"{wanted_path.rstrip('/')}/" if wanted_path else ""):
            fitting.append(key)
    return entries[max(fitting, key=len)] if fitting else None


def go_duration(text: str) -> float:
    """Seconds of a Go duration such as `1h30m0s`; 0 when there is none."""
    parts = _GO_DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return 0.0
    return sum(float(number) * _GO_UNITS[unit] for number, unit in parts)
