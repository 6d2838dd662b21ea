"""The floor: download, SHA-256 and inflate every layer of an image in one thread, nothing else. What no scanner can beat without skipping work.

python -m benchmarks.floor http://127.0.0.1:PORT REPOSITORY TAG
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
from urllib.parse import urlsplit

from isal import isal_zlib

ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
CHUNK = 1 << 20


def main(base: str, repository: str, tag: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(base).netloc)
    connection.request("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": ACCEPT})
    manifest = json.loads(connection.getresponse().read())
    packed = unpacked = 0
    for layer in manifest["layers"]:
        connection.request("GET", f"/v2/{repository}/blobs/{layer['digest']}")
        answer = connection.getresponse()
        digest = hashlib.sha256()
        inflate = isal_zlib.decompressobj(wbits=31)
        while chunk := answer.read(CHUNK):
            digest.update(chunk)
            packed += len(chunk)
            unpacked += len(inflate.decompress(chunk))
        if f"sha256:{digest.hexdigest()}" != layer["digest"]:
            sys.exit(f"{layer['digest']} has other bytes")
    print(json.dumps({"layers": len(manifest["layers"]), "packed": packed, "unpacked": unpacked}))


if __name__ == "__main__":
    main(*sys.argv[1:])
