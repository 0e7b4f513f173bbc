"""An authority of a test's own, and the certificates that it issues: by the `openssl` command, in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.kit.commands import run

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
HOSTS = ("DNS:localhost", "IP:127.0.0.1")


class Identity(NamedTuple):
    """A certificate and its key, as files. `both`: one after the other in one file, as MongoDB wants them."""

    cert: Path
    key: Path
    both: Path


class Authority:
    """`ca` is its own certificate, which clients and servers trust."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.ca, self._key = folder / "ca.pem", folder / "ca.key"
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        out = ("-keyout", self._key, "-out", self.ca)
        run(["openssl", "req", "-x509", *KEY, *out, "-days", "2", "-subj", "/CN=a test", *usage], check=True)

    def issue(self, name: str, *hosts: str, days: int = 2) -> Identity:
        """A certificate for these hosts ("DNS:localhost"), by default for HOSTS. `days`: -1 is one that has expired."""
        cert, key, request, extensions = (self._folder / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
        run(["openssl", "req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}"], check=True)
        extensions.write_text(
            f"subjectAltName={','.join(hosts or HOSTS)}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        signer = ("-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-days", str(days))
        run(["openssl", "x509", "-req", "-in", request, *signer, "-extfile", extensions, "-out", cert], check=True)
        both = self._folder / f"{name}.both"
        both.write_bytes(cert.read_bytes() + key.read_bytes())
        return Identity(cert, key, both)
