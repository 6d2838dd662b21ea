"""Secrets that cannot be printed, and the places they come from.

A credential in the configuration is a *source* (keyring, environment, file, literal); `read_secret` turns it into a
`Secret` at the moment of use, so that a rotated file or keyring entry is noticed without a restart. The only importer of `keyring`; where
the environment names a vault (see `vault`), that is the keyring. What was read is remembered for `without_secrets`, which the log asks.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, assert_never
from urllib.parse import quote, quote_plus

from sensor.errors import SecretError
from sensor.vault import open_vault

_MOST_BYTES = 256 * 1024
KEYRING_SERVICE = "harborguard-sensor"
"""The service name under which `secret set` stores and `{keyring: name}` looks up."""


class Secret:
    """A string that shows as `***` everywhere but in `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself; call it only where it goes onto the wire."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "***"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(
            # an environment variable may hold bytes that are no text
            self._value.encode("utf-8", "surrogatepass"),
            other._value.encode("utf-8", "surrogatepass"),
        )

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> str:
        message = "a Secret is not pickled"
        raise TypeError(message)


@dataclass(frozen=True, slots=True)
class FromKeyring:
    """An entry of the operating system's keyring or of the vault, stored by `harborguard-sensor secret set NAME`."""

    name: str


_VARIABLES: set[str] = set()
"""Names of the environment variables that a configuration of this process takes secrets from."""
_OWN_VARIABLES = ("HG_", "HARBORGUARD_")


@dataclass(frozen=True, slots=True)
class FromEnv:
    """An environment variable."""

    name: str

    def __post_init__(self) -> None:
        _VARIABLES.add(self.name)


@dataclass(frozen=True, slots=True)
class FromFile:
    """A file: a Kubernetes secret, a Docker secret, or (as a bare name) a systemd credential in $CREDENTIALS_DIRECTORY."""

    path: str


@dataclass(frozen=True, slots=True)
class InPlace:
    """The secret itself, written into the configuration; the loader has checked that the file's mode is 0600."""

    value: Secret


SecretSource: TypeAlias = FromKeyring | FromEnv | FromFile | InPlace


def describe_source(source: SecretSource) -> str:
    """Where a secret comes from, without the secret, for messages."""
    match source:
        case FromKeyring(name):
            return f"keyring entry {name!r}"
        case FromEnv(name):
            return f"environment variable {name}"
        case FromFile(path):
            return f"file {path}"
        case InPlace():
            return "the configuration file"
        case _:
            assert_never(source)


def read_secret(source: SecretSource) -> Secret:
    """Fetch a secret from its source; a trailing line break of a file is dropped.

    Raises:
        SecretError: the entry, variable or file is missing, empty, too large, or not readable.
    """
    match source:
        case FromKeyring(name):
            value = _from_keyring(name)
        case FromEnv(name):
            value = os.environ.get(name, "")
        case FromFile(path):
            value = _from_file(path)
        case InPlace(secret):
            value = secret.reveal()
        case _:
            assert_never(source)
    if not value:
        empty = isinstance(source, FromFile) or (isinstance(source, FromEnv) and source.name in os.environ)
        message = f"{describe_source(source)} is empty" if empty else f"no secret in {describe_source(source)}"
        raise SecretError(message, "set it, or name another source: {keyring: ...}, {env: ...} or {file: ...}")
    _SEEN.add(value)
    return Secret(value)


def _from_file(name: str) -> str:
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(directory, name) if directory and "/" not in name else Path(name)
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        message = f"cannot read the secret file {path}: {reason}"
        raise SecretError(message, "check that the file exists and that this user may read it") from error
    if len(data) > _MOST_BYTES:
        message = f"the secret file {path} is larger than {_MOST_BYTES // 1024} KiB"
        raise SecretError(message, "name the file that holds the secret alone")
    try:
        return data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        message = f"the secret file {path} is not text"
        raise SecretError(message) from error


_NO_KEYRING = "a machine without a keyring service can use a vault (docs/deploy.md), {file: ...} or {env: ...}"


def _from_keyring(name: str) -> str:
    if (vault := open_vault(os.environ)) is not None:
        return vault.get(name)
    import keyring  # noqa: PLC0415 - slow to import and rarely used
    from keyring.errors import KeyringError  # noqa: PLC0415

    try:
        return keyring.get_password(KEYRING_SERVICE, name) or ""
    except (KeyringError, RuntimeError) as error:
        message = f"the keyring cannot be read: {error}"
        raise SecretError(message, _NO_KEYRING) from error


def store_in_keyring(name: str, value: Secret) -> None:
    """Keep a secret in the vault, if the environment names one, else in the operating system's keyring.

    Raises:
        SecretError: there is no usable keyring, or the vault cannot be used.
    """
    if (vault := open_vault(os.environ)) is not None:
        vault.set(name, value.reveal())
        return
    import keyring  # noqa: PLC0415
    from keyring.errors import KeyringError  # noqa: PLC0415

    try:
        keyring.set_password(KEYRING_SERVICE, name, value.reveal())
    except (KeyringError, RuntimeError) as error:
        message = f"the keyring cannot be written: {error}"
        raise SecretError(message, _NO_KEYRING) from error


def delete_from_keyring(name: str) -> None:
    """Remove a secret from the vault, if the environment names one, else from the operating system's keyring.

    Raises:
        SecretError: there is no such entry, no usable keyring, or the vault cannot be used.
    """
    if (vault := open_vault(os.environ)) is not None:
        vault.delete(name)
        return
    import keyring  # noqa: PLC0415
    from keyring.errors import KeyringError  # noqa: PLC0415

    try:
        keyring.delete_password(KEYRING_SERVICE, name)
    except (KeyringError, RuntimeError) as error:
        message = f"the keyring entry {name!r} cannot be deleted: {error}"
        raise SecretError(message) from error


def environment_for_others() -> dict[str, str]:
    """The environment for a program of somebody else: without the variables that hold the sensor's secrets, and without its own."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _VARIABLES and not name.startswith(_OWN_VARIABLES)
    }


def is_private_file(path: Path) -> bool:
    """Whether only its owner can read a file (mode 0600 or stricter), which a literal secret in the configuration demands."""
    return not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


# --- what was read must not be shown ----------------------------------------------------------------------------------------------

_SHORTEST = 8
"""Characters; anything shorter would be found in ordinary words, and the gap would tell what it is."""
_SHORTEST_LINE = 16
_MOST_SEEN = 2048
_LINE_ENDS = re.compile(r"[\r\n]+|\\n")


def forms_of(value: str) -> set[str]:
    """The forms in which a secret may turn up in a text: as it is, in a URL, in JSON, and a key line by line."""
    whole = value.strip()
    lines = (line for line in _LINE_ENDS.split(whole) if len(line) >= _SHORTEST_LINE and "-----" not in line)
    found = set()
    for part in (whole, *lines):
        data = part.encode(errors="replace")
        found |= {part, quote(data), quote(data, safe=""), quote_plus(data), json.dumps(part)[1:-1]}
    return found


class _Seen:
    """The secrets read last, as a pattern. They stay in memory, where those who use them keep them too; nothing derived from them leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # secrets are read in threads too
        self._texts: dict[str, None] = {}
        self._pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        """Remember a secret."""
        texts = [form for form in forms_of(value) if len(form) >= _SHORTEST]
        with self._lock:
            if not all(text in self._texts for text in texts):
                self._pattern = None
            for text in texts:
                self._texts.pop(text, None)  # to the end: those read last are kept
                self._texts[text] = None
            while len(self._texts) > _MOST_SEEN:
                del self._texts[next(iter(self._texts))]

    def masked(self, text: str) -> str:
        """The text with every one of them replaced."""
        if len(text) < _SHORTEST or not self._texts:
            return text
        if (pattern := self._pattern) is None:
            with self._lock:
                # the longest first: one secret may begin with another
                pattern = re.compile("|".join(map(re.escape, sorted(self._texts, key=len, reverse=True))))
                self._pattern = pattern
        return pattern.sub("***", text)


_SEEN = _Seen()


def without_secrets(text: str) -> str:
    """A text in which every secret that this process has read lately is `***`, wherever it stands."""
    return _SEEN.masked(text)


def remembered(value: str) -> Secret:
    """A secret that came from elsewhere than `read_secret`, for example from another program, to be masked like those."""
    _SEEN.add(value)
    return Secret(value)
