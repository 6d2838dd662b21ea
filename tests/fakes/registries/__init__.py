"""One fake for every kind of registry over HTTP. A kind without a fake here fails the conformance suite."""

from __future__ import annotations

from tests.fakes.registries.acr import AcrFake
from tests.fakes.registries.artifactory import ArtifactoryFake
from tests.fakes.registries.distribution import DistributionFake
from tests.fakes.registries.dockerhub import DockerHubFake
from tests.fakes.registries.ecr import EcrFake
from tests.fakes.registries.ecr_public import EcrPublicFake
from tests.fakes.registries.gar import GarFake
from tests.fakes.registries.ghcr import GhcrFake
from tests.fakes.registries.gitlab import GitlabFake
from tests.fakes.registries.harbor import HarborFake
from tests.fakes.registries.nexus import NexusFake
from tests.fakes.registries.provider import ProviderFake
from tests.fakes.registries.quay import QuayFake

FAKES: tuple[type[ProviderFake], ...] = (
    AcrFake,
    ArtifactoryFake,
    DistributionFake,
    DockerHubFake,
    GarFake,
    GhcrFake,
    EcrFake,
    EcrPublicFake,
    GitlabFake,
    HarborFake,
    NexusFake,
    QuayFake,
)  # fmt: skip
