"""TLS trusts the name that was asked for, under an authority that was named, and no other."""

from __future__ import annotations

import time

import gevent
import psycopg
import pytest
import trustme
from psycopg.conninfo import make_conninfo

import geventpg
from geventpg import ConnectRejected, PoolTimeout
from tests.support import wait_until

IN_USE = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


def test_a_connection_verifies_the_name_that_geventpg_resolved_itself(tls_dsn):
    with geventpg.Connection.connect(tls_dsn) as conn:
        assert (conn.info.host, conn.info.hostaddr) == ("localhost", "127.0.0.1")
        assert conn.pgconn.ssl_in_use
        assert conn.execute(IN_USE).fetchone()[0] is True


def test_a_pool_verifies_the_name_that_geventpg_resolved_itself(tls_dsn, open_pool):
    pool = open_pool(tls_dsn, min_size=3)
    pool.wait(10)
    with pool.connection() as conn:
        assert (conn.info.host, conn.info.hostaddr) == ("localhost", "127.0.0.1")
        assert conn.execute(IN_USE).fetchone()[0] is True


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_name_and_an_address_are_verified_as_what_they_are(tls, host):
    only = {"localhost": "127.0.0.1", "127.0.0.1": "localhost"}[host]
    with geventpg.Connection.connect(tls.conninfo(host=host)) as conn:
        assert conn.pgconn.ssl_in_use
    # What "localhost" resolves to is not what was asked for, nor the other way round.
    tls.present(tls.ca.issue_cert(only))
    with pytest.raises(psycopg.OperationalError, match=f'does not match host name "{host}"'):
        geventpg.Connection.connect(tls.conninfo(host=host)).close()


def test_each_of_several_hosts_is_verified_by_its_own_name(tls):
    # Both are resolved, to the same address; one is a name that the certificate does not have.
    tls.present(tls.ca.issue_cert("localhost"))
    for hosts in ("127.1,localhost", "localhost,127.1"):
        with geventpg.Connection.connect(tls.conninfo(host=hosts)) as conn:
            assert (conn.info.host, conn.info.hostaddr) == ("localhost", "127.0.0.1")
    with pytest.raises(psycopg.OperationalError, match=r'does not match host name "127\.1"'):
        geventpg.Connection.connect(tls.conninfo(host="127.1,127.1")).close()


TROUBLES = {
    "wrong host name": ({"cert": "db.example"}, r'"db\.example".* does not match host name'),
    "unknown authority": ({"sslrootcert": "other"}, "certificate verify failed"),
    "missing authority": ({"sslrootcert": "missing"}, "root certificate file .* does not exist"),
    "expired certificate": ({"cert": "expired"}, "certificate verify failed"),
    "no client certificate": ({"user": "certy"}, "requires a valid client certificate"),
    "a client certificate for another user": (
        {"user": "certy", "client": "else"},
        "certificate authentication failed",
    ),
    "a client certificate of an unknown authority": (
        {"user": "certy", "client": "stranger"},
        "alert unknown ca",
    ),
    "a client certificate without its key": (
        {"user": "certy", "client": "certy", "sslkey": "/nowhere/client.key"},
        "not private key file",
    ),
    "a client key that others can read": (
        {"user": "certy", "client": "certy", "mode": 0o644},
        "has group or world access",
    ),
    "no channel to bind to": (
        {"user": "certy", "client": "certy", "channel_binding": "require"},
        "channel binding required",
    ),
    "no TLS at all": (
        {"sslmode": "disable", "gssencmode": "disable"},
        r"no pg_hba\.conf entry .* no encryption",
    ),
    "no protocol version in common": (
        {"ssl_min_protocol_version": "TLSv1.3", "ssl_max_protocol_version": "TLSv1.2"},
        "invalid SSL protocol version range",
    ),
}


@pytest.fixture(params=TROUBLES.values(), ids=list(TROUBLES))
def trouble(tls, tls_dsn, request):
    """Return a conninfo that cannot work, and libpq's or the server's words for it."""
    parameters, words = dict(request.param[0]), request.param[1]
    stranger = trustme.CA()
    stranger.cert_pem.write_to_path(str(tls.files / "stranger.crt"))
    if "user" in parameters:
        tls.create_role(parameters["user"])
        parameters["password"] = ""
    certificate = parameters.pop("cert", None)
    if certificate is not None:
        tls.present(tls.expired() if certificate == "expired" else tls.ca.issue_cert(certificate))
    client, mode = parameters.pop("client", None), parameters.pop("mode", 0o600)
    if client is not None:
        ca = stranger if client == "stranger" else None
        files = tls.client_files("certy" if ca else client, ca)
        (tls.files / files["sslkey"]).chmod(mode)
        parameters = {**files, **parameters}
    root = parameters.get("sslrootcert")
    if root is not None:
        parameters["sslrootcert"] = str(
            tls.files / ("stranger.crt" if root == "other" else "missing")
        )
    return make_conninfo(tls_dsn, **parameters), words


def test_what_tls_refuses_is_an_error_of_the_connection_with_the_same_words_as_psycopgs(trouble):
    conninfo, words = trouble
    with pytest.raises(psycopg.OperationalError, match=words):
        geventpg.Connection.connect(conninfo)
    with pytest.raises(psycopg.OperationalError, match=words):
        psycopg.connect(conninfo)


def test_what_tls_refuses_fails_the_first_acquire_at_once(trouble, open_pool):
    conninfo, words = trouble
    pool = open_pool(conninfo, timeout=30)
    started = time.monotonic()
    with pytest.raises(ConnectRejected, match=words) as caught:
        pool.getconn()
    assert time.monotonic() - started < 10
    assert isinstance(caught.value, PoolTimeout)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_what_tls_refuses_fails_wait_at_once(trouble, open_pool):
    conninfo, words = trouble
    pool = open_pool(conninfo)
    started = time.monotonic()
    with pytest.raises(ConnectRejected, match=words):
        pool.wait(timeout=30)
    assert time.monotonic() - started < 10
    assert pool.closed


def test_a_server_without_tls_is_refused_at_once(dsn, open_pool):
    with psycopg.connect(dsn) as conn:
        if conn.pgconn.ssl_in_use:
            pytest.skip("this server has TLS")
    pool = open_pool(make_conninfo(dsn, sslmode="require"), timeout=30)
    with pytest.raises(ConnectRejected, match="server does not support SSL"):
        pool.getconn()


def test_a_pool_that_tls_refused_works_when_the_certificate_was_mended(tls, tls_dsn, open_pool):
    tls.present(tls.expired())
    pool = open_pool(tls_dsn, timeout=30)
    with pytest.raises(ConnectRejected):
        pool.getconn()
    tls.present(tls.ca.issue_cert("localhost"))

    def works():
        try:
            with pool.connection() as conn:
                return conn.execute("select 1").fetchone() == (1,)
        except ConnectRejected:
            return False

    wait_until(works, timeout=15)


def test_a_certificate_that_expires_does_not_disturb_open_connections(tls, tls_dsn, open_pool):
    pool = open_pool(tls_dsn, min_size=1, max_size=1)
    pool.wait(10)
    tls.present(tls.expired())
    for _ in range(3):
        with pool.connection() as conn:
            assert conn.execute("select 1").fetchone() == (1,)
        gevent.sleep(0)


@pytest.mark.parametrize(
    "parameters",
    [{"sslmode": "require"}, {"channel_binding": "require"}, {"sslmode": "verify-ca"}],
    ids=str,
)
def test_other_demands_are_met(tls, open_pool, parameters):
    if parameters.get("sslmode"):
        tls.present(tls.ca.issue_cert("db.example"))  # the client does not ask for the name
    pool = open_pool(tls.conninfo(**parameters))
    with pool.connection() as conn:
        assert conn.execute(IN_USE).fetchone()[0] is True


def test_a_client_certificate_logs_in_without_a_password(tls, open_pool):
    tls.create_role("certy")
    files = tls.client_files("certy")
    pool = open_pool(tls.conninfo(user="certy", password="", **files))
    with pool.connection() as conn:
        assert conn.execute("select current_user").fetchone() == ("certy",)
        assert not conn.pgconn.used_password
        subject = "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert "certy" in conn.execute(subject).fetchone()[0]
