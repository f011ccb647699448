"""PostgreSQL under gevent: a connection pool whose waiting happens on gevent's own hub."""

from .connection.batch.batch import Batch, StatementResult
from .connection.connection import Connection
from .errors import (
    CommitUnknown,
    ConnectRejected,
    NotConfigured,
    NotExecuted,
    OptionError,
    PoolClosed,
    PoolTimeout,
    StaleStatement,
    StartupOptionRefused,
    StatementTimeout,
    TooManyRequests,
    WrongHub,
)
from .pool.pool import Pool
from .registry.pools import close_all, configure, get_conn, get_pool, release_conn
from .registry.shortcuts import execute, fetch_all, fetch_one, fetch_val, send_batch
from .sql.statement import Statement
from .statements.result import Result
from .statements.stats import StatementStats
from .transactions.retry import retry, run_in_transaction, transaction
from .transactions.transient import is_transient

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "CommitUnknown",
    "ConnectRejected",
    "Connection",
    "NotConfigured",
    "NotExecuted",
    "OptionError",
    "Pool",
    "PoolClosed",
    "PoolTimeout",
    "Result",
    "StaleStatement",
    "StartupOptionRefused",
    "Statement",
    "StatementResult",
    "StatementStats",
    "StatementTimeout",
    "TooManyRequests",
    "WrongHub",
    "close_all",
    "configure",
    "execute",
    "fetch_all",
    "fetch_one",
    "fetch_val",
    "get_conn",
    "get_pool",
    "is_transient",
    "release_conn",
    "retry",
    "run_in_transaction",
    "send_batch",
    "transaction",
]
