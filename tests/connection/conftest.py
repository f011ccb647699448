"""Fixtures for the tests of `geventpg.Connection`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import geventpg


@pytest.fixture
def connect(dsn: str) -> Iterator[Callable[..., geventpg.Connection[Any]]]:
    """Return a function that connects; what it opened is closed after the test."""
    with contextlib.ExitStack() as stack:

        def open_one(conninfo: str = dsn, **options: Any) -> geventpg.Connection[Any]:
            conn = geventpg.Connection.connect(conninfo, **options)
            stack.callback(conn.close)
            return conn

        yield open_one


@pytest.fixture
def conn(connect: Callable[..., geventpg.Connection[Any]]) -> geventpg.Connection[Any]:
    """Return an autocommit connection."""
    return connect(autocommit=True)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Return a local port where connections succeed and no answer ever comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield listener.getsockname()[1]
