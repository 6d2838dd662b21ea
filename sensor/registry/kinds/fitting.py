"""What a registry's settings hold that its provider has no use for: a cloud's identity, an API of its own, a path, a web site's address.

Such a key would be passed over without a word, and the registry be read as nobody, or not at all. `config` knows each key alone; only here is it
known which provider a URL belongs to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sensor.config.problems import KeyPath, Problem
from sensor.config.schema import Registry as Settings
from sensor.errors import ConfigError
from sensor.registry.kinds.kind import RegistryKind, host_of
from sensor.registry.terms import parse_address

_SECTIONS = ("aws", "gcp", "azure", "github_app")


def misfits(kind: RegistryKind, settings: Settings, kinds: Sequence[RegistryKind]) -> Iterator[Problem]:
    """What this kind would pass over. Each text is a fact and, behind a semicolon, what to do; `kinds` are all there are."""
    if (instead := _web_site(settings.url, kinds)) is not None:
        yield instead
        return  # nothing is known of the registry that was meant
    # the last kind takes what no other recognises: a self-hosted provider has no address of its own
    guessed = settings.provider == "auto" and kind is kinds[-1]
    what = f"this is {'taken for ' if guessed else ''}{kind.name}"
    for path, section in _sections(settings):
        if section not in kind.uses:
            owner = next(other.name for other in kinds if section in other.uses)
            fact = f"{section} is for provider" if path == ("auth",) else "is for provider"
            advice = f"set provider: {owner}, or leave it out" if guessed else "leave it out"
            yield Problem(path, f"{fact} {owner}, and {what}; {advice}")
    for path in _api_keys(kind, settings):
        owners = ", ".join(sorted(other.name for other in kinds if "api" in other.uses))
        advice = f"set provider: to the one it is ({owners}), or leave it out" if guessed else "leave it out"
        yield Problem(path, f"has no use here: {what}; {advice}")
    if not kind.has_paths and (place := _path_of(settings.url)):
        advice = f'choose repositories with repositories.include: ["{place}/**"]'
        advice += ", or set provider: to the one whose namespace that is" if guessed else ""
        yield Problem(("url",), f"{what}, whose URL has no path; {advice}")


def _web_site(url: str, kinds: Sequence[RegistryKind]) -> Problem | None:
    for owner in kinds:
        if instead := owner.web_sites.get(host_of(url)):
            return Problem(("url",), f"this is the web site of {owner.title}; write {instead}, its registry")
    return None


def _sections(settings: Settings) -> Iterator[tuple[KeyPath, str]]:
    if settings.auth not in {"auto", "anonymous"}:
        yield ("auth",), settings.auth
    for section in _SECTIONS:
        if getattr(settings, section) != Settings.model_fields[section].default:
            yield (section,), section


def _api_keys(kind: RegistryKind, settings: Settings) -> list[KeyPath]:
    keys = [key for key in type(settings.api).model_fields if getattr(settings.api, key)]
    unused = [key for key in keys if not kind.uses & {"api", f"api.{key}"}]
    in_part = any(name.startswith("api.") for name in kind.uses)
    return [("api", key) for key in unused] if in_part else [("api",)] if unused else []


def _path_of(url: str) -> str:
    try:
        return parse_address(url).path.strip("/")
    except ConfigError:
        return ""  # no address at all: that is told elsewhere
