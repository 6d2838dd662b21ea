"""Where images of Google lie: what a host tells, and which project and repository a name means. Pure.

An image is `<host>/<project>/<repository>/<image path>`; on the gcr.io hosts the path follows the project at once, because each of these
hosts is one repository of Artifact Registry, named like the host. A domain-scoped project `example.com:proj` is written `example.com/proj`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_HOST = re.compile(
    r"(?:(?P<loc>[a-z][a-z0-9-]*)-docker\.pkg\.dev|docker\.(?P<rloc>[a-z][a-z0-9-]*)\.rep\.pkg\.dev|(?P<gcr>(?:us\.|eu\.|asia\.)?gcr\.io))"
)
_GCR_LOCATIONS = {"gcr.io": "us", "us.gcr.io": "us", "eu.gcr.io": "europe", "asia.gcr.io": "asia"}
_PROJECT = re.compile(r"(?:[a-z0-9.-]+\.[a-z0-9.-]+:)?[a-z0-9][a-z0-9-]{0,62}")
_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_WILDCARD = re.compile(r"[*?\[\]]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a host's name tells: the location, and for a gcr.io host the repository that it is."""

    location: str
    gcr: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A project, or a repository of it, or what begins with a path in there."""

    project: str
    """As the API names it: `proj`, `example.com:proj`."""
    repository: str = ""
    """Empty: all of the project."""
    path: str
    """As references begin with it: `example.com/proj/repo/team`."""

    @property
    def project_path(self) -> str:
        """The project as references have it."""
        return self.project.replace(":", "/")

    def covers(self, name: str) -> bool:
        """Whether a repository's name lies within."""
        return f"{name}/".startswith(f"{self.path}/")


def read_host(host: str) -> Host | None:
    """What a host name in lower case tells, or None when it is none of a customer's at Google."""
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    if gcr := found["gcr"]:
        return Host(location=_GCR_LOCATIONS[gcr], gcr=gcr)
    return Host(location=found["loc"] or found["rloc"])


def read_place(text: str, host: Host | None) -> Place | None:
    """The place that `project`, `project/repository` or a longer path means; None when it cannot be one."""
    parts = text.strip().strip("/").split("/")
    if "." in parts[0] and ":" not in parts[0]:
        parts[0:2] = [":".join(parts[0:2])]
    project, rest = parts[0], parts[1:]
    repository = host.gcr if host is not None and host.gcr else rest[0] if rest else ""
    if not _PROJECT.fullmatch(project) or (repository and not _REPOSITORY.fullmatch(repository)):
        return None
    return Place(project=project, repository=repository, path="/".join([project.replace(":", "/"), *rest]))


def literal_paths(patterns: Iterable[str]) -> tuple[str, ...]:
    """What include patterns begin with, up to the first component with a wildcard; none when one of them begins with a wildcard."""
    paths = []
    for pattern in patterns:
        parts = pattern.split("/")
        first = next((at for at, part in enumerate(parts) if _WILDCARD.search(part)), len(parts))
        path = "/".join(parts[:first]).strip("/")
        if not path:
            return ()
        paths.append(path)
    return tuple(dict.fromkeys(paths))


def image_name(uri: str, place: Place, repository: str, host: Host | None) -> tuple[str, str]:
    """Name and digest of `<host>/<project>/<repository>/<image>@<digest>`, the name as references on our host have it; empty: another's.

    Repositories behind a gcr.io host may be named with that host, and without the repository, or with the host of Artifact Registry.
    """
    full, at, digest = uri.rpartition("@")
    there, slash, path = full.partition("/")
    if not at or not slash:
        return "", ""
    project = place.project_path
    # the API writes the slashes of an image's name as %2F wherever they are part of one component
    path = path.replace(":", "/", 1).replace("%2F", "/")
    within = f"{project}/{repository}/"
    if host is None or not host.gcr:
        return (path, digest) if path.startswith(within) else ("", "")
    if there != host.gcr and path.startswith(within):
        path = f"{project}/{path.removeprefix(within)}"
    return (path, digest) if path.startswith(f"{project}/") else ("", "")
