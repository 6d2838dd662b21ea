"""Google Artifact Registry, and the gcr.io hosts, which are repositories of it since Container Registry was shut down.

Here are its addresses and the table; `gar_login` has the ways to log in, `gar_api` and `gar_tags` the listing, `gar_words` what refusals mean.
mirror.gcr.io, marketplace.gcr.io and k8s.gcr.io are Google's own and hold no customer's project: they are plain registries.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from sensor.config.schema import Registry as Settings
from sensor.pacing import Rate
from sensor.registry.challenge import parse_challenges
from sensor.registry.kinds.gar_api import GarNative
from sensor.registry.kinds.gar_login import credentials, method
from sensor.registry.kinds.gar_places import read_host, read_place
from sensor.registry.kinds.gar_words import explain
from sensor.registry.kinds.kind import Detection, RegistryKind, host_of, namespaced_address
from sensor.registry.quirks import Quirks
from sensor.transport import Reply

_RATE = Rate(per_second=500.0, burst=100)
"""Half of what a project may ask a region for (60,000 requests a minute, over all its clients)."""


def detect(url: str) -> Detection | None:
    """By the host: `<location>-docker.pkg.dev`, `docker.<region>.rep.pkg.dev`, and the gcr.io family. Takes any text."""
    name = host_of(url)
    host = read_host(name)
    if host is None:
        return None
    facts = {"location": host.location}
    path = urlsplit(url if "://" in url else f"//{url}").path.strip("/")
    place = read_place(path, host) if path else None
    if place is not None:
        facts["project"] = place.project
    repository = host.gcr or (place.repository if place is not None else "")
    if repository:
        facts["repository"] = repository
    if host.gcr:
        return Detection(reason=f"{name} is a repository of Artifact Registry in {host.location}", facts=facts)
    return Detection(reason=f"{name} is Artifact Registry in {host.location}", facts=facts)


def recognise(reply: Reply) -> str | None:
    """By a header of the gcr.io hosts, or where the challenge sends to."""
    if "x-gcr-using-artifact-registry" in reply.headers:
        return "it names itself Artifact Registry"
    for challenge in parse_challenges(reply.header_lists.get("www-authenticate", ())):
        if read_host(host_of(challenge["realm"])) is not None:
            return "its token service is Artifact Registry's"
    return None


def _rates(_settings: Settings) -> dict[str, Rate]:
    return {"": _RATE}


GAR = RegistryKind(
    name="gar",
    title="Google Artifact Registry",
    detect=detect,
    recognise=recognise,
    credentials=credentials,
    method=method,
    uses=frozenset({"gcp", "api"}),
    address=namespaced_address,
    explain=explain,
    quirks=Quirks(catalog=False, tags_page=10_000),
    rates=_rates,
    native=GarNative,
)
"""Artifact Registry for Docker images."""
