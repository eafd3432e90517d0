"""TLS on the data port: one certificate, exchanged without a restart.

Owns the files and the settings of a handshake. It must not know who asks for a reload.
"""

from __future__ import annotations

import ssl
from pathlib import Path


class PortTls:
    """The TLS settings of the data port.

    Attributes:
        context: In force; handshakes after a `reload` use what it brought.
    """

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Reads the files.

        Args:
            cert_file: The certificate and those between it and its authority, PEM.
            key_file: Its private key, PEM, without a passphrase.

        Raises:
            OSError: A file cannot be read, holds nothing of its kind, or the two do not belong together.
        """
        self._files = cert_file, key_file
        self.context = _load(cert_file, key_file)

    def reload(self) -> None:
        """Reads the files again; connections that are open stay as they are.

        Raises:
            OSError: As at the start. What was in force stays in force.
        """
        # Into one of its own first: half of a pair in the live one would fail every handshake.
        _load(*self._files)
        self.context.load_cert_chain(*self._files, password=_no_passphrase)


def _load(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert_file, key_file, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    # Without this, OpenSSL would ask on the terminal.
    return ""
