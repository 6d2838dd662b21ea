"""The Kubernetes manifests, rendered by kubectl and checked against the schemas of Kubernetes.

No cluster is involved: that the manifests are accepted, scheduled and let out by a real one is not shown here.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sensor.config.load import load_config
from sensor.config.schema import Config
from sensor.registry.kinds import detect
from sensor.secret import FromFile
from tests.fakes.certificates import Authority
from tests.fakes.kustomize import render

ROOT = Path(__file__).parents[2]
TREE = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(f"overlays/{path.name}" for path in (TREE / "overlays").iterdir())
EVERYWHERE = ["base", *OVERLAYS]
AUTHORITIES = "/etc/ssl/harborguard-sensor"
VERSIONS = ("1.28", "1.32", kubernetes_validate.latest_version())

Objects = dict[tuple[str, str], dict[str, Any]]
Rendered = Callable[[str], Objects]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """What a directory renders to, by kind and name; the hash behind a generated name is cut off."""
    known: dict[str, Objects] = {}

    def objects(directory: str) -> Objects:
        if directory not in known:
            found = render(TREE, directory, tmp_path_factory.mktemp("room"))
            known[directory] = by_name(found)
            assert len(known[directory]) == len(found)
        return known[directory]

    return objects


def by_name(objects: list[dict[str, Any]]) -> Objects:
    return {
        (one["kind"], re.sub(r"-[a-z0-9]{10}$", "", one["metadata"]["name"]) if one["kind"] == "ConfigMap" else one["metadata"]["name"]): one
        for one in objects
    }  # fmt: skip


def pod_of(objects: Objects) -> dict[str, Any]:
    template: dict[str, Any] = objects["StatefulSet", "sensor"]["spec"]["template"]
    return template


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("directory", EVERYWHERE)
def test_kubernetes_knows_every_field(rendered: Rendered, directory: str, version: str) -> None:
    for one in rendered(directory).values():
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("name", ["namespace.yaml", "secret.example.yaml"])
def test_what_is_applied_before_is_known_too(name: str) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(yaml.safe_load((TREE / name).read_text()), version, strict=True)


def test_the_schemas_would_see_a_mistake(rendered: Rendered) -> None:
    wrong = yaml.safe_load(yaml.safe_dump(rendered("base")["StatefulSet", "sensor"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("directory", EVERYWHERE)
def test_one_sensor_with_its_own_volume(rendered: Rendered, directory: str) -> None:
    objects = rendered(directory)
    spec = objects["StatefulSet", "sensor"]["spec"]
    assert spec["replicas"] == 1
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    service = objects["Service", spec["serviceName"]]["spec"]
    assert service["clusterIP"] == "None"
    assert service["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert spec["template"]["spec"]["serviceAccountName"] == objects["ServiceAccount", "sensor"]["metadata"]["name"]
    assert {one["metadata"]["namespace"] for one in objects.values()} == {"harborguard"}


@pytest.mark.parametrize("directory", EVERYWHERE)
def test_the_pod_is_restricted(rendered: Rendered, directory: str) -> None:
    pod = pod_of(rendered(directory))["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    user = pod["securityContext"]
    (image_user,) = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert f"{user['runAsUser']}:{user['runAsGroup']}" == image_user
    assert user["runAsNonRoot"] is True
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {Config().state.directory, "/tmp"}
    claims = rendered(directory)["StatefulSet", "sensor"]["spec"]["volumeClaimTemplates"]
    volumes = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"] for claim in claims}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    enforced = yaml.safe_load((TREE / "namespace.yaml").read_text())["metadata"]["labels"]
    assert enforced["pod-security.kubernetes.io/enforce"] == "restricted"


def config_of(objects: Objects, room: Path) -> Config:
    """The rendered configuration, with a certificate authority where it looks for one."""
    path = room / "config.yaml"
    (room / "ca.pem").write_text(Authority().pem.decode())
    path.write_text(objects["ConfigMap", "sensor"]["data"]["config.yaml"].replace(AUTHORITIES, str(room)))
    loaded = load_config(path, {})
    assert not loaded.warnings
    return loaded.config


@pytest.mark.parametrize("directory", EVERYWHERE)
def test_the_configuration_is_accepted_and_finds_its_files(rendered: Rendered, directory: str, tmp_path: Path) -> None:
    objects = rendered(directory)
    config = config_of(objects, tmp_path)
    (container,) = pod_of(objects)["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(objects)["spec"]["volumes"]}
    assert volumes["config"]["configMap"]["name"] == objects["ConfigMap", "sensor"]["metadata"]["name"] != "sensor"
    assert container["args"] == ["run", "--config", f"{mounts['config']}/config.yaml"]
    secret = yaml.safe_load((TREE / "secret.example.yaml").read_text())
    assert volumes["secrets"]["secret"]["secretName"] == secret["metadata"]["name"]
    files = {f"{mounts['secrets']}/{name}" for name in secret["stringData"]}
    assert config.control_plane is not None
    named = {
        source.path
        for source in (config.control_plane.api_key, *(registry.password for registry in config.registries))
        if isinstance(source, FromFile)
    }
    assert named
    assert named <= files
    if config.http.ca_file:
        assert mounts["authorities"] == AUTHORITIES
        assert volumes["authorities"]["configMap"] == {"name": "private-ca"}
    (port,) = [port["containerPort"] for port in container["ports"] if port["name"] == "health"]
    assert config.health.listen == f"0.0.0.0:{port}"
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz",
    }  # fmt: skip
    assert {probe["port"] for probe in probes.values()} == {"health"}


# --- identities ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlay", "provider", "page", "mark"),
    [
        ("eks-irsa", "ecr", "ecr.md", "eks.amazonaws.com/role-arn"),
        ("eks-pod-identity", "ecr", "ecr.md", ""),
        ("gke-workload-identity", "gar", "gar.md", "iam.gke.io/gcp-service-account"),
        ("aks-workload-identity", "acr", "acr.md", "azure.workload.identity/client-id"),
    ],
)
def test_a_clouds_identity_is_the_one_of_its_page(
    rendered: Rendered, overlay: str, provider: str, page: str, mark: str, tmp_path: Path
) -> None:
    objects = rendered(f"overlays/{overlay}")
    account = objects["ServiceAccount", "sensor"]
    annotations = account["metadata"].get("annotations", {})
    assert ([mark] if mark else []) == [name for name in annotations if "sts-regional" not in name]
    text = (ROOT / "docs" / "registries" / page).read_text()
    assert mark in text
    assert f"{account['metadata']['namespace']}" in text
    (registry,) = config_of(objects, tmp_path).registries
    assert detect(registry.url)[0].name == provider
    assert registry.password is None, "the identity is all there is"
    labels = pod_of(objects)["metadata"]["labels"]
    assert (labels.get("azure.workload.identity/use") == "true") == (provider == "acr")


def test_the_pages_name_the_service_account() -> None:
    text = "".join((ROOT / "docs" / "registries" / page).read_text() for page in ("ecr.md", "gar.md", "acr.md"))
    subjects = set(re.findall(r"system:serviceaccount:([a-z:-]+)", text))
    assert subjects == {"harborguard:sensor"}
    assert "--namespace harborguard --service-account sensor" in text
    assert "ns/harborguard/sa/sensor" in text


# --- the network --------------------------------------------------------------------------------------------------------------


def lets_out(objects: Objects, address: str, port: int) -> bool:
    """Whether some policy lets the pod connect to an address (TCP). Policies add up."""
    target = ipaddress.ip_address(address)

    def within(block: dict[str, Any]) -> bool:
        inside = [target in ipaddress.ip_network(cidr) for cidr in (block["cidr"], *block.get("except", []))]
        return inside[0] and not any(inside[1:])

    return any(
        any(within(peer["ipBlock"]) for peer in rule["to"] if "ipBlock" in peer)
        and any(allowed["port"] == port and allowed["protocol"] == "TCP" for allowed in rule["ports"])
        for (kind, _), policy in objects.items()
        if kind == "NetworkPolicy"
        for rule in policy["spec"].get("egress", [])
    )


@pytest.mark.parametrize("directory", EVERYWHERE)
def test_nothing_comes_in_and_only_https_goes_out(rendered: Rendered, directory: str) -> None:
    objects = rendered(directory)
    for (kind, _), policy in objects.items():
        if kind == "NetworkPolicy":
            assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod_of(objects)["metadata"]["labels"].items()
            assert not policy["spec"].get("ingress")
    assert set(objects["NetworkPolicy", "sensor"]["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    for address in ("203.0.113.7", "10.1.2.3", "2001:db8::7"):
        assert lets_out(objects, address, 443)
        assert not lets_out(objects, address, 80)
    for address in ("169.254.169.254", "fd00:ec2::254", "fe80::1"):
        assert not lets_out(objects, address, 443)


@pytest.mark.parametrize(
    ("address", "port", "overlay"),
    [
        ("169.254.170.23", 80, "eks-pod-identity"),
        ("fd00:ec2::23", 80, "eks-pod-identity"),
        ("169.254.169.252", 988, "gke-workload-identity"),
        ("169.254.169.254", 80, "gke-workload-identity"),
    ],
)
def test_who_gives_identities_is_let_through_where_it_is_asked(
    rendered: Rendered, address: str, port: int, overlay: str
) -> None:
    reached = {directory for directory in EVERYWHERE if lets_out(rendered(directory), address, port)}
    assert reached == {f"overlays/{overlay}"}


# --- an overlay of one's own --------------------------------------------------------------------------------------------------


def test_components_go_with_every_overlay(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(TREE, tree)
    own = tree / "overlays" / "own"
    own.mkdir()
    (own / "config.yaml").write_text("registries: []\n")
    (own / "kustomization.yaml").write_text(
        """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: security
resources: [../eks-irsa]
components: [../../components/private-ca, ../../components/prometheus]
configMapGenerator: [{name: sensor, behavior: replace, files: [config.yaml]}]
images: [{name: registry.example.com/harborguard-sensor, newName: mirror.internal/sensor, newTag: "1.0"}]
"""
    )
    objects = by_name(render(tree, "overlays/own", tmp_path))
    for one in objects.values():
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
        assert one["metadata"]["namespace"] == "security"
    (container,) = pod_of(objects)["spec"]["containers"]
    assert container["image"] == "mirror.internal/sensor:1.0"
    assert "authorities" in {mount["name"] for mount in container["volumeMounts"]}
    assert "eks.amazonaws.com/role-arn" in objects["ServiceAccount", "sensor"]["metadata"]["annotations"]
    (rule,) = objects["NetworkPolicy", "sensor-scrape"]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": container["ports"][0]["name"]}]
