"""The proxy fails in the ways it is told to, and in no other."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Iterator

import gevent
import psycopg
import pytest
from gevent import monkey
from psycopg.conninfo import conninfo_to_dict

from geventpg.testing import ProxyError, TcpProxy
from tests.support import wait_until
from tests.support.script import run_script
from tests.support.sockets import EchoServer, ask, connect


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.close()


@pytest.fixture
def echo_proxy(echo) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", echo.port) as proxy:
        yield proxy


def test_it_carries_bytes_both_ways(echo_proxy):
    payload = os.urandom(3_000_000)
    with connect(echo_proxy) as client:
        sender = gevent.spawn(client.sendall, payload)
        received = b""
        while len(received) < len(payload):
            received += client.recv(65536)
        sender.get()
    assert received == payload


def test_it_leads_to_the_server_by_a_rewritten_dsn(proxy, dsn):
    through = proxy.dsn(dsn)
    assert conninfo_to_dict(through)["port"] == str(proxy.port)
    with psycopg.connect(through) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)
        assert proxy.connections == 1
    wait_until(lambda: proxy.connections == 0)


def test_stopped_it_drops_and_refuses_until_started_on_the_same_port(echo_proxy):
    port = echo_proxy.port
    with connect(echo_proxy) as client:
        ask(client)
        echo_proxy.stop()
        echo_proxy.stop()
        assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(echo_proxy)
    echo_proxy.start()
    assert echo_proxy.port == port
    with connect(echo_proxy) as client:
        assert ask(client) == b"hello"


def test_stalled_it_accepts_and_says_nothing_until_resumed(echo_proxy):
    with connect(echo_proxy) as old:
        ask(old)
        echo_proxy.stall()
        with connect(echo_proxy) as new:
            for client in (old, new):
                client.sendall(b"anybody there?")
                client.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    client.recv(1)
            assert echo_proxy.connections == 2
            echo_proxy.resume()
            for client in (old, new):
                client.settimeout(5)
                assert client.recv(100) == b"anybody there?"


def test_stalled_it_does_not_pass_on_the_end_of_the_server(echo_proxy, echo):
    with connect(echo_proxy) as client:
        ask(client)
        echo_proxy.stall()
        echo.close()
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)


@pytest.mark.parametrize("stalled", [False, True], ids=["flowing", "stalled"])
def test_dropped_connections_end_politely_and_new_ones_work(echo_proxy, stalled):
    with connect(echo_proxy) as client:
        ask(client)
        if stalled:
            echo_proxy.stall()
        echo_proxy.drop_connections()
        assert client.recv(1) == b""
        assert echo_proxy.connections == 0
    echo_proxy.resume()
    with connect(echo_proxy) as client:
        assert ask(client) == b"hello"


@pytest.mark.parametrize("stalled", [False, True], ids=["flowing", "stalled"])
def test_reset_connections_end_with_an_error(echo_proxy, stalled):
    with connect(echo_proxy) as client:
        ask(client)
        if stalled:
            echo_proxy.stall()
        echo_proxy.drop_connections(reset=True)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_delayed_bytes_travel_together(echo_proxy):
    with connect(echo_proxy) as client:
        ask(client)
        echo_proxy.delay(0.1)
        began = time.monotonic()
        for _ in range(20):  # pieces that follow each other are each late, not late in turn
            client.sendall(b"x")
            gevent.sleep(0.005)
        received = b""
        while len(received) < 20:
            received += client.recv(100)
        took = time.monotonic() - began
        assert 0.2 <= took < 1.5
        echo_proxy.delay(0)
        assert ask(client) == b"hello"


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_an_impossible_delay_is_refused(echo_proxy, seconds):
    with pytest.raises(ValueError, match="seconds"):
        echo_proxy.delay(seconds)


def test_it_goes_on_while_the_hub_is_blocked(proxy):
    blocking_socket = monkey.get_original("socket", "socket")
    ssl_request = struct.pack("!ii", 8, 80877103)  # every PostgreSQL server answers S or N
    with blocking_socket() as client:
        client.settimeout(5)
        client.connect((proxy.host, proxy.port))
        client.sendall(ssl_request)
        assert client.recv(1) in (b"S", b"N")


def test_a_target_that_refuses_ends_the_connection(echo_proxy, echo):
    echo.close()
    with connect(echo_proxy) as client:
        assert client.recv(1) == b""


def test_closed_it_is_gone_and_says_so(echo):
    proxy = TcpProxy("127.0.0.1", echo.port)
    with pytest.raises(ProxyError, match="not been started"):
        proxy.stall()
    with proxy:
        address = (proxy.host, proxy.port)
    proxy.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    with pytest.raises(ProxyError, match="not been started"):
        _ = proxy.port


def test_an_unknown_command_does_not_end_it(echo_proxy):
    with pytest.raises(ProxyError, match="unknown command dance"):
        echo_proxy._command("dance")
    with connect(echo_proxy) as client:
        assert ask(client) == b"hello"


def test_many_greenlets_can_command_it_at_once(echo_proxy):
    jobs = [gevent.spawn(lambda: echo_proxy.connections) for _ in range(50)]
    assert [job.get() for job in jobs] == [0] * 50


def test_a_forked_child_leaves_it_alone(echo_proxy):
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # whatever happens, it must not outlive the test
        echo_proxy.close()
        os._exit(0)
    os.waitpid(child, 0)
    with connect(echo_proxy) as client:
        assert ask(client) == b"hello"


@pytest.mark.parametrize("patched", [False, True], ids=["plain", "patched"])
def test_it_ends_with_a_process_that_is_killed(patched):
    done = run_script(f"""
        if {patched}:
            from gevent import monkey; monkey.patch_all()
        import os, signal
        from geventpg.testing import TcpProxy
        proxy = TcpProxy("127.0.0.1", 1)
        proxy.start()
        print(proxy.port, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_until(lambda: not is_open(int(done.stdout)))


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
