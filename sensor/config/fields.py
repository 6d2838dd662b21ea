"""The types that configuration keys are made of: durations, sizes, secret sources, and the base of all sections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.fields import FieldInfo

from sensor.secret import FromEnv, FromFile, FromKeyring, InPlace, Secret, SecretSource

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_duration(value: object) -> float:
    """Seconds from `90s`, `15m`, `6h`, `7d`, `2w`."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhdw])\s*", value)):
        return float(found[1]) * _UNITS[found[2]]
    message = "expected a duration such as 30s, 15m, 6h, 7d"
    raise ValueError(message)


def parse_size(value: object) -> int:
    """Bytes from an integer or from `512MiB`, `10GB`."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+)\s*([kmg]i?)?b?\s*", value.lower())):
        return int(found[1]) * _SIZES[found[2] or ""]
    message = "expected a size such as 512MiB or 10GB"
    raise ValueError(message)


def parse_share(value: object) -> float:
    """A share of 0 to 1 from `50%`."""
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d{1,3})\s*%\s*", value)) and int(found[1]) <= 100:
        return int(found[1]) / 100
    message = "expected a share such as 50%"
    raise ValueError(message)


def parse_secret_source(value: object) -> SecretSource:
    """A literal, or one of `{keyring: NAME}`, `{env: NAME}`, `{file: PATH}`."""
    if isinstance(value, (FromKeyring, FromEnv, FromFile, InPlace)):
        return value
    if isinstance(value, str) and value:
        return InPlace(Secret(value))
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if isinstance(name, str) and name:
            if kind == "keyring":
                return FromKeyring(name)
            if kind == "env":
                return FromEnv(name)
            if kind == "file":
                return FromFile(name)
    # the value itself must not appear in the message: it may be the secret
    message = "expected {keyring: NAME}, {env: NAME} or {file: PATH}"
    raise ValueError(message)


Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
Share = Annotated[float, BeforeValidator(parse_share)]
SecretField = Annotated[Any, AfterValidator(parse_secret_source)]


def _validators(field: FieldInfo) -> list[object]:
    return [item.func for item in field.metadata if isinstance(item, AfterValidator)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty_secrets(cls, value: Any) -> Any:
        """A secret's key with nothing behind it is no secret, rather than a bad one."""
        if isinstance(value, dict):
            secrets = {name for name, field in cls.model_fields.items() if parse_secret_source in _validators(field)}
            return {k: v for k, v in value.items() if not (k in secrets and v is None)}
        return value


def secrets_of(
    section: Section, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], SecretSource]]:
    """Every secret that a section and the sections in it name, with its path of keys."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, (FromKeyring, FromEnv, FromFile, InPlace)):
            yield (*path, name), value
        elif isinstance(value, Section):
            yield from secrets_of(value, (*path, name))
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, Section):
                    yield from secrets_of(item, (*path, name, index))
