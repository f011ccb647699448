"""Exceptions of geventpg. Values only: no I/O, no gevent.

Every error that a statement or an acquire can raise derives from ``psycopg.Error``, so
``except psycopg.OperationalError`` around database code keeps working. The pool's own
errors are psycopg_pool's classes or subclasses of them.
"""

from __future__ import annotations

import psycopg
from psycopg.errors import QueryCanceled
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

__all__ = [
    "CommitUnknown",
    "ConnectRejected",
    "NotConfigured",
    "NotExecuted",
    "OptionError",
    "PoolClosed",
    "PoolTimeout",
    "StaleStatement",
    "StartupOptionRefused",
    "StatementTimeout",
    "TooManyRequests",
    "WrongHub",
]


class OptionError(psycopg.ProgrammingError, ValueError, TypeError):
    """An option is unknown, has the wrong type or an impossible value.

    Raised when the pool is configured, never later. It is a ``ValueError`` and a
    ``TypeError`` too, because those are what psycopg_pool raises for the same mistakes.
    The message names the option; values that may be secret are never quoted.
    """


class NotConfigured(psycopg.ProgrammingError):
    """A named pool was asked for that was not configured."""


class ConnectRejected(PoolTimeout):
    """The server refuses this pool's connections, or TLS does; waiting would not help.

    Wrong password, unknown role or database, no matching ``pg_hba.conf`` line, a server
    certificate that is expired, of an unknown authority or for another name, a client
    certificate that is missing or not accepted: the acquire fails with the server's or libpq's
    own words at once instead of at its deadline. It derives from
    ``PoolTimeout``, which is what psycopg_pool raises (later) in the same situation; the
    original error is its ``__cause__``.
    """


class StartupOptionRefused(psycopg.OperationalError):
    """A pooler does not take an option that is sent when a connection starts.

    The message names the option and what to do. A pool gives it as the ``__cause__`` of
    `ConnectRejected`, at once. The original error is its own ``__cause__`` where one host was
    tried only.
    """


class WrongHub(psycopg.InterfaceError):
    """A connection or pool was used from a thread, or hub callback, that cannot wait for it.

    A gevent hub belongs to one thread. Waiting for another thread's sockets on it would
    never return, so this is raised instead.
    """


class CommitUnknown(psycopg.OperationalError):
    """The connection was lost while COMMIT was under way, and its outcome is unknown.

    The transaction is either committed as a whole or not at all. It is never repeated by
    itself: code that repeats it must know that doing it twice is harmless. The error that ended the
    connection is the ``__cause__``. In a batch whose statements are transactions of their own
    it is the error of each that was sent and whose answer never came.
    """


class StatementTimeout(CommitUnknown, QueryCanceled):
    """The ``timeout`` of a statement passed after it was sent, and before its answer came.

    It is executed and committed, or will be, or not. The server is asked to cancel it. It is a
    ``QueryCanceled``, which is what the server's own ``statement_timeout`` raises, and a
    `CommitUnknown`, because here no caller waited for its outcome.
    """


class NotExecuted(psycopg.OperationalError):
    """A statement of a batch was certainly not executed: the connection was lost before.

    Sending it again cannot do it twice. The error that ended the connection is the
    ``__cause__``.
    """


class StaleStatement(psycopg.OperationalError):
    """A prepared statement was lost or went stale inside a transaction, which failed with it.

    Outside one the statement is executed again by itself, and so is a transaction's first.
    Run the transaction again as a whole; `run_in_transaction` does. The server's error is the
    ``__cause__``.
    """
