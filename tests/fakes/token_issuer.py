"""A token service for registries: Basic in, signed JWT out (CNCF distribution 2.8's demands: ES256, libtrust key id, `aud` a string)."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID


class TokenIssuer:
    """Runs in a thread of its own. Every known user may pull and push everything; anonymous clients may pull `public/...`.

    `denied` are repositories that nobody gets, `catalog` says whether users may list, `life` is the tokens' life in seconds.
    """

    def __init__(self, users: dict[str, str], *, life: int = 300, catalog: bool = True) -> None:
        self.name = "test-issuer"
        self.service = "test-service"
        self.users = users
        self.life = life
        self.catalog = catalog
        self.denied: set[str] = set()
        self.issued: list[str] = []
        """The scopes of all tokens, in order."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
            .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
            .sign(self._key, hashes.SHA256())
        )
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def certificate_pem(self) -> bytes:
        """For the registry's rootcertbundle."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def start(self) -> None:
        """Listen on a free port."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = issuer._answer(self.path, self.headers.get("Authorization", ""))
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_POST(self) -> None:
                self.send_error(405)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def _answer(self, path: str, authorization: str) -> tuple[int, dict[str, object]]:
        query = parse_qs(urlsplit(path).query)
        user = ""
        if authorization:
            pair = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            if self.users.get(pair[0]) != pair[2]:
                return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong user name or password"}]}
            user = pair[0]
        scopes = query.get("scope", [])
        self.issued.append(" ".join(scopes))
        access = [granted for scope in scopes if (granted := self._grant(scope, user))]
        return 200, {"token": self.sign(access, user), "expires_in": self.life}

    def _grant(self, scope: str, user: str) -> dict[str, object] | None:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        if kind == "registry":
            return {"type": kind, "name": name, "actions": ["*"]} if user and self.catalog else None
        if name in self.denied or not (user or name.startswith("public/")):
            return None
        return {"type": kind, "name": name, "actions": actions.split(",") if user else ["pull"]}

    def sign(self, access: list[dict[str, object]], user: str) -> str:
        """A token."""
        now = int(time.time())
        claims = {
            "iss": self.name,
            "aud": self.service,
            "sub": user,
            "iat": now,
            "nbf": now - 5,
            "exp": now + self.life,
            "access": access,
        }
        head = {"typ": "JWT", "alg": "ES256", "kid": self._key_id()}
        signed = b".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return (signed + b"." + _base64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()

    def _key_id(self) -> str:
        spki = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        text = base64.b32encode(hashlib.sha256(spki).digest()[:30]).decode()
        return ":".join(text[at : at + 4] for at in range(0, len(text), 4))


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
