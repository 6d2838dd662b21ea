"""Rules about one registry that need more than one key, or more knowledge than the types of its keys hold.

Its address, what it selects, when it is looked at; how it logs in is in `validate_login`. Which provider a URL belongs to is not known here:
where that matters, only a provider that is named counts, and `registry.kinds` says the rest when the registry is opened. No message holds
a value that could be a secret (a URL may carry a password).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from sensor.config.notation import ON_DISK, check_glob, has_host, is_host_port, on_disk, split_url
from sensor.config.problems import Findings, KeyPath, show_path
from sensor.config.regex import check_regex
from sensor.config.schema import Keep, Registry, Rule
from sensor.config.validate_login import check_login, has_login, login_of
from sensor.config.windows import check_window
from sensor.errors import DataError
from sensor.model.reference import is_repository
from sensor.versions.semver_range import parse_range

_EVERYTHING = frozenset({"*", "**"})
_EVERY_TAG = frozenset({".*", ".+", "^.*$", "^.+$"})
_NAMESPACE = re.compile(r"[A-Za-z0-9~][A-Za-z0-9._:~-]*(?:/[A-Za-z0-9~][A-Za-z0-9._:~-]*)*")
_HOUR, _CENTURY = 3600.0, 36_525 * 86_400.0


def check_registry(path: KeyPath, registry: Registry, found: Findings) -> None:
    """Everything about one registry but its schedule, platforms and connection, which others have too."""
    if (place := on_disk(registry.url)) is not None:
        _check_on_disk(path, registry, *place, found)
    else:
        _check_address(path, registry, found)
        check_login(path, registry, found)
    _check_selection(path, registry, found)
    for index, host in enumerate(registry.trusted_realms):
        if not is_host_port(host):
            found.wrong((*path, "trusted_realms", index), "expected host or host:port, without a scheme or path")
    for index, window in enumerate(registry.windows):
        if complaint := check_window(window):
            found.wrong((*path, "windows", index), complaint)


def check_duplicates(registries: Iterable[tuple[KeyPath, Registry]], found: Findings) -> None:
    """Names stand once. So does a place, unless two logins or two namespaces make two registries of it.

    Two robots of one Harbor see different projects, and two projects of one host are two paths, so only the same login at the same path
    with the same namespaces is a mistake.
    """
    names: dict[str, KeyPath] = {}
    places: dict[tuple[str, str], list[tuple[KeyPath, Registry]]] = {}
    for path, registry in registries:
        if registry.name in names:
            found.wrong((*path, "name"), f"{registry.name!r} is also the name of {show_path(names[registry.name])}")
        names.setdefault(registry.name, path)
        alike = places.setdefault((_place(registry.url), registry.username), [])
        same = next((other for other, there in alike if _is_same(registry, there)), None)
        if same is not None:
            found.wrong((*path, "url"), f"{show_path(same)} is the same registry with the same user; merge the two")
        alike.append((path, registry))


def _is_same(registry: Registry, other: Registry) -> bool:
    namespaces, others = set(registry.repositories.namespaces), set(other.repositories.namespaces)
    return namespaces == others and login_of(registry) == login_of(other)


def _place(url: str) -> str:
    """Host, port and path, without what does not make a difference."""
    if on_disk(url) is not None:
        return url.rstrip("/")
    split = split_url(url)
    if split is None:
        return url
    port = split.port if has_host(split) else None
    standard = {"http": 80, "https": 443, "": 443}.get(split.scheme)
    host = (split.hostname or "") + (f":{port}" if port and port != standard else "")
    return host + _path(split.path)


def _path(text: str) -> str:
    """A URL's path as the registry client reads it: a pasted `/v2/` behind it means nothing."""
    return text.rstrip("/").removesuffix("/v2")


def _pinned(path: str) -> str:
    """What an address of one image ends with, a tag or a digest. A project of a Google domain (`example.com:project`) has a colon too."""
    last = path.rpartition("/")[2]
    if "@" in last:
        return "digest"
    name, colon, _ = last.partition(":")
    return "tag" if colon and not (path.count("/") == 1 and "." in name) else ""


# --- where it is ------------------------------------------------------------------------------------------------------------------


def _check_on_disk(path: KeyPath, registry: Registry, scheme: str, place: str, found: Findings) -> None:
    provider = ON_DISK[scheme]
    what = "an image layout" if scheme == "oci" else "image archives"
    if registry.provider not in {"auto", provider}:
        found.wrong((*path, "provider"), f"an {scheme}: URL means {what} on disk; use auto or {provider}")
    if not place.startswith("/"):
        example = "oci:/path/to/an/OCI/image/layout" if scheme == "oci" else "archive:/path/to/image/archives"
        found.wrong((*path, "url"), f"expected {example}")
    elif scheme == "oci" and not Path(place).is_dir():
        found.warn((*path, "url"), "there is no such directory now")
    elif not Path(place).exists():
        found.warn((*path, "url"), "there is no such file or directory now")
    if has_login(registry):
        found.warn(path, f"there is nothing to log in to for {what} on disk; the credentials are not used")


def _check_address(path: KeyPath, registry: Registry, found: Findings) -> None:
    for scheme, provider in ON_DISK.items():
        if registry.provider == provider:
            found.wrong((*path, "provider"), f"{provider} needs a URL such as {scheme}:/path")
            return
    url = split_url(registry.url)
    if url is None or url.scheme not in {"", "http", "https"} or not has_host(url):
        found.wrong((*path, "url"), _not_an_address(registry.url))
        return
    place = _path(url.path)
    if url.username is not None:
        found.wrong((*path, "url"), "credentials do not belong into the URL; use username and password")
    elif url.query or url.fragment:
        found.wrong((*path, "url"), "a registry's URL has no query and no fragment")
    elif any(part in {"", ".", ".."} for part in place.split("/")[1:]):
        found.wrong((*path, "url"), "the path is not that of a namespace or repository")
    elif pinned := _pinned(place):
        found.wrong((*path, "url"), f"this is one image; leave out its {pinned} (tags.include chooses tags)")
    elif place and registry.provider == "distribution":
        found.wrong((*path, "url"), "a registry's URL has no path; choose repositories with repositories.include")
    if url.scheme == "https" and registry.insecure:
        found.wrong((*path, "insecure"), "contradicts https:// in the URL; remove one of the two")
    if url.scheme == "http" and not registry.insecure:
        found.wrong(
            (*path, "url"), "http:// sends credentials and images unencrypted; say insecure: true if that is meant"
        )


def _not_an_address(text: str) -> str:
    """Why a text is not the address of a registry. Never repeats it: it may hold a password."""
    scheme, slashes, _ = text.partition("://")
    if slashes and scheme not in {"http", "https"}:
        return "registries are reached over http:// or https://, or lie at oci:/path or archive:/path"
    if not text.isascii():
        return "a host name is written in ASCII here; for an internationalised one use its xn-- form"
    port = re.search(r":([0-9]+)(?:/|$)", text.rpartition("://")[2])
    if port is not None and not 0 < int(port[1][:6]) < 65_536:
        return "a port is a number from 1 to 65535"
    return "expected host[:port], http://host, https://host, oci:/path or archive:/path"


# --- what it selects --------------------------------------------------------------------------------------------------------------


def _check_selection(path: KeyPath, registry: Registry, found: Findings) -> None:
    repositories = registry.repositories
    for key, patterns in (("include", repositories.include), ("exclude", repositories.exclude)):
        _check_globs((*path, "repositories", key), patterns, found)
    for key, patterns in (("include", registry.tags.include), ("exclude", registry.tags.exclude)):
        _check_globs((*path, "tags", key), patterns, found)
    for index, name in enumerate(repositories.names):
        if not is_repository(name):
            found.wrong(
                (*path, "repositories", "names", index), "not a repository name (lower case, without host and tag)"
            )
    for index, name in enumerate(repositories.namespaces):
        if len(name) > 255 or not _NAMESPACE.fullmatch(name):
            found.wrong(
                (*path, "repositories", "namespaces", index), "expected a namespace such as team or group/project"
            )
    if repositories.namespaces and registry.provider == "distribution":
        found.warn((*path, "repositories", "namespaces"), "distribution has no namespaces; use repositories.include")
    _check_rules((*path, "rules"), registry.rules, found)
    _check_keep((*path, "keep"), registry.keep, found)


def _check_globs(path: KeyPath, patterns: tuple[str, ...], found: Findings) -> None:
    for index, pattern in enumerate(patterns):
        if complaint := check_glob(pattern):
            found.wrong((*path, index), f"not a pattern: {complaint}")
    if path[-1] == "include" and not patterns:
        found.wrong(path, "an empty list selects nothing; leave it out to select everything")


def _check_rules(path: KeyPath, rules: tuple[Rule, ...], found: Findings) -> None:
    ends_at: dict[str, int] = {}
    for index, rule in enumerate(rules):
        here = (*path, index)
        _check_rule(here, rule, found)
        repositories = "*" if rule.repositories in _EVERYTHING else rule.repositories
        earlier = ends_at.get("*", ends_at.get(repositories))
        if earlier is not None:
            place = "" if "*" in ends_at else f" of {repositories}"
            found.warn(here, f"never decides: rule {earlier + 1} already speaks about every tag{place}")
        elif rule.tags in _EVERYTHING or rule.regex in _EVERY_TAG:
            ends_at[repositories] = index
    if rules and all(rule.action == "exclude" for rule in rules):
        found.wrong(path, 'no rule includes anything, so nothing would be looked at; end with {tags: "*"}')


def _check_rule(path: KeyPath, rule: Rule, found: Findings) -> None:
    given = [key for key in ("tags", "regex", "semver") if getattr(rule, key)]
    if len(given) != 1:
        found.wrong(path, f"expected exactly one of tags, regex, semver; found {' and '.join(given) or 'none'}")
    if complaint := check_glob(rule.repositories):
        found.wrong((*path, "repositories"), f"not a pattern: {complaint}")
    if rule.tags and (complaint := check_glob(rule.tags)):
        found.wrong((*path, "tags"), f"not a pattern: {complaint}")
    if rule.regex and (complaint := check_regex(rule.regex)):
        found.wrong((*path, "regex"), f"not a regular expression: {complaint}")
    if rule.semver:
        try:
            parse_range(rule.semver)
        except DataError as error:
            found.wrong((*path, "semver"), f"{error.message}; {error.advice}")
    if rule.keep is not None:
        _check_keep((*path, "keep"), rule.keep, found)
        if rule.action == "exclude":
            found.wrong((*path, "keep"), "a rule that excludes keeps nothing; remove keep")


def _check_keep(path: KeyPath, keep: Keep, found: Findings) -> None:
    if keep.max_age is not None:
        found.between((*path, "max_age"), keep.max_age, _HOUR, _CENTURY)
