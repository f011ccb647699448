"""What a failed attempt to connect means for the waiters. Values only: no I/O.

libpq does not report the SQLSTATE of a refused connection, so the server's message is
looked at where psycopg has no ``sqlstate``; libpq's own password flag covers servers that
speak another language.
"""

from __future__ import annotations

import enum
import re

import psycopg

from geventpg.errors import ConnectRejected, StartupOptionRefused


class Fault(enum.Enum):
    """Why a connection attempt failed, as far as the pool's reaction depends on it."""

    REJECTED = "rejected"
    """The server says no to these credentials or this database, or TLS says no to one of the
    two: waiting will not help."""

    BUSY = "busy"
    """The server has no room (53300): back-pressure, the connections it gave still work."""

    UNREACHABLE = "unreachable"
    """Anything else: refused, timed out, starting up, name not resolved, callback failed."""


# Class 28 is "Invalid Authorization Specification", 3D000 "invalid_catalog_name":
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_REJECTED_STATES = frozenset({"28000", "28P01", "3D000"})
_BUSY_STATES = frozenset({"53300"})

_REJECTED_TEXT = re.compile(
    r"password authentication failed|authentication failed for user|no pg_hba\.conf entry"
    r"|no password supplied|(?:role|database) \"[^\"]*\" does not exist"
    r"|certificate authentication failed|pg_hba\.conf rejects connection"
)
# TLS is settled before the server knows the user; a certificate, name or file does not become
# right by waiting. "unexpected eof" and the like are not here: that is a network that fails.
_UNTRUSTED_TEXT = re.compile(
    r"certificate verify failed|does not match host name|does not support SSL, but SSL was required"
    r"|host name must be specified for a verified SSL|could not get server's host name from"
    r"|root certificate file \"[^\"]*\" does not exist|could not read root certificate file"
    r"|requires a valid client certificate|certificate present, but not private key file"
    r"|could not (?:read|load|open) (?:private key|certificate) file|private key file \"[^\"]*\""
    r"|could not initialize path for crl|invalid SSL protocol version range"
    r"|SSL error: .*alert (?:unknown ca|bad certificate|certificate \w+|handshake failure)"
    r"|SSL error: .*(?:wrong version number|unsupported protocol|no shared cipher)"
    r"|channel binding (?:is )?required"
)
_BUSY_TEXT = re.compile(
    r"too many clients already|remaining connection slots are reserved"
    r"|too many connections for (?:role|database)|no more connections allowed"
)


def classify(error: BaseException) -> Fault:
    """Tell what a failed connection attempt means. Does not block."""
    if isinstance(error, ConnectRejected):
        return Fault.REJECTED  # the opener of the pool's connections says so
    if not isinstance(error, psycopg.Error):
        return Fault.UNREACHABLE
    if isinstance(error, psycopg.ProgrammingError) and not error.sqlstate:
        # libpq could not make sense of the connection string.
        return Fault.REJECTED
    if isinstance(error, StartupOptionRefused) or error.sqlstate in _REJECTED_STATES:
        return Fault.REJECTED
    if error.sqlstate in _BUSY_STATES:
        return Fault.BUSY
    text = str(error)
    if _BUSY_TEXT.search(text):
        return Fault.BUSY
    if _REJECTED_TEXT.search(text) or _UNTRUSTED_TEXT.search(text):
        return Fault.REJECTED
    if error.pgconn is not None and error.pgconn.needs_password:
        return Fault.REJECTED
    return Fault.UNREACHABLE
