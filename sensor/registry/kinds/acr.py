"""Azure Container Registry, in all clouds: `<name>.azurecr.io`, `.azurecr.cn`, `.azurecr.us`. Not mcr.microsoft.com, which is anonymous.

Where the credential comes from is `acr_login`'s, listing `acr_api`'s, words are `acr_words`'; here is the value that ties them together.
"""

from __future__ import annotations

from sensor.identity.azure import AzureIdentity
from sensor.pacing import Rate
from sensor.registry.credentials import Anonymous
from sensor.registry.kinds.acr_api import PULL_ACTIONS, AcrApi
from sensor.registry.kinds.acr_login import Exchange, GivenCredential, MachineCredential
from sensor.registry.kinds.acr_words import CATALOG, HOST, explain, method_of, uses_identity
from sensor.registry.kinds.kind import Detection, Opening, RegistryKind, host_of, namespaced_address
from sensor.registry.quirks import Quirks
from sensor.registry.terms import CredentialSource
from sensor.transport import Reply, Transport

_CLOUDS = {
    "io": ("AzureCloud", ""),
    "cn": ("AzureChinaCloud", "login.chinacloudapi.cn"),
    "us": ("AzureUSGovernment", "login.microsoftonline.us"),
}
"""By the end of the host: the cloud as `az cloud list` names it, and its token service. In the public cloud the environment may name another."""
_READS = Rate(per_second=80.0, burst=200)
"""5,000 a minute and identity are documented for the smaller tiers."""


def detect(url: str) -> Detection | None:
    """A login server, also with a domain-name label or of one region."""
    found = HOST.fullmatch(host_of(url))
    if found is None:
        return None
    facts = {"registry": found["registry"], "cloud": _CLOUDS[found["tld"]][0], "region": found["region"] or ""}
    return Detection(
        reason=f"a login server of Azure Container Registry (azurecr.{found['tld']})",
        facts={key: value for key, value in facts.items() if value},
    )


def _recognise(reply: Reply) -> str | None:
    if b"aka.ms/acr/" in reply.body[:4096].lower():
        return "the answer points to Azure Container Registry's help pages"
    return None


def _credentials(opening: Opening, transport: Transport) -> CredentialSource:
    settings = opening.settings
    if settings.auth == "anonymous":
        return Anonymous()
    exchange = Exchange(opening, transport)
    if not uses_identity(settings):
        return GivenCredential(opening, exchange)
    found = HOST.fullmatch(host_of(settings.url))
    authority = _CLOUDS[found["tld"]][1] if found else ""
    return MachineCredential(
        AzureIdentity(settings.azure, transport, authority=authority, limits=opening.limits), exchange
    )


ACR = RegistryKind(
    name="acr",
    title="Azure Container Registry",
    detect=detect,
    recognise=_recognise,
    credentials=_credentials,
    method=method_of,
    uses=frozenset({"azure"}),
    address=namespaced_address,
    explain=explain,
    quirks=Quirks(catalog=False, catalog_scope=CATALOG, pull_actions=PULL_ACTIONS),
    rates=lambda _settings: {"": _READS},
    native=AcrApi,
)
