"""Certificates for one platform, of an authority that nobody else knows: for measurements and tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM files of a server on this machine, and of those who vouch for it."""

    authorities: Path
    certificate: Path
    key: Path


def identity(folder: Path) -> Identity:
    """A new authority, and a certificate of it for 127.0.0.1."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = Identity(folder / "authorities.pem", folder / "certificate.pem", folder / "key.pem")
    folder.mkdir(parents=True, exist_ok=True)
    authority.cert_pem.write_to_path(str(files.authorities))
    files.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(files.key))
    return files
