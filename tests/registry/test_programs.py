"""Programs that give credentials: what is asked, what is taken from the answer, and what happens when they misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.config.logins import CredentialPlugin
from sensor.errors import SecretError
from sensor.registry.login import Basic
from sensor.registry.programs import PluginCredential, _PluginAuth, ask_helper, best_match, go_duration, run
from sensor.secret import FromEnv, Secret
from tests.fakes.programs import is_over, script


async def test_a_program_gets_its_question_and_its_environment(tmp_path: Path) -> None:
    program = script(tmp_path / "echo", 'printf "%s %s %s" "$1" "$EXTRA" "$(cat)"; echo noise >&2; exit 3')
    status, output = await run([str(program), "get"], b"question", seconds=10, environment={"EXTRA": "more"})
    assert (status, output) == (3, b"get more question")


async def test_a_program_inherits_none_of_the_sensors_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HG_API_KEY", "HARBORGUARD_API_KEY", "TEAM_REGISTRY_SECRET", "HELPER_SETTING"):
        monkeypatch.setenv(name, f"value of {name}")
    source = FromEnv("TEAM_REGISTRY_SECRET")
    program = script(tmp_path / "env", "env")
    _, output = await run([str(program)], b"", seconds=10, environment={"HG_GIVEN": "by the operator"})
    given = dict(line.split("=", 1) for line in output.decode().splitlines() if "=" in line)
    assert given["HELPER_SETTING"] == "value of HELPER_SETTING"
    assert given["HG_GIVEN"] == "by the operator"
    assert given["PATH"] == os.environ["PATH"]
    assert not {"HG_API_KEY", "HARBORGUARD_API_KEY", source.name} & set(given)


async def test_a_program_that_reads_nothing_is_no_failure(tmp_path: Path) -> None:
    program = script(tmp_path / "deaf", "exec 0<&-; echo done")
    assert await run([str(program)], b"x" * 1_000_000, seconds=10) == (0, b"done\n")


async def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = script(tmp_path / "hang", f"echo $$ > {pid}; exec sleep 100")
    began = time.monotonic()
    with pytest.raises(SecretError, match=r"did not answer within 0\.3 s"):
        await run([str(program)], b"", seconds=0.3)
    assert time.monotonic() - began < 10
    if pid.exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


async def test_what_a_program_has_started_ends_with_it(tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    program = script(tmp_path / "parent", f"sleep 100 & echo $! > {told}; wait")
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        running = group.create_task(run([str(program)], b"", seconds=60))
        started = int(await asyncio.to_thread(told.read_text))
        assert is_over(started, seconds=0) is False
        running.cancel()
    assert is_over(started, seconds=10)


@pytest.mark.parametrize("steps", range(12))
async def test_whenever_it_is_stopped_nothing_is_left(steps: int, tmp_path: Path) -> None:
    """Cancelled after so many turns of the event loop: before the program runs, while its pipes are made, and after."""
    os.mkfifo(tmp_path / "told")
    (tmp_path / "file").touch()
    program = script(tmp_path / "parent", f"tail -f {tmp_path / 'file'} & echo > {tmp_path / 'told'}; wait")
    running = asyncio.ensure_future(run([str(program)], b"", seconds=60))
    for _ in range(steps):
        await asyncio.sleep(0)
    let_it_start_another(tmp_path)
    await stopped(running)
    until = time.monotonic() + 10
    while left := processes_about(tmp_path):
        assert time.monotonic() < until, left


def let_it_start_another(path: Path) -> None:
    """Where the program runs already, let it get on while the event loop stands still."""
    if processes_about(path):
        (path / "told").read_text()


async def stopped(running: asyncio.Task[Any]) -> None:
    """Stop it, and see it end: long before what the programs here wait for."""
    running.cancel()
    await asyncio.wait([running], timeout=30)
    assert running.cancelled()


def processes_about(path: Path) -> list[str]:
    """The command lines that name a path."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(file.read_text(errors="replace"))
    return [words for words in found if str(path) in words]


async def test_what_a_program_left_behind_holds_nobody_up(tmp_path: Path) -> None:
    """It has left the group, so it is not killed, and has the program's output open."""
    told = tmp_path / "told"
    os.mkfifo(told)
    program = script(tmp_path / "daemon", f"setsid sh -c 'echo $$ > {told}; exec sleep 100' & wait")
    running = asyncio.ensure_future(run([str(program)], b"", seconds=60))
    left = int(await asyncio.to_thread(told.read_text))
    try:
        await stopped(running)
        assert is_over(left, seconds=0) is False
    finally:
        os.kill(left, signal.SIGKILL)


async def test_a_program_that_talks_without_end_is_ended(tmp_path: Path) -> None:
    program = script(tmp_path / "loud", "exec yes secret")
    with pytest.raises(SecretError, match="more than 64 KiB") as refused:
        await run([str(program)], b"", seconds=10)
    assert "secret" not in str(refused.value)


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="cannot be run"):
        await run([str(tmp_path / "none")], b"", seconds=10)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("echo the vault is sealed; exit 2", "the vault is sealed"),
        ("exit 1", "failed for r.example"),
        ("echo hello", "something else"),
        ("echo '[1]'", "something else"),
    ],
)
async def test_a_helper_that_fails_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    script(tmp_path / "docker-credential-mine", body)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SecretError, match=says):
        await ask_helper("mine", "r.example")


async def test_a_helper_without_a_secret_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "docker-credential-mine", "echo '{}'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert await ask_helper("mine", "r.example") is None


# -- plug-ins ------------------------------------------------------------------------------------------------------------------


def plugin(path: Path, answer: dict[str, Any] | str, **more: Any) -> CredentialPlugin:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    program = script(path / "plugin", f"cat >> {path}/asked; echo >> {path}/asked; cat <<'X'\n{text}\nX")
    return CredentialPlugin.model_validate({"command": str(program), **more})


def response(auth: dict[str, Any] | None, duration: str = "1h0m0s") -> dict[str, Any]:
    return {
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "kind": "CredentialProviderResponse",
        "cacheKeyType": "Registry",
        "cacheDuration": duration,
        "auth": auth,
    }


async def test_a_plugin_is_asked_once_for_as_long_as_it_says(tmp_path: Path) -> None:
    asked = plugin(tmp_path, response({"*.example:5000": {"username": "u", "password": "p"}}))
    source = PluginCredential(asked, "r.example:5000/team")
    for _ in range(3):
        assert await source.credential(renew=False) == Basic(username="u", password=Secret("p"))
    assert await source.credential(renew=True) is not None
    lines = (tmp_path / "asked").read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0]) == {
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "kind": "CredentialProviderRequest",
        "image": "r.example:5000/team",
    }


@pytest.mark.parametrize("duration", ["", "0s"])
async def test_without_a_duration_a_plugin_is_not_asked_for_each_request(tmp_path: Path, duration: str) -> None:
    now = [1000.0]
    auth = {"r.example": {"username": "u", "password": "p"}}
    source = PluginCredential(plugin(tmp_path, response(auth, duration)), "r.example", clock=lambda: now[0])

    async def asked() -> int:
        assert await source.credential(renew=False) is not None
        return len((tmp_path / "asked").read_text().splitlines())

    assert [await asked(), await asked()] == [1, 1]
    now[0] += 60
    assert await asked() == 2


async def test_a_plugin_that_knows_nothing_of_the_registry_means_anonymous(tmp_path: Path) -> None:
    assert await PluginCredential(plugin(tmp_path, response(None)), "r.example").credential(renew=False) is None


@pytest.mark.parametrize("answer", ["", "[]", "null", '{"auth": 5}'])
async def test_a_plugin_that_answers_nonsense(tmp_path: Path, answer: str) -> None:
    with pytest.raises(SecretError, match="CredentialProviderResponse"):
        await PluginCredential(plugin(tmp_path, answer), "r.example").credential(renew=False)


async def test_a_plugin_that_fails(tmp_path: Path) -> None:
    program = script(tmp_path / "plugin", "echo top-secret >&2; exit 7")
    with pytest.raises(SecretError, match="status 7") as refused:
        await PluginCredential(CredentialPlugin(command=str(program)), "r.example").credential(renew=False)
    assert "top-secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "ecr"),
        ("r.example:5000/team/app", "team"),
        ("r.example:5000/teams", "port"),
        ("r.example", "plain"),
        ("a.r.example", None),
        ("example", None),
        ("r.example:5001", None),
    ],
)
def test_which_entry_fits(image: str, name: str | None) -> None:
    keys = {
        "*.dkr.ecr.*.amazonaws.com": "ecr",
        "r.example:5000": "port",
        "https://r.example:5000/team": "team",
        "r.example": "plain",
    }
    entries = {key: _PluginAuth(username=value) for key, value in keys.items()}
    found = best_match(entries, image)
    assert (found.username if found else None) == name


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_key_and_image_are_taken(key: str, image: str) -> None:
    found = best_match({key: _PluginAuth(username="x")}, image)
    assert found is None or found.username == "x"
    assert go_duration(key) >= 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h0m0s", 43200), ("1h30m", 5400), ("1.5s", 1.5), ("300ms", 0.3), ("", 0), ("1", 0), ("x1h", 0), ("-1h", 0)]
)  # fmt: skip
def test_go_durations(text: str, seconds: float) -> None:
    assert go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("auth", "rest"),
    [(None, ""), ({}, ""), ({"other.example": {"username": "u", "password": "p"}}, " (only for other.example)")],
)
async def test_a_plugin_that_gives_nothing_is_named(tmp_path: Path, auth: dict[str, Any] | None, rest: str) -> None:
    asked = plugin(tmp_path, "{}" if auth is None else response(auth))
    source = PluginCredential(asked, "r.example/team")
    assert await source.credential(renew=False) is None
    assert source.missing == f"the credential plug-in {asked.command} gives no credential for r.example/team{rest}"
