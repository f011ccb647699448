"""Connecting: one deadline for names, hosts and handshakes, and only the connector waits."""

from __future__ import annotations

import socket
import time

import gevent
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import geventpg
from tests.connection.helpers import (
    Attempt,
    Ticker,
    open_descriptors,
    resolving,
)
from tests.support import wait_until
from tests.support.script import output_of


@pytest.fixture
def address(dsn):
    """Return the server's numeric address and port."""
    parameters = conninfo_to_dict(dsn)
    host = str(parameters.get("hostaddr") or parameters["host"])
    if host.startswith("/"):
        pytest.skip("needs a server on TCP")
    return socket.gethostbyname(host), str(parameters.get("port", 5432))


@pytest.fixture
def closed_port():
    """Return a port that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def at(dsn, **parameters):
    """Return *dsn* with another address."""
    kept = {k: v for k, v in conninfo_to_dict(dsn).items() if k not in ("host", "hostaddr", "port")}
    return make_conninfo("", **{**kept, **parameters})


def works(connect, dsn, **options):
    conn = connect(dsn, **options)
    assert conn.execute("select 1").fetchone() == (1,)
    return conn


# -- addresses -----------------------------------------------------------------------------------


def test_a_name_is_resolved_by_gevents_resolver_and_kept_for_tls_and_passwords(
    connect, dsn, address
):
    with resolving({"db.test": [address[0]]}) as resolver:
        conn = works(connect, at(dsn, host="db.test", port=address[1]))
    assert "db.test" in resolver.asked
    assert conn.info.host == "db.test"
    assert conn.info.hostaddr == address[0]


def test_all_addresses_of_a_name_are_tried(connect, dsn, address):
    with resolving({"db.test": ["::1", "127.0.0.2", address[0]]}):
        conn = works(connect, at(dsn, host="db.test", port=address[1]))
    assert conn.info.hostaddr == address[0]


def test_several_hosts_are_tried_in_turn(connect, dsn, address, closed_port):
    conninfo = at(dsn, host=f"127.0.0.1,db.test,{address[0]}", port=f"{closed_port},1,{address[1]}")
    with resolving({"db.test": ["127.0.0.1"]}):
        conn = works(connect, conninfo)
    assert conn.info.port == int(address[1])


def test_a_name_that_does_not_resolve_is_skipped(connect, dsn, address):
    with resolving({"unknown.test": [], "db.test": [address[0]]}):
        works(connect, at(dsn, host="unknown.test,db.test", port=address[1]))


def test_one_port_serves_several_hosts(connect, dsn, address):
    with resolving({"a.test": ["127.0.0.2"], "b.test": [address[0]]}):
        works(connect, at(dsn, host="a.test,b.test", port=address[1]))


def test_ports_that_do_not_match_the_hosts_are_an_error(connect, dsn):
    with resolving({}), pytest.raises(psycopg.Error, match="port"):
        connect(at(dsn, host="a.test,b.test,c.test", port="1,2"))


def test_hostaddr_needs_no_resolving(connect, dsn, address):
    with resolving({}) as resolver:
        conn = works(connect, at(dsn, host="any.test", hostaddr=address[0], port=address[1]))
    assert resolver.asked == []
    assert conn.info.host == "any.test"


def test_hosts_with_and_without_hostaddr_can_be_mixed(connect, dsn, address, closed_port):
    conninfo = at(
        dsn,
        host="first.test,second.test",
        hostaddr="127.0.0.1,",
        port=f"{closed_port},{address[1]}",
    )
    with resolving({"second.test": [address[0]]}) as resolver:
        conn = works(connect, conninfo)
    assert set(resolver.asked) >= {"second.test"}
    assert conn.info.host == "second.test"


def test_the_host_may_come_from_the_environment(connect, dsn, address, monkeypatch):
    monkeypatch.setenv("PGHOST", "db.test")
    monkeypatch.setenv("PGPORT", address[1])
    with resolving({"db.test": [address[0]]}) as resolver:
        works(connect, at(dsn))
    assert "db.test" in resolver.asked


def test_localhost_works(connect, dsn, address):
    if not address[0].startswith("127."):
        pytest.skip("the server is elsewhere")
    works(connect, at(dsn, host="localhost", port=address[1]))


def test_a_unix_socket_works(connect, pg, dsn):
    directory = getattr(pg, "socket_directory", None)
    if directory is None:
        pytest.skip("the server's socket directory is not known")
    conn = works(connect, at(dsn, host=str(directory), port=conninfo_to_dict(dsn)["port"]))
    assert conn.info.host == str(directory)


def test_a_service_file_is_honoured(connect, dsn, address, tmp_path, monkeypatch):
    service = tmp_path / "services"
    service.write_text(f"[ours]\nhost={address[0]}\nport={address[1]}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    conn = works(connect, at(dsn, service="ours"))
    assert conn.info.port == int(address[1])


@pytest.mark.parametrize("attributes", ["any", "read-write", "primary", "prefer-standby"])
def test_a_primary_satisfies_these_session_attributes(connect, dsn, attributes):
    works(connect, dsn, target_session_attrs=attributes)


@pytest.mark.parametrize("attributes", ["standby", "read-only"])
def test_a_primary_does_not_satisfy_those(connect, dsn, backends, attributes):
    with pytest.raises(psycopg.OperationalError):
        connect(dsn, target_session_attrs=attributes)
    wait_until(lambda: not backends(), message="no backend is left")


def test_session_attributes_are_asked_of_every_host(connect, dsn, address, closed_port):
    conninfo = at(dsn, host=f"127.0.0.1,{address[0]}", port=f"{closed_port},{address[1]}")
    works(connect, conninfo, target_session_attrs="read-write")
    works(connect, conninfo, target_session_attrs="prefer-standby")


def test_the_error_names_every_attempt(dsn, closed_port):
    conninfo = at(dsn, host="127.0.0.1,127.0.0.2", port=f"{closed_port},{closed_port}")
    with pytest.raises(psycopg.OperationalError) as caught:
        geventpg.Connection.connect(conninfo)
    assert "127.0.0.1" in str(caught.value)
    assert "127.0.0.2" in str(caught.value)


def test_an_unknown_name_is_an_operational_error(dsn):
    with pytest.raises(psycopg.OperationalError, match=r"unknown\.invalid"):
        geventpg.Connection.connect(at(dsn, host="unknown.invalid"))


def test_a_wrong_password_is_what_psycopg_raises(pg, dsn):
    parameters = conninfo_to_dict(dsn)
    if "password" not in parameters:
        pytest.skip("the server asks for no password")
    wrong = make_conninfo("", **{**parameters, "password": "not-the-password"})
    with pytest.raises(psycopg.OperationalError) as caught:
        geventpg.Connection.connect(wrong)
    assert "password authentication failed" in str(caught.value)
    assert "not-the-password" not in str(caught.value)


def test_options_that_psycopg_refuses_are_refused(dsn):
    with pytest.raises(psycopg.ProgrammingError):
        geventpg.Connection.connect(dsn, no_such_option=1)
    with pytest.raises(psycopg.ProgrammingError):
        geventpg.Connection.connect("this is no conninfo")


# -- the deadline --------------------------------------------------------------------------------


def test_one_deadline_covers_names_hosts_and_handshakes(dsn, deaf_port, address):
    # All at once, as each takes its two seconds.
    deaf = at(dsn, host="127.0.0.1", port=deaf_port)
    several = at(dsn, host="127.0.0.1,127.0.0.1,127.0.0.1", port=deaf_port)
    named = at(dsn, host="slow.test", port=address[1])
    sized = at(dsn, host="slow.test,slow.test,127.0.0.1", port=f"1,1,{deaf_port}")

    def connect(conninfo):
        return geventpg.Connection.connect(conninfo, connect_timeout=2)

    with resolving({}, delay=30), Ticker() as ticker:
        before = open_descriptors()
        attempts = [Attempt(connect, conninfo) for conninfo in (deaf, several, named, sized)]
        for attempt in attempts:
            attempt.join()
            assert isinstance(attempt.error, psycopg.errors.ConnectionTimeout)
            assert 1.9 < attempt.took < 3
        assert open_descriptors() <= before
    assert ticker.ticks > 100
    assert ticker.longest_gap < 0.3


def test_a_dead_host_leaves_time_for_the_next_one(connect, dsn, deaf_port, address):
    conninfo = at(dsn, host=f"127.0.0.1,{address[0]}", port=f"{deaf_port},{address[1]}")
    attempt = Attempt(lambda: works(connect, conninfo, connect_timeout=2)).join()
    assert attempt.error is None
    assert attempt.took < 2


def test_a_slow_name_does_not_keep_others_from_connecting(connect, dsn, address):
    with resolving({"slow.test": [address[0]]}, delay=0.5):
        slow = Attempt(works, connect, at(dsn, host="slow.test", port=address[1]))
        gevent.sleep(0)
        quick = Attempt(works, connect, at(dsn, host=address[0], port=address[1])).join()
        assert quick.error is None
        assert quick.took < 0.4
        assert slow.join().error is None


def test_only_the_connector_waits_when_nothing_is_patched(dsn, deaf_port):
    source = """
import sys, time, gevent, psycopg, geventpg
def connect():
    try:
        geventpg.Connection.connect(sys.argv[1], connect_timeout=2)
    except psycopg.errors.ConnectionTimeout:
        return "timed out"
ticks = 0
def tick():
    global ticks
    while True:
        gevent.sleep(0.01)
        ticks += 1
gevent.spawn(tick)
greenlet = gevent.spawn(connect)
greenlet.join(10)
assert greenlet.value == "timed out"
assert ticks > 50, ticks
print("done")
"""
    assert output_of(source, at(dsn, host="127.0.0.1", port=deaf_port)) == "done\n"


# -- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [gevent.Timeout(), gevent.GreenletExit(), KeyboardInterrupt()])
def test_an_interrupted_connect_leaves_neither_socket_nor_backend(
    dsn, proxy, backends, deaf_port, error
):
    proxy.delay(0.05)
    for conninfo in (at(dsn, host="127.0.0.1", port=deaf_port), proxy.dsn(dsn)):
        before = open_descriptors()
        attempt = Attempt(geventpg.Connection.connect, conninfo)
        gevent.sleep(0.08)
        attempt.throw(error)
        attempt.join()
        assert attempt.error is error
        assert attempt.took < 1
        assert open_descriptors() <= before
    proxy.delay(0)
    wait_until(lambda: not backends(), message="no backend is left")


def test_connects_interrupted_at_random_moments_leave_nothing(dsn, rng, backends):
    geventpg.Connection.connect(dsn).close()
    before = open_descriptors()

    def connect():
        with (
            gevent.Timeout(rng.random() * 0.02, False),
            geventpg.Connection.connect(dsn, autocommit=True) as conn,
        ):
            conn.execute("select 1")

    for _ in range(20):
        gevent.joinall([gevent.spawn(connect) for _ in range(10)], raise_error=True)
    assert open_descriptors() <= before
    wait_until(lambda: not backends(), message="no backend is left")


def test_an_interrupted_name_lookup_ends_at_once(dsn):
    with resolving({}, delay=30):
        started = time.monotonic()
        with pytest.raises(ZeroDivisionError), gevent.Timeout(0.05, ZeroDivisionError()):
            geventpg.Connection.connect(at(dsn, host="slow.test"))
        assert time.monotonic() - started < 2


# -- parameters ----------------------------------------------------------------------------------


def test_a_vanished_peer_is_noticed_by_keepalives_unless_the_user_says_otherwise(connect, dsn):
    def options(conn):
        return {o.keyword.decode(): (o.val or b"").decode() for o in conn.pgconn.info}

    ours = options(connect())
    assert int(ours["keepalives_idle"]) <= 60
    assert int(ours["keepalives_interval"]) <= 30
    assert int(ours["tcp_user_timeout"]) > 0
    user = options(connect(dsn, keepalives_idle=99, tcp_user_timeout=0))
    assert user["keepalives_idle"] == "99"
    assert user["tcp_user_timeout"] == "0"


def test_a_representation_carries_no_password(connect, dsn):
    password = conninfo_to_dict(dsn).get("password")
    if not password:
        pytest.skip("the server asks for no password")
    conn = connect()
    assert str(password) not in repr(conn)
    assert str(password) not in str(conn.cursor())
    conn.close()
    assert str(password) not in repr(conn)


def test_connect_takes_all_of_psycopgs_arguments(connect, dsn):
    conn = connect(
        dsn,
        autocommit=True,
        prepare_threshold=None,
        row_factory=psycopg.rows.dict_row,
        cursor_factory=psycopg.ClientCursor,
        options="-c work_mem=5MB",
    )
    assert conn.autocommit
    assert conn.prepare_threshold is None
    assert isinstance(conn.cursor(), psycopg.ClientCursor)
    assert conn.execute("show work_mem").fetchone() == {"work_mem": "5MB"}
