"""TLS in front of the embedded server, checked by libpq with real certificates."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import gevent
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from geventpg.testing import CertificateAuthority, ProxyError, ServerError, TcpProxy, TlsProxy
from geventpg.testing.programs import HIDING
from tests.support import wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls(pg, authority) -> Iterator[TlsProxy]:
    with TlsProxy(pg.host, pg.port, authority.issue("db.example", "127.0.0.1")) as proxy:
        yield proxy


@pytest.mark.parametrize("host", ["db.example", "127.0.0.1"])
def test_a_connection_is_encrypted_and_its_server_verified(tls, dsn, host):
    with psycopg.connect(tls.dsn(dsn), host=host) as conn:
        assert conn.pgconn.ssl_in_use
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_tls_begun_without_asking_works(tls, dsn):
    if psycopg.pq.version() < 170000:
        pytest.skip("libpq knows it from version 17 on")
    with psycopg.connect(tls.dsn(dsn), sslnegotiation="direct") as conn:
        assert conn.pgconn.ssl_in_use


def test_another_hosts_certificate_is_refused(tls, dsn):
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        psycopg.connect(tls.dsn(dsn), host="db.elsewhere")


def test_another_authoritys_certificate_is_refused(tls, dsn, tmp_path):
    stranger = CertificateAuthority(tmp_path / "stranger")
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(tls.dsn(dsn), sslrootcert=str(stranger.certificate))


def test_who_does_not_ask_for_tls_is_let_through_without(tls, dsn):
    with psycopg.connect(tls.dsn(dsn), sslmode="disable") as conn:
        assert not conn.pgconn.ssl_in_use


def test_long_queries_and_answers_pass_both_ways_at_once(tls, dsn):
    text = "x" * 3_000_000
    with psycopg.connect(tls.dsn(dsn), autocommit=True) as conn, conn.pipeline():
        cursors = [conn.execute("SELECT %s::text", [text]) for _ in range(4)]
        assert all(cursor.fetchone() == (text,) for cursor in cursors)


def error_of(conn: psycopg.Connection, query: str) -> Exception | None:
    try:
        conn.execute(query)
    except psycopg.Error as exc:
        return exc
    return None


def test_a_statement_can_be_cancelled(tls, dsn, backends):
    with psycopg.connect(tls.dsn(dsn)) as conn:
        sleeping = gevent.spawn(error_of, conn, "SELECT pg_sleep(30)")
        wait_until(lambda: [backend for backend in backends() if "pg_sleep" in backend.query])
        conn.cancel_safe(timeout=5)
        assert isinstance(sleeping.get(timeout=5), psycopg.errors.QueryCanceled)


@pytest.mark.parametrize(("sslmode", "readable"), [("verify-full", False), ("disable", True)])
def test_what_travels_can_be_read_by_others_only_without_tls(tls, dsn, sslmode, readable):
    heard = bytearray()

    def carry(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(65_536):
            heard.extend(data)
            sink.sendall(data)

    def listen_in(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, socket.create_connection((tls.host, tls.port)) as server:
            both = [gevent.spawn(carry, client, server), gevent.spawn(carry, server, client)]
            gevent.joinall(both, count=1)
            gevent.killall(both)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        eavesdropper = gevent.spawn(listen_in, listener)
        port = listener.getsockname()[1]
        with psycopg.connect(tls.dsn(dsn), port=port, sslmode=sslmode) as conn:
            conn.execute("SELECT 'nobody-may-read-this'")
        eavesdropper.get(timeout=5)
    assert len(heard) > 100
    assert (b"nobody-may-read-this" in heard) is readable


def test_a_handshake_that_is_cut_off_is_an_error(tls, dsn):
    with TcpProxy(tls.host, tls.port) as wire:
        wire.cut_after(100)  # in the middle of the server's certificate
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(make_conninfo(tls.dsn(dsn), port=wire.port))


def test_nonsense_instead_of_a_handshake_ends_that_connection_only(tls, dsn):
    with socket.create_connection((tls.host, tls.port), timeout=5) as client:
        client.sendall(struct.pack("!ii", 8, 80877103))
        assert client.recv(1) == b"S"
        client.sendall(b"this is no handshake")
        while client.recv(100):
            pass
    with psycopg.connect(tls.dsn(dsn)) as conn:
        assert conn.pgconn.ssl_in_use


def test_the_end_of_the_server_reaches_the_client(tls, dsn, admin):
    with psycopg.connect(tls.dsn(dsn)) as conn:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")


def test_keys_are_their_owners_only(authority):
    certificate = authority.issue("localhost")
    for key in (certificate.key, *certificate.key.parent.glob("*.key")):
        assert key.stat().st_mode & 0o077 == 0


def test_a_certificate_without_names_is_refused(authority):
    with pytest.raises(ValueError, match="name"):
        authority.issue()


def test_a_certificate_that_does_not_exist_is_an_error(pg, authority):
    certificate = authority.issue("localhost")
    certificate.key.unlink()
    with pytest.raises(ProxyError, match="does not start"), TlsProxy("x", 1, certificate):
        pass


def test_without_openssl_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv(HIDING, "openssl")
    with pytest.raises(ServerError, match="apt-get install openssl"):
        CertificateAuthority(tmp_path)


def test_closed_it_is_gone(pg, authority):
    with TlsProxy(pg.host, pg.port, authority.issue("localhost")) as proxy:
        address = proxy.host, proxy.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
