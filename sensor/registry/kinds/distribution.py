"""Any registry that speaks the OCI distribution protocol: CNCF distribution, zot, Gitea, and whatever no other kind recognises.

Nothing is special about it; it cannot be recognised by its name either, so `auto` takes it when nothing else fits.
"""

from __future__ import annotations

from sensor.registry.kinds.kind import RegistryKind

DISTRIBUTION = RegistryKind(name="distribution", title="OCI Distribution", detect=lambda _url: None, has_paths=False)
