"""A real registry: Debian's docker-registry (CNCF distribution 2.8) as a process on loopback, filled by skopeo.

    with DockerRegistry(tmp_path, auth="htpasswd", tls=True) as registry:
        registry.push(layout_directory, "team/app:v1", "team/app", "v1")
        registry.url, registry.ca_file, registry.username, registry.password

Configurations follow the registry's own documentation: no login, htpasswd, or bearer tokens of the issuer in `token_issuer.py`; plain HTTP
or TLS with a certificate authority made for the occasion.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.fakes.certificates import Authority
from tests.fakes.token_issuer import TokenIssuer

Auth = Literal["none", "htpasswd", "token"]


class DockerRegistry:
    """One registry process with its own storage; ends with the block."""

    def __init__(
        self,
        directory: Path,
        *,
        auth: Auth = "none",
        tls: bool = False,
        mutual: bool = False,
        notify: str = "",
        maxentries: int = 1000,
    ) -> None:
        """With `mutual` (and TLS) clients need a certificate of the same authority."""
        self.directory = directory
        self.auth = auth
        self.tls = tls
        self.username = "" if auth == "none" else "sensor"
        self.password = "" if auth == "none" else "s3cret pass"
        self.host = f"127.0.0.1:{free_port()}"
        self.issuer: TokenIssuer | None = None
        self._mutual = mutual
        self._notify = notify
        self._maxentries = maxentries
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self._authority = Authority("Test Registry CA") if tls else None

    @property
    def url(self) -> str:
        """The address with its scheme."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def ca_file(self) -> str:
        """PEM file of the authority that signed the registry's certificate; empty without TLS."""
        return str(self.directory / "ca" / "ca.crt") if self.tls else ""

    @property
    def client(self) -> tuple[str, str]:
        """PEM files of a client certificate and its key."""
        return str(self.directory / "ca" / "client.cert"), str(self.directory / "ca" / "client.key")

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Write the configuration, start the process and wait until it answers."""
        if self.auth == "token" and self.issuer is None:
            self.issuer = TokenIssuer(users={self.username: self.password})
            self.issuer.start()
        config = self.directory / "config.yml"
        config.write_text(json.dumps(self._configuration()))
        with (self.directory / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait()

    def stop(self) -> None:
        """End the process (by its id) and the token issuer. The storage stays: `start` again to go on."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self.issuer is not None:
            self.issuer.stop()
            self.issuer = None

    def push(self, layout: Path, name: str, repository: str, tag: str) -> None:
        """Copy an entry of an OCI layout (all platforms) by skopeo; `name` is its org.opencontainers.image.ref.name, "" if alone."""
        source = f"oci:{layout}:{name}" if name else f"oci:{layout}"
        self._skopeo(
            "copy", "--all", "--preserve-digests", *self._dest(), source, f"docker://{self.host}/{repository}:{tag}"
        )

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest by digest."""
        options = ["--creds", f"{self.username}:{self.password}"] if self.username else []
        options += ["--cert-dir", str(self.directory / "ca")] if self.tls else ["--tls-verify=false"]
        self._skopeo("delete", *options, f"docker://{self.host}/{repository}@{digest}")

    def _dest(self) -> list[str]:
        options = ["--dest-creds", f"{self.username}:{self.password}"] if self.username else []
        return options + (["--dest-cert-dir", str(self.directory / "ca")] if self.tls else ["--dest-tls-verify=false"])

    def _skopeo(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            ["skopeo", "--insecure-policy", "--tmpdir", str(self.directory), command, *arguments],
            capture_output=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"skopeo {command} failed: {done.stderr.decode(errors='replace')}")

    def _configuration(self) -> dict[str, object]:
        http: dict[str, object] = {"addr": self.host, "secret": "any"}
        if self._authority is not None:
            (self.directory / "ca").mkdir(exist_ok=True)
            (self.directory / "ca" / "ca.crt").write_bytes(self._authority.pem)
            certificate, key = self._authority.issue(self.directory)
            tls: dict[str, object] = {"certificate": str(certificate), "key": str(key)}
            if self._mutual:
                # under these names skopeo looks for them
                made, key_of_client = self._authority.issue_client(self.directory / "ca", "client")
                Path(made).replace(self.client[0])
                assert key_of_client == self.client[1]
                tls["clientcas"] = [self.ca_file]
            http["tls"] = tls
        configuration: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "data")},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "catalog": {"maxentries": self._maxentries},
            "http": http,
        }
        if self.auth == "htpasswd":
            file = self.directory / "htpasswd"
            subprocess.run(
                ["htpasswd", "-cbB", "-C", "4", str(file), self.username, self.password],
                capture_output=True,
                check=True,
            )
            configuration["auth"] = {"htpasswd": {"realm": "test", "path": str(file)}}
        elif self.issuer is not None:
            bundle = self.directory / "bundle.pem"
            bundle.write_bytes(self.issuer.certificate_pem)
            token = {
                "realm": f"{self.issuer.url}/token",
                "service": self.issuer.service,
                "issuer": self.issuer.name,
                "rootcertbundle": str(bundle),
            }
            configuration["auth"] = {"token": token}
        if self._notify:
            endpoint = {"name": "sensor", "url": self._notify, "timeout": "1s", "threshold": 2, "backoff": "1s"}
            endpoint["headers"] = {"Authorization": ["Bearer hook secret"]}
            configuration["notifications"] = {"events": {"includereferences": True}, "endpoints": [endpoint]}
        return configuration

    def _wait(self) -> None:
        context = ssl.create_default_context(cafile=self.ca_file) if self.tls else None
        if context is not None and self._mutual:
            context.load_cert_chain(*self.client)
        end = time.monotonic() + 15
        while time.monotonic() < end:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/v2/", timeout=2, context=context):
                    return
            except urllib.error.HTTPError as error:
                error.close()
                return
            except OSError:
                time.sleep(0.02)
        log = (self.directory / "registry.log").read_text(errors="replace")
        raise AssertionError(f"docker-registry did not start: {log[-2000:]}")


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
