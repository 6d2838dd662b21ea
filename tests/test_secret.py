import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

from sensor.errors import SecretError
from sensor.secret import (
    FromEnv,
    FromFile,
    FromKeyring,
    InPlace,
    Secret,
    delete_from_keyring,
    describe_source,
    is_private_file,
    read_secret,
    remembered,
    store_in_keyring,
    without_secrets,
)
from sensor.vault import KEY_FILE_VARIABLE, VAULT_VARIABLE, write_new_key

HIDDEN = "hunter2"


class MemoryKeyring(KeyringBackend):
    """A keyring that lives in a dictionary and can be locked."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False

    def _open(self) -> None:
        if self.locked:
            raise KeyringLocked("the collection is locked")

    def get_password(self, service: str, username: str) -> str | None:
        self._open()
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._open()
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._open()
        if (service, username) not in self.entries:
            raise PasswordDeleteError("not found")
        del self.entries[service, username]


@pytest.fixture
def ring() -> Iterator[MemoryKeyring]:
    before, backend = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_a_secret_cannot_be_printed() -> None:
    secret = Secret(HIDDEN)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>20}",
        f"{[secret]} {InPlace(secret)}",
        repr({"k": secret}),
    ]
    assert all(HIDDEN not in text and "***" in text for text in shown)
    assert secret.reveal() == HIDDEN


def test_a_secret_cannot_be_pickled_but_copied() -> None:
    secret = Secret(HIDDEN)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    assert copy.deepcopy({"a": secret})["a"] is secret
    assert copy.copy(secret) is secret


def test_secrets_compare_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("\udcff") == Secret("\udcff")  # bytes of an environment variable that are no text
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret("")
    assert Secret("a")


def test_a_keyring_entry_is_stored_read_and_deleted(ring: MemoryKeyring) -> None:
    store_in_keyring("prod", Secret(HIDDEN))
    assert ring.entries == {("harborguard-sensor", "prod"): HIDDEN}
    assert read_secret(FromKeyring("prod")) == Secret(HIDDEN)
    delete_from_keyring("prod")
    with pytest.raises(SecretError, match="no secret in keyring entry 'prod'"):
        read_secret(FromKeyring("prod"))
    with pytest.raises(SecretError, match="keyring entry 'prod' cannot be deleted"):
        delete_from_keyring("prod")


def test_a_locked_keyring_is_told(ring: MemoryKeyring) -> None:
    ring.locked = True
    with pytest.raises(SecretError, match="the keyring cannot be read") as read:
        read_secret(FromKeyring("prod"))
    assert "{file: ...}" in read.value.advice
    with pytest.raises(SecretError, match="the keyring cannot be written") as written:
        store_in_keyring("prod", Secret(HIDDEN))
    assert HIDDEN not in str(written.value)
    with pytest.raises(SecretError, match="cannot be deleted"):
        delete_from_keyring("prod")


def test_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSOR_TEST_SECRET", HIDDEN)
    assert read_secret(FromEnv("SENSOR_TEST_SECRET")).reveal() == HIDDEN
    monkeypatch.setenv("SENSOR_TEST_SECRET", "")
    with pytest.raises(SecretError, match="environment variable SENSOR_TEST_SECRET is empty"):
        read_secret(FromEnv("SENSOR_TEST_SECRET"))


@pytest.mark.parametrize(
    ("content", "secret"),
    [(b"hunter2\n", "hunter2"), (b"hunter2\r\n", "hunter2"), (b" a b \n", " a b "), (b"a\nb\n", "a\nb")],
)
def test_a_file_loses_its_last_line_break_only(tmp_path: Path, content: bytes, secret: str) -> None:
    file = tmp_path / "s"
    file.write_bytes(content)
    assert read_secret(FromFile(str(file))).reveal() == secret


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file .* is empty"),
        (b"\n", "file .* is empty"),
        (b"\xff\xfe", "is not text"),
        (b"x" * (256 * 1024 + 1), "larger than 256 KiB"),
    ],
)
def test_files_that_hold_no_secret(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "s"
    file.write_bytes(content)
    with pytest.raises(SecretError, match=message):
        read_secret(FromFile(str(file)))


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("old")
    assert read_secret(FromFile(str(file))).reveal() == "old"
    file.write_text("new")
    assert read_secret(FromFile(str(file))).reveal() == "new"


@pytest.mark.parametrize(
    ("name", "message"), [("missing", "No such file"), (".", "Is a directory"), ("a\0b", "not a path")]
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SecretError, match=message) as caught:
        read_secret(FromFile(f"{tmp_path}/{name}"))
    assert caught.value.advice


def test_a_bare_name_is_a_systemd_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "api-key").write_text(HIDDEN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_secret(FromFile("api-key")).reveal() == HIDDEN
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    monkeypatch.chdir(tmp_path)
    assert read_secret(FromFile("api-key")).reveal() == HIDDEN


def test_a_literal_and_the_descriptions() -> None:
    literal = InPlace(Secret(HIDDEN))
    assert read_secret(literal).reveal() == HIDDEN
    sources = (FromKeyring("a"), FromEnv("B"), FromFile("/c"), literal)
    assert [describe_source(source) for source in sources] == [
        "keyring entry 'a'", "environment variable B", "file /c", "the configuration file",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "private"), [(0o600, True), (0o400, True), (0o640, False), (0o604, False), (0o660, False)]
)
def test_private_files(tmp_path: Path, mode: int, private: bool) -> None:
    file = tmp_path / "c"
    file.touch()
    file.chmod(mode)
    assert is_private_file(file) is private


@pytest.fixture
def vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A vault that the environment names, and its key elsewhere."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "etc").mkdir()
    key = tmp_path / "etc" / "vault-key"
    write_new_key(key)
    path = tmp_path / "state" / "secrets.vault"
    monkeypatch.setenv(VAULT_VARIABLE, str(path))
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(key))
    return path


def test_where_there_is_a_vault_it_is_the_keyring(ring: MemoryKeyring, vault: Path) -> None:
    store_in_keyring("prod", Secret(HIDDEN))
    assert ring.entries == {}
    assert vault.is_file()
    assert read_secret(FromKeyring("prod")) == Secret(HIDDEN)
    delete_from_keyring("prod")
    with pytest.raises(SecretError, match="no secret in keyring entry 'prod'"):
        read_secret(FromKeyring("prod"))
    with pytest.raises(SecretError, match="there is no entry 'prod'"):
        delete_from_keyring("prod")


def test_a_vault_that_cannot_be_opened_does_not_fall_back(
    ring: MemoryKeyring, vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring.entries["harborguard-sensor", "prod"] = HIDDEN
    monkeypatch.delenv(KEY_FILE_VARIABLE)
    for use in (
        lambda: read_secret(FromKeyring("prod")),
        lambda: store_in_keyring("prod", Secret("x")),
        lambda: delete_from_keyring("prod"),
    ):
        with pytest.raises(SecretError, match="has no key"):
            use()
    assert ring.entries


@pytest.mark.parametrize(
    "secret", ["correct horse/battery+staple?", 'quote"and\\slash', "zürich-1234", "  padded secret  ", "12345678"]
)
def test_what_was_read_is_masked_wherever_it_stands(tmp_path: Path, secret: str) -> None:
    file = tmp_path / "s"
    file.write_text(secret)
    assert read_secret(FromFile(str(file))).reveal() == secret
    shown = without_secrets(
        f"before {secret.strip()} after https://h/?q={quote(secret.strip(), safe='')} {json.dumps([secret])}"
    )
    assert shown.startswith("before *** after https://h/?q=*** ")
    assert secret.strip() not in shown
    assert json.dumps(secret.strip())[1:-1] not in shown


def test_each_line_of_a_key_is_masked(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("-----BEGIN PRIVATE KEY-----\nQUJDREVGR0hJSktMTU5PUFFS\nc2hvcnQ=\n-----END PRIVATE KEY-----\n")
    read_secret(FromFile(str(file)))
    assert without_secrets("x QUJDREVGR0hJSktMTU5PUFFS y") == "x *** y"
    assert without_secrets("-----BEGIN PRIVATE KEY-----") == "-----BEGIN PRIVATE KEY-----"


def test_a_short_secret_is_not_looked_for(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("docker")
    read_secret(FromFile(str(file)))
    assert without_secrets("docker.io answers") == "docker.io answers"


def test_of_two_secrets_the_longer_one_is_masked_whole(tmp_path: Path) -> None:
    for text in ("abcdefgh-beginning", "abcdefgh-beginning-and-more"):
        (tmp_path / "s").write_text(text)
        read_secret(FromFile(str(tmp_path / "s")))
    assert without_secrets("<abcdefgh-beginning-and-more>") == "<***>"


def test_what_is_remembered_is_bounded() -> None:
    for number in range(2100):
        assert remembered(f"secret-number-{number:04}").reveal().endswith(str(number))
    assert without_secrets("secret-number-2099") == "***"
    assert without_secrets("secret-number-0001") == "secret-number-0001"
