"""Connecting: to the server, or to the reason why not."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from geventpg.cli.findings import Finding, problem
from geventpg.connection.connection import Connection
from geventpg.conninfo.discretion import discreet
from geventpg.errors import OptionError, StartupOptionRefused


@dataclass(frozen=True)
class Target:
    """A server to look at. Its repr has no secret."""

    conninfo: str
    timeout: float
    """Seconds for connecting."""

    def __repr__(self) -> str:
        return f"<Target {self.where}>"

    @discreet
    def connect(self, **changes: Any) -> Connection[Any]:
        """Return an autocommit connection. Raise what `Connection.connect` raises."""
        limit: dict[str, Any] = {}
        if "connect_timeout" not in conninfo_to_dict(self.conninfo):
            limit["connect_timeout"] = max(round(self.timeout), 2)
        return Connection.connect(
            make_conninfo(self.conninfo, application_name="geventpg doctor", **limit, **changes),
            autocommit=True,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """The connection string's parameters, secrets left out."""
        secret = ("password", "sslpassword", "oauth_client_secret")
        return {k: v for k, v in conninfo_to_dict(self.conninfo).items() if k not in secret}

    @property
    def where(self) -> str:
        """Host, port, database and user, as far as they are given."""
        names = ("service", "host", "hostaddr", "port", "dbname", "user")
        given = self.parameters
        return " ".join(f"{name}={given[name]}" for name in names if given.get(name)) or "default"


def explain_conninfo(error: OptionError) -> Finding:
    """Return the finding for a connection string that cannot be read."""
    return problem("conninfo", f"{error}.", "Correct it; it is not shown, it may hold a password.")


@discreet
def explain(error: psycopg.Error, target: Target) -> Finding:
    """Return why no connection could be opened to *target*, and what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, StartupOptionRefused):
        return problem("startup-option-refused", text, "Do as it says; see docs/poolers.md.")
    for pattern, code, advice in REASONS:
        if re.search(pattern, text):
            if code == "certificate":
                return _explain_certificate(text, target)
            return problem(code, text, advice)
    return problem("unreachable", text, _UNREACHABLE)


_UNREACHABLE = (
    "Check host, port and firewall; is the server running, and does listen_addresses include this"
    " address?"
)

REASONS: tuple[tuple[str, str, str], ...] = (
    (
        r"failed to resolve host|could not translate host name|resolving host",
        "name-not-resolved",
        "Check the host name, and the name servers of this machine (/etc/resolv.conf).",
    ),
    (
        r"password authentication failed|no password supplied|authentication failed for user",
        "wrong-password",
        (
            "Check user and password, PGPASSWORD and ~/.pgpass; behind a pooler, its own list of"
            " users."
        ),
    ),
    (r"role \"[^\"]*\" does not exist", "role-missing", "Check the user, or CREATE ROLE … LOGIN."),
    (r"database \"[^\"]*\" does not exist", "database-missing", "Check dbname, or createdb."),
    (
        r"no pg_hba\.conf entry.*(?:no encryption|SSL off)|does not support SSL|no SSL",
        "tls-mismatch",
        (
            "One side wants TLS and the other does not: set sslmode=verify-full if the server has"
            " TLS (ssl = on), and mend pg_hba.conf or the server if it has not."
        ),
    ),
    (r"pg_hba\.conf", "not-allowed", "Add a line for this user, database and address to pg_hba."),
    (
        r"too many clients|connection slots are reserved|too many connections|no more connections",
        "too-many-clients",
        "See in pg_stat_activity who holds them; lower the pools' max_size, or see geventpg plan.",
    ),
    (
        r"certificate|does not match host name|SSL error",
        "certificate",
        "",
    ),
    (
        r"starting up|shutting down|not yet accepting|recovery",
        "server-not-ready",
        "Wait. A pool goes on trying by itself.",
    ),
    (
        r"timeout expired|timed out",
        "unreachable",
        (
            "Nothing answers there: look for a firewall that drops packets, a wrong address, a"
            " server that hangs."
        ),
    ),
    (r"refused", "refused", _UNREACHABLE),
)

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


def _explain_certificate(text: str, target: Target) -> Finding:
    advice = (
        "sslrootcert must name the authority that signed the server's certificate, or be 'system'"
        " for a public one; the certificate must be valid and have the host name that is used."
    )
    reason = ""
    if "does not match host name" in text:
        advice = "Use the name that stands in the certificate, or have one issued for this name."
    elif "verify failed" in text:
        reason = _ask_openssl(target)
        if "expired" in reason:
            advice = "Renew the server's certificate and reload the server."
    found = f"{text} ({reason})" if reason else text
    return problem("certificate", found, advice, reason=reason)


def _ask_openssl(target: Target) -> str:
    """Return OpenSSL's own words, which libpq does not pass on; empty if it has none."""
    given = target.parameters
    host = str(given.get("hostaddr") or given.get("host") or "localhost").split(",")[0]
    port = str(given.get("port") or 5432).split(",")[0]
    root = given.get("sslrootcert")
    context = ssl.create_default_context()
    context.check_hostname = False
    try:
        if root and root != "system":
            context.load_verify_locations(root)
        with socket.create_connection((host, int(port)), target.timeout) as plain:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) == b"S":
                context.wrap_socket(plain).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (OSError, ValueError):
        pass  # libpq has said what is wrong
    return ""
