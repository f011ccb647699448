"""Fixtures for the tests of TLS and secrets."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from psycopg.conninfo import make_conninfo

from geventpg import Pool
from geventpg.testing import Backend
from geventpg.testing.postgres import fetch_backends
from tests.support.secrets import everything_about
from tests.support.server import Server
from tests.support.system_postgres import require_openssl_server
from tests.support.tls import TlsPostgres
from tests.support.tls_terminator import tls_terminator


@pytest.fixture(scope="session")
def tls_server() -> Iterator[TlsPostgres]:
    """Start the session's server with TLS; tests ask for ``tls`` instead."""
    with TlsPostgres(require_openssl_server()) as server:
        yield server


@pytest.fixture
def tls(tls_server: TlsPostgres) -> Iterator[TlsPostgres]:
    """Return the server with TLS; after the test it presents its right certificate again."""
    yield tls_server
    tls_server.present(tls_server.ca.issue_cert("localhost", "127.0.0.1"))


@pytest.fixture
def tls_dsn(tls: TlsPostgres, application_name: str) -> str:
    """Return a conninfo with ``sslmode=verify-full`` and this test's application_name."""
    return make_conninfo(tls.conninfo(), application_name=application_name)


@pytest.fixture
def tls_admin(tls: TlsPostgres) -> Iterator[psycopg.Connection[Any]]:
    """Return the superuser's plain connection, over the unix socket."""
    with tls.connect() as conn:
        yield conn


@pytest.fixture
def tls_backends(
    tls_admin: psycopg.Connection[Any], application_name: str
) -> Callable[[], list[Backend]]:
    """Return a function that gives this test's backends of the server with TLS."""
    return lambda: fetch_backends(tls_admin, application_name)


@pytest.fixture
def terminator(
    pg: Server, tmp_path: Path, dsn: str
) -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Return a function whose context manager runs `tls_terminator` and gives a conninfo."""
    ca = trustme.CA()
    root, certificate = str(tmp_path / "root.crt"), str(tmp_path / "server.pem")
    ca.cert_pem.write_to_path(root)
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)

    @contextlib.contextmanager
    def run(**options: Any) -> Iterator[str]:
        with tls_terminator(pg.host, pg.port, certificate, **options) as port:
            yield make_conninfo(
                dsn, host="localhost", port=port, sslmode="verify-full", sslrootcert=root
            )

    return run


@pytest.fixture
def open_pool() -> Iterator[Callable[..., Any]]:
    """Return a function that makes an open pool, closed after the test."""
    pools: list[Any] = []

    def make(conninfo: Any, **options: Any) -> Any:
        options = {"min_size": 1, "max_size": 3, "open": True, "timeout": 10.0, **options}
        pool: Any = Pool(conninfo, **options)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def log(caplog):
    """Return a function that gives all that was logged, by anybody, at DEBUG level."""
    caplog.set_level(logging.DEBUG)

    def lines() -> str:
        texts = [caplog.text]
        for record in caplog.records:
            texts += [repr(record.args), repr(record.msg)]
            if record.exc_info and record.exc_info[1]:
                texts.append(everything_about(record.exc_info[1]))
        return "\n".join(texts)

    return lines
