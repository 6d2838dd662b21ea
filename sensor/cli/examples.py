"""What people type: the examples at the end of each command's help. A test parses them all."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": ("run --config /etc/harborguard-sensor/config.yaml",),
    "scan": (
        "scan registry.example.com/team/app:1.4",
        "scan oci:/images/layout:team/app:1.4",
        "scan archive:/images/app.tar:team/app:1.4",
        "scan registry.example.com/team/app:1.4 --fail-on high --quiet",
        "scan registry.example.com/team/app:1.4 --output cyclonedx --output-file sbom.json",
    ),
    "test": (
        "test",
        "test production",
        "test registry.example.com:5000 --insecure --output json",
    ),
    "plan": (
        "plan",
        "plan production --sizes",
        "plan oci:/images/layout --output json",
    ),
    "check": (
        "check --config config.yaml",
        "check --output json",
    ),
    "status": (
        "status",
        "status --config config.yaml --output json",
        "status --probe",
    ),
    "pause": ("pause production --config config.yaml",),
    "resume": ("resume production --config config.yaml",),
    "advisories": (
        "advisories import --demo",
        "advisories import /media/osv",
        "advisories update --config config.yaml",
        "advisories status",
    ),
    "secret": (
        "secret set production",
        "secret list --config config.yaml",
        "secret delete production",
        "secret new-key /etc/harborguard-sensor/vault-key",
        "secret rekey",
    ),
    "support": (
        "support --config /etc/harborguard-sensor/config.yaml",
        "support --no-test --output ticket.tar.gz",
    ),
    "demo": (
        "demo",
        "demo --once",
        "demo --once --advisories /media/osv --output json",
    ),
    "console": (
        "console --directory /var/lib/harborguard-console",
        "console --listen 0.0.0.0:3456 --new-admin-key",
    ),
}


def epilog_of(command: str) -> str:
    """The examples as the end of a help text; the mark in front keeps their lines as they are."""
    lines = "\n".join(f"  harborguard-sensor {example}" for example in EXAMPLES[command])
    return f"\b\nExamples:\n{lines}"
