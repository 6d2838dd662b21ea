"""The floor: what reading an image costs before anything is looked at, in one thread of straightforward Python.

    python -m benchmarks.floor http://127.0.0.1:PORT REPOSITORY TAG

For every layer in turn: download over one kept connection into one buffer of 1 MiB (`http.client`, `readinto`: no copy but the
kernel's), SHA-256 of it (OpenSSL), compared with the manifest's digest, and inflate (ISA-L) in pieces of at most 512 KiB that are counted and
dropped. No tar, no files, no process besides this one. Other sizes, from 128 KiB to 1 MiB, gave the same within a tenth.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
from urllib.parse import urlsplit

from isal import igzip_lib

ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
BUFFER_BYTES = 1 << 20
PIECE_BYTES = 1 << 19


def main(base: str, repository: str, tag: str) -> None:
    """Read the image and say how much it was."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc)
    connection.request("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": ACCEPT})
    manifest = json.loads(connection.getresponse().read())
    buffer = memoryview(bytearray(BUFFER_BYTES))
    packed = unpacked = 0
    for layer in manifest["layers"]:
        connection.request("GET", f"/v2/{repository}/blobs/{layer['digest']}")
        answer = connection.getresponse()
        digest = hashlib.sha256()
        inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        while count := answer.readinto(buffer):
            digest.update(buffer[:count])
            packed += count
            unpacked += len(inflater.decompress(buffer[:count], PIECE_BYTES))
            while not (inflater.needs_input or inflater.eof):
                unpacked += len(inflater.decompress(b"", PIECE_BYTES))
        if f"sha256:{digest.hexdigest()}" != layer["digest"] or not inflater.eof:
            sys.exit(f"{layer['digest']} has other bytes")
    print(json.dumps({"layers": len(manifest["layers"]), "packed": packed, "unpacked": unpacked}))


if __name__ == "__main__":
    main(*sys.argv[1:])
