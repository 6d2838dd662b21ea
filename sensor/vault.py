"""A keyring for machines without one: secrets in one encrypted file, whose key comes from somewhere else.

The file (format 1; the reasons are in docs/adr/0010-vault.md):

    offset  bytes
         0      8  HGVAULT1, the digit being the version
         8     32  salt, random, new at every write
        40     16  key check: HKDF-SHA256(key, salt, "harborguard-sensor vault check")
        56     12  nonce, random, new at every write
        68      n  AES-256-GCM of the JSON object {name: secret} under HKDF-SHA256(key, salt, "harborguard-sensor vault data"),
                   with the 68 bytes before it authenticated too, and the tag of 16 bytes at its end

Which file and which key is said by environment variables, so that nothing but this module needs to know. Leaves to `secret` what a secret is
and when one is asked for.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sensor.errors import SecretError

VAULT_VARIABLE = "HARBORGUARD_SENSOR_VAULT"
"""Path of the vault; where it is set, `{keyring: NAME}` means an entry of the vault."""
KEY_FILE_VARIABLE = "HARBORGUARD_SENSOR_VAULT_KEY_FILE"
KEY_VARIABLE = "HARBORGUARD_SENSOR_VAULT_KEY"
KEY_CREDENTIAL = "vault-key"
"""Name of the systemd credential with the key."""

_KEY_BYTES = 32
_MAGIC, _VERSION = b"HGVAULT", b"1"
_SALT, _CHECK, _NONCE, _TAG = 32, 16, 12, 16
_HEADER = len(_MAGIC + _VERSION) + _SALT + _CHECK + _NONCE
_MOST_BYTES = 8 * 1024 * 1024
_MOST_KEY_TEXT = 4096
_MOST_SECRET = 256 * 1024
_LONGEST_NAME = 200
_NO_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_MAKE_KEY = "make one with `harborguard-sensor secret new-key FILE`"
_WHERE_KEY = (
    f"name its file in {KEY_FILE_VARIABLE}, load it as the systemd credential {KEY_CREDENTIAL!r}, or set {KEY_VARIABLE}"
)


@dataclass(frozen=True, slots=True)
class Vault:
    """One vault file and its keys. The first key writes, any of them reads."""

    path: Path
    keys: tuple[bytes, ...]

    def __repr__(self) -> str:
        return f"Vault({str(self.path)!r})"

    def get(self, name: str) -> str:
        """The secret of that name; empty if there is none.

        Raises:
            SecretError: the vault cannot be read: other key, damage, rights.
        """
        return self._read().get(name, "")

    def names(self) -> tuple[str, ...]:
        """The names of all entries, sorted.

        Raises:
            SecretError: as for `get`.
        """
        return tuple(sorted(self._read()))

    def set(self, name: str, secret: str) -> None:
        """Store a secret, durably, beside what other processes store at the same time.

        Raises:
            SecretError: the vault cannot be read or written, or the name or the secret is unusable.
        """
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise SecretError("a name in the vault has 1 to 200 printable characters")
        if len(secret) > _MOST_SECRET:
            message = f"the secret is longer than {_MOST_SECRET // 1024} KiB"
            raise SecretError(message)
        with self._alone():
            self._write({**self._read(), name: secret})

    def delete(self, name: str) -> None:
        """Remove a secret.

        Raises:
            SecretError: there is none of that name, or the vault cannot be read or written.
        """
        with self._alone():
            entries = self._read()
            if entries.pop(name, None) is None:
                message = f"there is no entry {name!r} in the vault {self.path}"
                raise SecretError(message, "`harborguard-sensor secret list` shows those that there are")
            self._write(entries)

    def rekey(self) -> int:
        """Encrypt again, under the first of the keys; how many entries there are.

        Raises:
            SecretError: the vault cannot be read with any of the keys, or not be written.
        """
        with self._alone():
            entries = self._read()
            self._write(entries)
        return len(entries)

    # --- the file ---------------------------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, str]:
        try:
            data = _read_private(self.path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            message = f"cannot read the vault {self.path}: {error.strerror}"
            raise SecretError(message, "check the path and that this user owns the file") from error
        return unseal(data, self.keys, self.path)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other writers out. The lock is a file of its own, because the vault is replaced by every write."""
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                self._give_to_owner(descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as error:
            message = f"cannot write the vault {self.path}: {error.strerror}"
            raise SecretError(message, "its directory must exist, be writable for this user and have space") from error

    def _write(self, entries: Mapping[str, str]) -> None:
        data = seal(entries, self.keys[0])
        if len(data) > _MOST_BYTES:
            message = f"the vault {self.path} would be larger than {_MOST_BYTES // 2**20} MiB"
            raise SecretError(message, "delete entries that are not used")
        self.stage(data).replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)  # the rename itself
        finally:
            os.close(directory)

    def stage(self, data: bytes) -> Path:
        """Write a new vault beside the old one, durably. Until the rename a crash leaves the old one in force; what it left is replaced here."""
        new = self.path.with_name(self.path.name + ".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            self._give_to_owner(descriptor)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        return new

    def _give_to_owner(self, descriptor: int) -> None:
        """What root writes in a service's directory belongs to the service, which could not read it otherwise."""
        owner = self.path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def open_vault(environ: Mapping[str, str]) -> Vault | None:
    """The vault that the environment names; None where it names none.

    Raises:
        SecretError: there is no key, it is none, it lies beside the vault, or others may read or write where they must not.
    """
    name = environ.get(VAULT_VARIABLE, "")
    if not name:
        return None
    path = Path(name)
    if not path.is_absolute():
        message = f"{VAULT_VARIABLE} is not an absolute path"
        raise SecretError(message, "for example /var/lib/harborguard-sensor/secrets.vault")
    _check_directory(path)
    # systemd tells a service its state directories, colons between them
    state = [Path(each) for each in environ.get("STATE_DIRECTORY", "").split(":") if each]
    return Vault(path, _keys(environ, (path.parent, *state)))


def new_key() -> str:
    """A key as it stands in a file or a variable: 32 random bytes in base64."""
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def write_new_key(path: Path) -> None:
    """Make a key file that only its owner can read.

    Raises:
        SecretError: it exists already, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(new_key() + "\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        message = f"cannot make the key file {path}: {error.strerror}"
        raise SecretError(message, "a key that exists is never overwritten: name another file") from error


def key_beside_data(environ: Mapping[str, str], state: Path) -> str:
    """Why the key may not lie where it lies, given the configured state directory; empty if it may, or there is no vault."""
    found = _key_file(environ) if environ.get(VAULT_VARIABLE) else None
    return _beside(found, (state,)) if found is not None else ""


# --- sealing ----------------------------------------------------------------------------------------------------------------------


def seal(entries: Mapping[str, str], key: bytes) -> bytes:
    """The entries as bytes of a vault file."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - slow to import and rarely used

    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    header = _MAGIC + _VERSION + salt + _derived(key, salt, b"check", _CHECK) + nonce
    text = json.dumps(dict(entries), sort_keys=True).encode()
    return header + AESGCM(_derived(key, salt, b"data", _KEY_BYTES)).encrypt(nonce, text, header)


def unseal(data: bytes, keys: tuple[bytes, ...], path: Path) -> dict[str, str]:
    """The entries in the bytes of a vault file.

    Raises:
        SecretError: it is no vault, of a newer version, made with another key, or damaged.
    """
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    if not data.startswith(_MAGIC) or len(data) < _HEADER + _TAG:
        message = f"{path} is not a vault, or only a part of one"
        raise SecretError(message, "put back a copy, or delete it and store the secrets again")
    if not data.startswith(_MAGIC + _VERSION):
        message = f"the vault {path} has a format that this version does not know"
        raise SecretError(message, "it was made by a newer sensor: run that one; or put back a copy")
    at = len(_MAGIC + _VERSION)
    salt, check = data[at : at + _SALT], data[at + _SALT : at + _SALT + _CHECK]
    key = next((key for key in keys if hmac.compare_digest(_derived(key, salt, b"check", _CHECK), check)), None)
    if key is None:
        message = f"the vault {path} cannot be opened with this key"
        raise SecretError(
            message, "is it the key that the vault was made with? then the file is damaged: put back a copy"
        )
    try:
        cipher = AESGCM(_derived(key, salt, b"data", _KEY_BYTES))
        text = cipher.decrypt(data[_HEADER - _NONCE : _HEADER], data[_HEADER:], data[:_HEADER])
    except InvalidTag as error:
        message = f"the vault {path} is damaged"
        raise SecretError(
            message, "the key is right: put back a copy, or delete it and store the secrets again"
        ) from error
    entries: dict[str, str] = json.loads(text)
    return entries


def _derived(key: bytes, salt: bytes, purpose: bytes, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(SHA256(), length, salt, b"harborguard-sensor vault " + purpose).derive(key)


# --- the key ----------------------------------------------------------------------------------------------------------------------


def _key_file(environ: Mapping[str, str]) -> Path | None:
    """Where the key lies: the file that is named, else the systemd credential if there is one."""
    if named := environ.get(KEY_FILE_VARIABLE, ""):
        return Path(named)
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    credential = Path(directory, KEY_CREDENTIAL)
    return credential if directory and credential.exists() and not environ.get(KEY_VARIABLE) else None


def _keys(environ: Mapping[str, str], apart: tuple[Path, ...]) -> tuple[bytes, ...]:
    file = _key_file(environ)
    if file is None:
        text = environ.get(KEY_VARIABLE, "")
        if not text:
            message = f"the vault {environ[VAULT_VARIABLE]} has no key"
            raise SecretError(message, f"{_WHERE_KEY}; {_MAKE_KEY}")
        return _parsed(text, f"the variable {KEY_VARIABLE}")
    if complaint := _beside(file, apart):
        raise SecretError(complaint, "keep it where no copy of the data takes it along: a systemd credential, or /etc")
    try:
        text = _read_private(file, is_key=True).decode("ascii", "replace")
    except OSError as error:
        message = f"cannot read the vault's key file {file}: {error.strerror}"
        raise SecretError(message, f"check the path and that this user may read it; {_MAKE_KEY}") from error
    return _parsed(text, f"the file {file}")


def _parsed(text: str, where: str) -> tuple[bytes, ...]:
    """The keys in a text, one a line."""
    keys = []
    for line in text.split():
        try:
            key = base64.b64decode(line, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != _KEY_BYTES:
            message = f"what {where} holds is no key of a vault"
            raise SecretError(message, f"a key is 32 random bytes in base64, one a line; {_MAKE_KEY}")
        keys.append(key)
    if not keys:
        message = f"there is no key in {where}"
        raise SecretError(message, _MAKE_KEY)
    return tuple(keys)


def _beside(file: Path, directories: tuple[Path, ...]) -> str:
    """Why a key file may not lie where it lies. Links are followed: what counts is what a copy of the directory would hold."""
    for directory in directories:
        for place in {Path(os.path.abspath(file)), file.resolve()}:  # noqa: PTH100 - the link itself, not where it leads
            if place.is_relative_to(os.path.abspath(directory)) or place.is_relative_to(directory.resolve()):  # noqa: PTH100
                return f"the vault's key {file} lies beside the data in {directory}"
    return ""


# --- rights -----------------------------------------------------------------------------------------------------------------------


def _read_private(path: Path, *, is_key: bool = False) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            message = f"{path} is not a file"
            raise SecretError(message, "check the path")
        if complaint := lax(found.st_mode, found.st_uid, os.geteuid(), is_key=is_key):
            message = f"{path} {complaint}"
            raise SecretError(message, f"chmod 0600 {path}, and consider what is in it as known to others")
        most = _MOST_KEY_TEXT if is_key else _MOST_BYTES
        if found.st_size > most:
            message = f"{path} is too large to be {'a key' if is_key else 'a vault'}"
            raise SecretError(message, "check the path")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def lax(mode: int, owner: int, me: int, *, is_key: bool) -> str:
    """Why a file's rights are too wide for the user `me`; empty if they are not."""
    if owner not in {me, 0} and me != 0:
        return "belongs to another user: it must belong to the one that runs the sensor, or to root"
    # a key that root owns and this user reads comes by its group or an access list, as Kubernetes and systemd do it
    is_lent = is_key and owner == 0 != me
    if mode & (_NO_OTHERS & ~stat.S_IRGRP if is_lent else _NO_OTHERS):
        return f"can be used by other users (mode {stat.S_IMODE(mode):04o})"
    return ""


def _check_directory(path: Path) -> None:
    try:
        mode = path.parent.stat().st_mode
    except OSError as error:
        message = f"cannot use the directory of the vault {path}: {error.strerror}"
        raise SecretError(message, f"make it (mode 0700), or change {VAULT_VARIABLE}") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        message = f"other users may write in {path.parent}, where the vault is"
        raise SecretError(message, f"chmod go-w {path.parent}, or change {VAULT_VARIABLE}")
