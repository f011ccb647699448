"""Certificates, and TLS in front of a server that has none, as the embedded PostgreSQL has none."""

from __future__ import annotations

import ipaddress
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import ServerError
from .helper_process import HelperProcess
from .programs import require_program

__all__ = ["Certificate", "CertificateAuthority", "TlsProxy"]

_DAYS = "2"


@dataclass(frozen=True)
class Certificate:
    """A server's certificate with its key, and the authority that a client has to trust for it."""

    names: tuple[str, ...]
    certificate: Path
    key: Path
    authority: Path


class CertificateAuthority:
    """Issues certificates for tests; one that it has not issued is not trusted by its clients.

    The program ``openssl`` makes them, in about a tenth of a second. They are valid for two days.

    :param directory: where all files go; only their owner can read the keys. Not removed.
    :raises ServerError: if ``openssl`` is not installed.
    """

    def __init__(self, directory: Path | str) -> None:
        self._program = require_program("openssl")
        self._directory = Path(directory)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._count = 0
        #: The authority's own certificate: clients name it as ``sslrootcert``.
        self.certificate = self._directory / "authority.crt"
        self._key = self._directory / "authority.key"
        self._configuration = self._directory / "openssl.cnf"
        self._configuration.write_text(
            "[req]\ndistinguished_name = name\nx509_extensions = authority\nprompt = no\n"
            "[name]\nCN = geventpg.testing\n"
            "[authority]\nbasicConstraints = critical, CA:true\nkeyUsage = keyCertSign\n"
            "subjectKeyIdentifier = hash\n"
        )
        self._request(self._key, "-x509", "-days", _DAYS, "-out", str(self.certificate))

    def issue(self, *names: str) -> Certificate:
        """Return a new certificate for servers with these host names and addresses."""
        if not names:
            raise ValueError("a certificate needs at least one name")
        self._count += 1
        base = self._directory / f"server-{self._count}"
        key, request, certificate, extensions = (
            base.with_suffix(suffix) for suffix in (".key", ".csr", ".crt", ".ext")
        )
        alternatives = ", ".join(f"{_kind(name)}:{name}" for name in names)
        extensions.write_text(f"subjectAltName = {alternatives}\nbasicConstraints = CA:false\n")
        self._request(key, "-out", str(request))
        signing = ["-CA", self.certificate, "-CAkey", self._key]
        self._run(
            *("x509", "-req", "-sha256", "-days", _DAYS, *signing, "-CAcreateserial"),
            *["-in", request, "-out", certificate, "-extfile", extensions],
        )
        return Certificate(names, certificate, key, self.certificate)

    def _request(self, key: Path, *arguments: str) -> None:
        key.touch(mode=0o600)
        self._run(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *["-config", self._configuration, "-keyout", key, *arguments],
        )

    def _run(self, *arguments: object) -> None:
        result = subprocess.run(
            [self._program, *map(str, arguments)],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if result.returncode != 0:
            raise ServerError(f"openssl failed: {result.stdout.decode(errors='replace')}")


class TlsProxy(HelperProcess):
    """Speak TLS for a server that cannot, in a process of its own.

    The wheel's PostgreSQL is built without OpenSSL. This proxy agrees on TLS as PostgreSQL does
    (also begun directly, ``sslnegotiation=direct``), decrypts, and connects to the server in clear.
    Clients that do not ask for TLS are let through without. The server does not know of the TLS, so
    that ``pg_stat_ssl`` is empty and there is no channel binding.

    Use it as a context manager, or call :meth:`start` and :meth:`close`. A
    :class:`~geventpg.testing.TcpProxy` in front of it breaks encrypted connections.

    :param target_host: the server's name or address.
    :param target_port: the port there.
    :param certificate: what it shows to clients.
    """

    _program = Path(__file__).with_name("tls_process.py")

    def __init__(self, target_host: str, target_port: int, certificate: Certificate) -> None:
        super().__init__()
        self.target_host = target_host
        self.target_port = target_port
        self.certificate = certificate

    def __repr__(self) -> str:
        target = f"{self.target_host}:{self.target_port}"
        return f"<{type(self).__name__} {self.host}:{self._port} -> {target}>"

    def dsn(self, dsn: str) -> str:
        """Return the conninfo *dsn* with the proxy's address, and with ``verify-full``.

        The host is the certificate's first name.
        """
        from psycopg.conninfo import conninfo_to_dict, make_conninfo

        changes: dict[str, str | int] = {
            "host": self.certificate.names[0],
            "hostaddr": self.host,
            "port": self.port,
            "sslmode": "verify-full",
            "sslrootcert": str(self.certificate.authority),
        }
        return make_conninfo("", **{**conninfo_to_dict(dsn), **changes})

    def _arguments(self) -> list[str | Path]:
        certificate = self.certificate
        return [self.target_host, str(self.target_port), certificate.certificate, certificate.key]


def _kind(name: str) -> str:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "DNS"
    return "IP"
