"""An archive for a support ticket: named parts, from which everything secret is taken on the way in. What is in them is `support`'s business."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

import msgspec

from sensor.cli.output import as_json
from sensor.config.fields import Section, secrets_of
from sensor.config.schema import Config
from sensor.errors import SecretError, StateError
from sensor.log import MASK, clean_text, is_secret_name
from sensor.registry.docker_config import secrets_in
from sensor.secret import FromEnv, FromFile, FromKeyring, InPlace, describe_source, forms_of, read_secret

_SHORTEST, _LONG = 4, 8
"""Characters of a secret that is looked for as a whole word, or anywhere. The log, which must stay readable, looks for long ones only."""
_USER_INFO = re.compile(r"(://).*@", re.DOTALL)
"""All before the last @: a password may hold slashes and @ itself."""
_NOT_SHOWN = {"external_id"}


class Redaction:
    """Takes out of texts what the configuration says is secret, what looks like a secret, and what is named like one."""

    def __init__(self, config: Config) -> None:
        words = sorted({word for word in _secret_words(config) if len(word) >= _SHORTEST}, key=len, reverse=True)
        # a short one only where it is not a part of another word
        forms = [re.escape(word) if len(word) >= _LONG else rf"(?<!\w){re.escape(word)}(?!\w)" for word in words]
        self._words = re.compile("|".join(forms)) if forms else None

    def text(self, text: str) -> str:
        """One line or value."""
        # the whole word before the patterns: what these leave of it would no longer be found
        return clean_text(self._words.sub(MASK, text) if self._words is not None else text)

    def lines(self, text: str) -> str:
        """A text of many lines, each bounded."""
        return "".join(f"{self.text(line)}\n" for line in text.splitlines())

    def value(self, value: object) -> object:
        """Plain values, as they go into JSON; what stands under a telling name is not shown."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {clean_text(str(name)): self._under(str(name), item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return value

    def _under(self, name: str, value: object) -> object:
        is_shown = isinstance(value, (bool, int, float, Mapping)) or value in (None, "") or not is_secret_name(name)
        return self.value(value) if is_shown else MASK


def _secret_words(config: Config) -> Iterable[str]:
    """Every secret of a configuration, as far as it can be read here, in all its forms."""
    for _, source in secrets_of(config):
        with contextlib.suppress(SecretError):
            yield from forms_of(read_secret(source).reveal())
    for text in _texts_of(config):
        if found := re.search(r"://([^/@:]*):?(.*)@", text, re.DOTALL):
            yield from (found[2] or found[1], *forms_of(unquote(found[2] or found[1])))
    for registry in config.registries:
        for text in secrets_in(registry.docker_config) if registry.docker_config is not None else ():
            yield from forms_of(text)
        if registry.plugin is not None:
            for name, value in registry.plugin.env.items():
                yield from forms_of(value) if is_secret_name(name) else ()


def _texts_of(section: Section) -> Iterable[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Section):
                yield from _texts_of(item)
            elif isinstance(item, str):
                yield item


def described(section: Section) -> dict[str, object]:
    """A configuration with the sources of its secrets instead of them, and without what else may be one."""
    return {name: _described(name, getattr(section, name)) for name in type(section).model_fields}


def _described(name: str, value: object) -> object:
    match value:
        case Section():
            return described(value)
        case FromKeyring() | FromEnv() | FromFile() | InPlace():
            # a mapping, for the name above it is one that hides what it holds
            return {"source": describe_source(value)}
        case tuple() if name == "args":
            return f"{len(value)} arguments"
        case tuple():
            return [_described(name, item) for item in value]
        case dict():
            return dict.fromkeys(value, MASK)
        case str() if name in _NOT_SHOWN and value:
            return MASK
        case str():
            return _USER_INFO.sub(rf"\1{MASK}@", value)
        case _:
            return value


class Bundle:
    """The parts, and what could not be got."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self.parts: dict[str, bytes] = {}
        self.missing: dict[str, str] = {}

    def add_json(self, name: str, value: object) -> None:
        """A part of plain values (dataclasses and structs are such too)."""
        plain = self._redaction.value(msgspec.to_builtins(value))
        self.parts[name] = as_json(plain).encode()

    def add_text(self, name: str, text: str) -> None:
        """A part of lines."""
        self.parts[name] = self._redaction.lines(text).encode()

    def miss(self, name: str, reason: str) -> None:
        """Say why a part is not there."""
        self.missing[name] = self._redaction.text(reason)

    def packed(self, folder: str, now: datetime) -> bytes:
        """The archive (tar, gzip): one folder with the parts."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
            for name, data in sorted({**self.parts, "README.txt": self._contents().encode()}.items()):
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size, member.mtime, member.mode = len(data), int(now.timestamp()), 0o600
                archive.addfile(member, io.BytesIO(data))
        return packed.getvalue()

    def _contents(self) -> str:
        rows = ["What this machine's HarborGuard sensor says about itself, for a support ticket.", ""]
        rows += [f"{name}: {len(data)} bytes" for name, data in sorted(self.parts.items())]
        rows += [f"{name}: not here: {reason}" for name, reason in sorted(self.missing.items())]
        rows += [
            "",
            "Secrets are left out: of each only the source is named. Names of hosts, registries, repositories, images and users are in it,",
            "so look through it before you send it to somebody who should not know those.",
        ]
        return "\n".join(rows) + "\n"


def save(data: bytes, target: Path) -> None:
    """Write a new file that only its owner can read.

    Raises:
        StateError: it exists, or cannot be written.
    """
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        message = f"cannot write {target}: {error.strerror}"
        raise StateError(message, "name another file with --output, or --output - for stdout") from error
