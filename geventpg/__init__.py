"""PostgreSQL under gevent: a connection pool whose waiting happens on gevent's own hub."""

from .connection import Connection
from .errors import (
    ConnectRejected,
    NotConfigured,
    OptionError,
    PoolClosed,
    PoolTimeout,
    TooManyRequests,
    WrongHub,
)
from .pool import Pool
from .registry import close_all, configure, get_conn, get_pool, release_conn

__version__ = "0.1.0"

__all__ = [
    "ConnectRejected",
    "Connection",
    "NotConfigured",
    "OptionError",
    "Pool",
    "PoolClosed",
    "PoolTimeout",
    "TooManyRequests",
    "WrongHub",
    "close_all",
    "configure",
    "get_conn",
    "get_pool",
    "release_conn",
]
