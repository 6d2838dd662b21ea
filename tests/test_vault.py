"""The vault: what was stored is what is read, by nobody else, and after anything that can happen to a file."""

from __future__ import annotations

import base64
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import SecretError
from sensor.vault import (
    KEY_FILE_VARIABLE,
    KEY_VARIABLE,
    VAULT_VARIABLE,
    Vault,
    key_beside_data,
    lax,
    new_key,
    open_vault,
    seal,
    unseal,
    write_new_key,
)

KEY = bytes(range(32))
OTHER = bytes(32)
SEALED = seal({}, KEY)
NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "vault-key"
    write_new_key(path)
    return path


def environment(home: Path, key_file: Path) -> dict[str, str]:
    return {VAULT_VARIABLE: str(home / "secrets.vault"), KEY_FILE_VARIABLE: str(key_file)}


def opened(environ: dict[str, str]) -> Vault:
    vault = open_vault(environ)
    assert vault is not None
    return vault


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(TEXTS, TEXTS, max_size=10))
def test_what_is_sealed_is_unsealed(entries: dict[str, str]) -> None:
    sealed = seal(entries, KEY)
    assert unseal(sealed, (OTHER, KEY), Path("v")) == entries
    assert all(name.encode() not in sealed for name in entries if len(name.encode()) > 3)


def test_no_two_writes_look_alike() -> None:
    first, second = seal({"a": "b"}, KEY), seal({"a": "b"}, KEY)
    assert first[8:40] != second[8:40]
    assert first[56:68] != second[56:68]
    assert first[68:] != second[68:]


def test_a_change_of_any_byte_is_noticed() -> None:
    sealed = seal({"prod": "hunter2"}, KEY)
    for place in range(len(sealed)):
        for bit in (0x01, 0x80):
            damaged = bytearray(sealed)
            damaged[place] ^= bit
            with pytest.raises(SecretError) as caught:
                unseal(bytes(damaged), (KEY,), Path("v"))
            assert caught.value.advice
            assert "hunter2" not in str(caught.value)


def test_a_vault_cut_short_or_grown_is_noticed() -> None:
    sealed = seal({"prod": "hunter2"}, KEY)
    for size in range(len(sealed)):
        with pytest.raises(SecretError):
            unseal(sealed[:size], (KEY,), Path("v"))
    with pytest.raises(SecretError, match="is damaged"):
        unseal(sealed + b"\0", (KEY,), Path("v"))


@pytest.mark.parametrize(
    ("data", "keys", "message"),
    [
        (b"", (KEY,), "is not a vault"),
        (b"{}" * 100, (KEY,), "is not a vault"),
        (b"HGVAULT2" + seal({}, KEY)[8:], (KEY,), "a format that this version does not know"),
        (seal({}, KEY), (OTHER,), "cannot be opened with this key"),
        (SEALED[:-1] + bytes([SEALED[-1] ^ 1]), (KEY,), "is damaged"),
    ],
    ids=["empty", "another file", "newer", "other key", "damaged"],  # the bytes differ from run to run
)
def test_each_trouble_has_its_own_words(data: bytes, keys: tuple[bytes, ...], message: str) -> None:
    with pytest.raises(SecretError, match=message):
        unseal(data, keys, Path("v"))


def test_entries_are_stored_listed_and_deleted(home: Path, key_file: Path) -> None:
    environ = environment(home, key_file)
    vault = opened(environ)
    assert vault.names() == ()
    assert vault.get("prod") == ""
    vault.set("prod", "hunter2")
    vault.set("api", "naïve\n")
    vault.set("prod", "hunter3")
    again = opened(environ)
    assert again.names() == ("api", "prod")
    assert (again.get("prod"), again.get("api")) == ("hunter3", "naïve\n")
    again.delete("api")
    assert vault.names() == ("prod",)
    with pytest.raises(SecretError, match="there is no entry 'api'"):
        vault.delete("api")
    assert b"hunter" not in (home / "secrets.vault").read_bytes()
    assert "hunter" not in repr(vault)


def test_only_the_owner_can_read_what_is_written(home: Path, key_file: Path) -> None:
    vault = opened(environment(home, key_file))
    before = os.umask(0)
    try:
        vault.set("prod", "hunter2")
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {
        "secrets.vault": 0o600,
        "secrets.vault.lock": 0o600,
    }
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_what_root_writes_belongs_to_the_directorys_owner(home: Path, key_file: Path) -> None:
    owner = NOBODY if os.geteuid() == 0 else os.geteuid()  # only root can give files away
    os.chown(home, owner, -1)
    opened(environment(home, key_file)).set("prod", "hunter2")
    assert {path.stat().st_uid for path in home.iterdir()} == {owner}


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"])
def test_names_that_nobody_could_type(home: Path, key_file: Path, name: str) -> None:
    with pytest.raises(SecretError, match="1 to 200 printable"):
        opened(environment(home, key_file)).set(name, "hunter2")


def test_bounds(home: Path, key_file: Path) -> None:
    vault = opened(environment(home, key_file))
    with pytest.raises(SecretError, match="longer than 256 KiB"):
        vault.set("prod", "x" * (256 * 1024 + 1))
    for number in range(31):
        vault.set(str(number), "x" * 256 * 1024)
    with pytest.raises(SecretError, match="larger than 8 MiB"):
        vault.set("one more", "x" * 256 * 1024)
    assert len(vault.names()) == 31
    (home / "secrets.vault").write_bytes(bytes(8 * 1024 * 1024 + 1))
    with pytest.raises(SecretError, match="too large to be a vault"):
        vault.names()


# --- keys -------------------------------------------------------------------------------------------------------------------------


def test_without_the_variable_there_is_no_vault(key_file: Path) -> None:
    assert open_vault({KEY_FILE_VARIABLE: str(key_file)}) is None


def test_the_key_may_be_a_file_a_credential_or_a_variable(home: Path, key_file: Path, tmp_path: Path) -> None:
    text = key_file.read_text()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "vault-key").write_text(text)
    (credentials / "vault-key").chmod(0o400)
    vault = {VAULT_VARIABLE: str(home / "secrets.vault")}
    opened({**vault, KEY_FILE_VARIABLE: str(key_file)}).set("prod", "hunter2")
    assert opened({**vault, "CREDENTIALS_DIRECTORY": str(credentials)}).get("prod") == "hunter2"
    assert opened({**vault, KEY_VARIABLE: text.strip()}).get("prod") == "hunter2"
    # what is named goes before what lies about
    wrong = opened({**vault, KEY_VARIABLE: new_key(), "CREDENTIALS_DIRECTORY": str(credentials)})
    with pytest.raises(SecretError, match="cannot be opened with this key"):
        wrong.get("prod")
    with pytest.raises(SecretError, match="cannot be opened with this key"):
        wrong.set("prod", "lost")
    assert opened({**vault, KEY_VARIABLE: text}).get("prod") == "hunter2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no key in"),
        ("hunter2", "is no key of a vault"),
        ("pass phrase", "is no key of a vault"),
        (base64.b64encode(bytes(31)).decode(), "is no key of a vault"),
        ("é" * 44, "is no key of a vault"),
        ("A" * 5000, "too large to be a key"),
    ],
)
def test_what_is_no_key_is_not_repeated(home: Path, key_file: Path, text: str, message: str) -> None:
    key_file.write_text(text)
    with pytest.raises(SecretError, match=message) as caught:
        open_vault(environment(home, key_file))
    assert not text or text not in str(caught.value)
    assert caught.value.advice


def test_no_key_at_all_says_where_it_could_be(home: Path) -> None:
    with pytest.raises(SecretError, match="has no key") as caught:
        open_vault({VAULT_VARIABLE: str(home / "secrets.vault"), "CREDENTIALS_DIRECTORY": str(home)})
    assert all(word in caught.value.advice for word in (KEY_FILE_VARIABLE, KEY_VARIABLE, "vault-key", "secret new-key"))


def test_a_key_file_that_is_not_there(home: Path, key_file: Path) -> None:
    key_file.unlink()
    with pytest.raises(SecretError, match="No such file"):
        open_vault(environment(home, key_file))


def test_a_new_key_never_replaces_one(key_file: Path) -> None:
    before = key_file.read_text()
    with pytest.raises(SecretError, match="File exists"):
        write_new_key(key_file)
    assert key_file.read_text() == before


def test_the_key_is_changed_without_a_gap(home: Path, key_file: Path) -> None:
    environ = environment(home, key_file)
    opened(environ).set("prod", "hunter2")
    old = key_file.read_text()
    new = new_key() + "\n"
    key_file.write_text(new + old)
    both = opened(environ)
    assert both.get("prod") == "hunter2"
    assert both.rekey() == 1
    key_file.write_text(new)
    assert opened(environ).get("prod") == "hunter2"
    key_file.write_text(old)
    with pytest.raises(SecretError, match="cannot be opened"):
        opened(environ).get("prod")


# --- places and rights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["vault-key", "deeper/vault-key"])
def test_a_key_beside_the_data_is_refused(home: Path, key_file: Path, place: str) -> None:
    target = home / place
    target.parent.mkdir(exist_ok=True)
    target.write_text(key_file.read_text())
    target.chmod(0o600)
    with pytest.raises(SecretError, match="lies beside the data") as caught:
        open_vault(environment(home, target))
    assert "credential" in caught.value.advice


def test_links_do_not_hide_that_a_key_is_beside_the_data(home: Path, key_file: Path, tmp_path: Path) -> None:
    inside = home / "vault-key"
    inside.write_text(key_file.read_text())
    inside.chmod(0o600)
    away = tmp_path / "etc" / "link"
    away.symlink_to(inside)
    with pytest.raises(SecretError, match="lies beside the data"):
        open_vault(environment(home, away))
    other = tmp_path / "other"
    other.symlink_to(home)
    with pytest.raises(SecretError, match="lies beside the data"):
        open_vault(environment(other, inside))


def test_no_key_below_any_state_directory(home: Path, key_file: Path, tmp_path: Path) -> None:
    environ = environment(home, key_file)
    with pytest.raises(SecretError, match="lies beside the data"):
        open_vault({**environ, "STATE_DIRECTORY": f"{tmp_path / 'x'}:{tmp_path / 'etc'}"})
    assert "lies beside the data" in key_beside_data(environ, tmp_path / "etc")
    assert key_beside_data(environ, home) == ""
    assert key_beside_data({KEY_FILE_VARIABLE: str(key_file)}, tmp_path / "etc") == ""
    assert key_beside_data({VAULT_VARIABLE: "/v", KEY_VARIABLE: "x"}, tmp_path) == ""


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_lax_modes_are_refused(home: Path, key_file: Path, mode: int) -> None:
    vault = opened(environment(home, key_file))
    vault.set("prod", "hunter2")
    vault.path.chmod(mode)
    with pytest.raises(SecretError, match=f"can be used by other users .*{mode:04o}"):
        vault.get("prod")
    key_file.chmod(mode)
    with pytest.raises(SecretError, match="can be used by other users") as caught:
        open_vault(environment(home, key_file))
    assert "chmod" in caught.value.advice


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_directory_in_which_others_write_is_refused(home: Path, key_file: Path, mode: int) -> None:
    home.chmod(mode)
    with pytest.raises(SecretError, match="other users may write in"):
        open_vault(environment(home, key_file))


@pytest.mark.parametrize(
    ("mode", "owner", "me", "is_key", "is_lax"),
    [
        (0o600, 1000, 1000, False, False),
        (0o400, 1000, 1000, True, False),
        (0o440, 1000, 1000, True, True),  # the owner needs no group to read it
        (0o440, 0, 1000, True, False),  # a Kubernetes secret with fsGroup, a systemd credential with its access list
        (0o440, 0, 1000, False, True),
        (0o460, 0, 1000, True, True),
        (0o444, 0, 1000, True, True),
        (0o440, 0, 0, True, True),
        (0o600, 1234, 1000, True, True),
        (0o600, 1234, 0, False, False),  # root looks after a service's vault
        (0o644, 1234, 0, False, True),
    ],
)
def test_who_may_lend_what_to_whom(mode: int, owner: int, me: int, is_key: bool, is_lax: bool) -> None:
    assert bool(lax(mode, owner, me, is_key=is_key)) is is_lax


def test_places_that_cannot_hold_a_vault(home: Path, key_file: Path, tmp_path: Path) -> None:
    key = {KEY_FILE_VARIABLE: str(key_file)}
    with pytest.raises(SecretError, match="not an absolute path"):
        open_vault({**key, VAULT_VARIABLE: "secrets.vault"})
    with pytest.raises(SecretError, match="cannot use the directory"):
        open_vault({**key, VAULT_VARIABLE: str(tmp_path / "missing" / "v")})
    (home / "dir").mkdir()
    vault = opened({**key, VAULT_VARIABLE: str(home / "dir")})
    with pytest.raises(SecretError, match="is not a file"):
        vault.get("prod")
    os.mkfifo(home / "pipe", 0o600)
    with pytest.raises(SecretError, match="is not a file"):
        opened({**key, VAULT_VARIABLE: str(home / "pipe")}).get("prod")


def test_a_lock_or_a_new_file_that_is_a_link_is_not_followed(home: Path, key_file: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    vault = opened(environment(home, key_file))
    (home / "secrets.vault.new").symlink_to(victim)
    vault.set("prod", "hunter2")
    assert victim.read_text() == "untouched"
    (home / "secrets.vault.lock").unlink()
    (home / "secrets.vault.lock").symlink_to(victim)
    with pytest.raises(SecretError, match="cannot write the vault"):
        vault.set("prod", "hunter3")
    assert vault.get("prod") == "hunter2"


# --- crashes and company ----------------------------------------------------------------------------------------------------------


def test_a_crash_between_writing_and_renaming_leaves_the_old_vault(home: Path, key_file: Path) -> None:
    vault = opened(environment(home, key_file))
    vault.set("prod", "hunter2")
    left = vault.stage(seal({"prod": "half"}, vault.keys[0]))
    assert left.exists()
    assert vault.get("prod") == "hunter2"
    left.write_bytes(b"torn")
    vault.set("api", "x")
    assert not left.exists()
    assert vault.names() == ("api", "prod")


WRITER = """
import os, sys
from sensor.vault import open_vault
first, count = int(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for number in range(first, first + count):
    open_vault(os.environ).set(f"n{number}", f"secret {number}")
    print(number, flush=True)
"""


def writer(environ: dict[str, str], first: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", WRITER, str(first), str(count)],
        env={**os.environ, **environ}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_writers_at_once_lose_nothing(home: Path, key_file: Path) -> None:
    environ = environment(home, key_file)
    writers = [writer(environ, 100 * number, 8) for number in range(4)]
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    vault = opened(environ)
    assert set(vault.names()) == {f"n{100 * writer + number}" for writer in range(4) for number in range(8)}
    assert vault.get("n307") == "secret 307"


@pytest.mark.parametrize("after", [1, 3, 6, 10])
def test_a_killed_writer_leaves_a_vault_with_all_it_had_reported(home: Path, key_file: Path, after: int) -> None:
    environ = environment(home, key_file)
    with writer(environ, 0, 100_000) as process:
        assert process.stdout is not None
        reported = [process.stdout.readline().strip() for _ in range(after)][1:]
        process.send_signal(signal.SIGKILL)
        reported += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait()
    vault = opened(environ)
    assert {f"n{number}" for number in reported} <= set(vault.names())
    assert len(vault.names()) - len(reported) in {0, 1}
    vault.set("after", "x")
    assert vault.get("after") == "x"
