"""Each fault of the proxy, seen byte by byte from plain sockets on both of its sides."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import gevent
import psycopg
import pytest

from geventpg.testing import ProxyError, TcpProxy
from tests.support import wait_until
from tests.support.sockets import (
    PATIENCE,
    SILENCE,
    connect,
    is_silent,
    receive,
    receive_all,
)

Ends = tuple[socket.socket, socket.socket]
PAYLOAD = os.urandom(3_000_000)  # more than the kernel keeps of a connection that is not read


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Return the listening socket that the proxy leads to."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(PATIENCE)
        yield sock


@pytest.fixture
def proxy(listener) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", listener.getsockname()[1]) as running:
        yield running


@pytest.fixture
def open_ends(proxy, listener) -> Iterator[Callable[[], Ends]]:
    """Return a function that opens a connection and returns both its ends: client, server."""
    with ExitStack() as stack:

        def open_one() -> Ends:
            client = stack.enter_context(connect(proxy))
            server = stack.enter_context(listener.accept()[0])
            server.settimeout(PATIENCE)
            return client, server

        yield open_one


def assert_works(ends: Ends) -> None:
    client, server = ends
    client.sendall(b"question")
    assert receive(server, 8) == b"question"
    server.sendall(b"answer")
    assert receive(client, 6) == b"answer"


def assert_nobody_comes(listener: socket.socket) -> None:
    listener.settimeout(SILENCE)
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.settimeout(PATIENCE)


# -- silence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", ["client", "server"])
def test_a_connection_that_lost_a_byte_to_the_black_hole_stays_silent(proxy, open_ends, sender):
    client, server = open_ends()
    assert_works((client, server))
    proxy.blackhole()
    source, sink = (client, server) if sender == "client" else (server, client)
    source.sendall(b"x")
    assert is_silent(sink)
    proxy.resume()
    for end in (client, server):
        end.sendall(b"anybody there?")
    assert is_silent(client)
    assert is_silent(server)
    assert proxy.connections == 1


def test_a_connection_that_lost_nothing_to_the_black_hole_works_on(proxy, open_ends):
    ends = open_ends()
    proxy.blackhole()
    assert all(is_silent(end) for end in ends)
    proxy.resume()
    assert_works(ends)


def test_what_the_stall_held_back_is_lost_to_the_black_hole(proxy, open_ends):
    client, server = open_ends()
    proxy.stall()
    client.sendall(b"x")
    proxy.blackhole()
    proxy.resume()
    assert is_silent(server)


def test_the_black_hole_accepts_and_never_answers_new_connections(proxy, listener, open_ends):
    proxy.blackhole()
    with connect(proxy) as client:
        client.sendall(PAYLOAD)  # all of it is read, so that the sender notices nothing
        assert_nobody_comes(listener)
        proxy.resume()
        assert is_silent(client)
        assert_nobody_comes(listener)
        assert_works(open_ends())
        assert proxy.connections == 2
    wait_until(lambda: proxy.connections == 1)


@pytest.mark.parametrize("leaver", ["client", "server"])
def test_the_black_hole_swallows_the_end_of_either_side(proxy, open_ends, leaver):
    client, server = open_ends()
    assert_works((client, server))
    proxy.blackhole()
    leaving, staying = (client, server) if leaver == "client" else (server, client)
    leaving.close()
    assert is_silent(staying)
    if leaver == "client":
        wait_until(lambda: proxy.connections == 0)
    proxy.resume()
    staying.sendall(PAYLOAD)
    assert is_silent(staying)
    proxy.drop_connections()
    assert staying.recv(1) == b""


def test_mute_accepts_and_never_answers_while_old_connections_work_on(proxy, listener, open_ends):
    old = open_ends()
    proxy.mute()
    with connect(proxy) as client:
        client.sendall(b"anybody there?")
        assert_nobody_comes(listener)
        assert_works(old)
        proxy.resume()
        assert is_silent(client)
        assert_nobody_comes(listener)
        assert_works(old)
        assert_works(open_ends())
        proxy.drop_connections(reset=True)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_the_last_of_the_silent_states_holds(proxy, open_ends):
    old = open_ends()
    proxy.stall()
    old[0].sendall(b"x")
    assert is_silent(old[1])
    proxy.mute()  # for new connections only
    assert receive(old[1], 1) == b"x"
    proxy.stall()
    opening = gevent.spawn(open_ends)
    gevent.sleep(SILENCE)
    assert not opening.ready()
    proxy.resume()
    assert_works(opening.get())


# -- cutting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["politely", "reset"])
@pytest.mark.parametrize("direction", ["from_server", "from_client"])
@pytest.mark.parametrize("count", [1, 17, 65_536, 65_537, 1_000_000])
def test_a_connection_is_cut_after_exactly_so_many_bytes(proxy, open_ends, count, direction, reset):
    proxy.cut_after(count, direction, reset=reset)
    client, server = open_ends()
    source, sink = (server, client) if direction == "from_server" else (client, server)
    sender = gevent.spawn(send_until_refused, source, PAYLOAD)
    received, end = receive_all(sink)
    assert received == PAYLOAD[:count]
    assert end == ("reset" if reset else "end")
    assert proxy.forwarded(direction) == count
    assert proxy.connections == 0
    sender.get()


def send_until_refused(sock: socket.socket, data: bytes) -> None:
    try:
        sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def test_a_slow_reader_gets_all_bytes_before_the_reset(proxy, open_ends):
    proxy.cut_after(2_000_000, reset=True)
    client, server = open_ends()
    sender = gevent.spawn(send_until_refused, server, PAYLOAD)
    gevent.sleep(SILENCE)  # the kernel's buffers are full now
    assert receive_all(client) == (PAYLOAD[:2_000_000], "reset")
    sender.get()


def test_unread_bytes_do_not_make_a_polite_end_lose_what_was_forwarded(proxy, open_ends):
    """The kernel answers unread bytes with a reset, which throws away the rest."""
    client, server = open_ends()
    sender = gevent.spawn(send_until_refused, server, PAYLOAD)
    gevent.sleep(SILENCE)  # the kernel's buffers are full now
    proxy.stall()
    client.sendall(PAYLOAD[:200_000])  # more than the proxy reads ahead when it is stalled
    forwarded = proxy.forwarded("from_server")
    proxy.drop_connections()
    assert receive_all(client) == (PAYLOAD[:forwarded], "end")
    sender.get()


def test_bytes_of_the_other_direction_do_not_count(proxy, open_ends):
    proxy.cut_after(4, "from_server")
    client, server = open_ends()
    client.sendall(b"a long question")
    assert receive(server, 15) == b"a long question"
    server.sendall(b"no")
    assert receive(client, 2) == b"no"
    server.sendall(b", yes")
    assert receive_all(client) == (b", ", "end")


def test_cut_after_nothing_a_connection_ends_when_it_is_accepted(proxy, listener):
    proxy.cut_after(0)
    with connect(proxy) as client:
        assert receive_all(client) == (b"", "end")
    assert_nobody_comes(listener)


def test_reset_after_nothing_a_connection_ends_when_it_is_accepted(proxy, listener):
    proxy.cut_after(0, reset=True)
    with pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
    assert_nobody_comes(listener)


def test_a_limit_is_for_connections_opened_while_it_holds(proxy, open_ends):
    before = open_ends()
    assert_works(before)
    proxy.cut_after(7)
    during = open_ends()
    assert_works(before)
    proxy.cut_after(None)
    after = open_ends()
    assert_works(after)
    assert_works(after)
    assert_works(during)  # 6 bytes
    during[1].sendall(b"answer")
    assert receive_all(during[0]) == (b"a", "end")


def test_each_direction_has_a_limit_of_its_own(proxy, open_ends):
    proxy.cut_after(100, "from_client")
    proxy.cut_after(3, "from_server")
    _, server = first = open_ends()
    server.sendall(b"answer")
    assert receive_all(first[0]) == (b"ans", "end")
    client, server = open_ends()
    client.sendall(b"x" * 101)
    assert receive_all(server) == (b"x" * 100, "end")


@pytest.mark.parametrize("reset", [False, True], ids=["politely", "reset"])
@pytest.mark.parametrize("direction", ["from_server", "from_client"])
def test_present_connections_are_cut_after_so_many_bytes_more(proxy, open_ends, direction, reset):
    pairs = [open_ends(), open_ends()]
    for ends in pairs:
        assert_works(ends)
    proxy.cut_next(3, direction, reset=reset)
    later = open_ends()
    for client, server in pairs:
        source, sink = (server, client) if direction == "from_server" else (client, server)
        source.sendall(b"12345")
        assert receive_all(sink) == (b"123", "reset" if reset else "end")
    assert_works(later)


def test_cut_now_present_connections_end_at_once(proxy, open_ends):
    client, server = open_ends()
    assert_works((client, server))
    proxy.cut_next(0, "from_client")
    assert receive_all(client) == (b"", "end")
    assert receive_all(server) == (b"", "end")
    assert_works(open_ends())


def test_a_commit_whose_answer_is_cut_off_has_happened(pg, dsn):
    with TcpProxy(pg.host, pg.port) as to_server, psycopg.connect(dsn, autocommit=True) as direct:
        direct.execute("DROP TABLE IF EXISTS cut_commit")
        direct.execute("CREATE TABLE cut_commit (id int)")
        conn = psycopg.connect(to_server.dsn(dsn))
        conn.execute("INSERT INTO cut_commit VALUES (1)")
        to_server.cut_next(1)
        with pytest.raises(psycopg.OperationalError):
            conn.commit()
        assert direct.execute("SELECT id FROM cut_commit").fetchall() == [(1,)]
        direct.execute("DROP TABLE cut_commit")


# -- the rest ------------------------------------------------------------------------------------


def test_what_is_forwarded_is_counted_in_both_directions(proxy, open_ends):
    assert proxy.forwarded("from_client") == proxy.forwarded("from_server") == 0
    for _ in range(2):
        assert_works(open_ends())
    assert proxy.forwarded("from_client") == 16
    assert proxy.forwarded("from_server") == 12
    proxy.drop_connections()
    assert proxy.forwarded("from_server") == 12


def test_retargeted_it_leads_new_connections_elsewhere(proxy, open_ends):
    old = open_ends()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        proxy.retarget("localhost", port)
        assert f"localhost:{port}" in repr(proxy)
        with connect(proxy) as client:
            other.settimeout(PATIENCE)
            server, _ = other.accept()
            with server:
                assert_works((client, server))
    assert_works(old)


@pytest.mark.parametrize("host", ["", "two words", "line\nbreak"])
def test_an_impossible_host_is_refused(proxy, host):
    with pytest.raises(ValueError, match="host"):
        proxy.retarget(host, 1)


def test_an_impossible_cut_is_refused(proxy):
    with pytest.raises(ValueError, match="count"):
        proxy.cut_after(-1)
    with pytest.raises(ValueError, match="from_client, from_server"):
        proxy.cut_next(1, "upwards")
    with pytest.raises(ValueError, match="from_client, from_server"):
        proxy.forwarded("upwards")


def test_a_proxy_that_was_closed_takes_no_command(proxy):
    proxy.close()
    with pytest.raises(ProxyError, match="not been started"):
        proxy.blackhole()
