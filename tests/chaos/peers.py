"""Peers that misbehave on command: a man in the middle that adds messages, a slow name server."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import gevent
from gevent.resolver.ares import Resolver
from gevent.server import DatagramServer, StreamServer
from psycopg.conninfo import conninfo_to_dict, make_conninfo

_HOST = "127.0.0.1"


def error_response(severity: str, sqlstate: str, text: str) -> bytes:
    """Return an ErrorResponse message.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text}
    body = b"".join(f"{kind}{value}\0".encode() for kind, value in fields.items()) + b"\0"
    return b"E" + struct.pack("!i", len(body) + 4) + body


def parameter_status(name: str, value: str) -> bytes:
    """Return a ParameterStatus message."""
    body = f"{name}\0{value}\0".encode()
    return b"S" + struct.pack("!i", len(body) + 4) + body


class Interposer:
    """A real server's sessions, with messages put in that it cannot be made to send.

    Two last words in one TCP segment for example: PostgreSQL sends one and ends. Everything but
    what `say` adds is the real server's.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._clients: set[socket.socket] = set()
        self._server = StreamServer((_HOST, 0), self._serve)

    def __enter__(self) -> Interposer:
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.stop(timeout=0)

    def dsn(self, dsn: str) -> str:
        """Return the conninfo *dsn* with this address in place of the server's."""
        parameters = {**conninfo_to_dict(dsn), "host": _HOST, "port": self._server.server_port}
        parameters.pop("hostaddr", None)
        return make_conninfo("", **parameters)

    def say(self, data: bytes, *, hang_up: bool = False) -> None:
        """Send *data* to every client at once, each in one segment; then close if *hang_up*."""
        for client in list(self._clients):
            with contextlib.suppress(OSError):  # it has gone meanwhile
                client.sendall(data)
                if hang_up:
                    client.shutdown(socket.SHUT_WR)

    def _serve(self, client: socket.socket, address: object) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with socket.create_connection(self._target) as server:
            self._clients.add(client)
            pumps = [gevent.spawn(_pump, client, server), gevent.spawn(_pump, server, client)]
            try:
                gevent.joinall(pumps, count=1)
            finally:
                self._clients.discard(client)
                gevent.killall(pumps)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)


class SlowNameServer:
    """A DNS server that knows every name as 127.0.0.1, and says so *delay* seconds later."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.asked = 0
        self._server = DatagramServer((_HOST, 0), self._answer_later)

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def __enter__(self) -> SlowNameServer:
        self._server.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.stop(timeout=0)

    def _answer_later(self, query: bytes, address: object) -> None:
        self.asked += 1
        gevent.sleep(self.delay)
        with contextlib.suppress(OSError):  # the peer has closed its socket
            self._server.sendto(_answer(query), address)


def _answer(query: bytes) -> bytes:
    """Return the answer to a DNS query, RFC 1035: an address record, or none for other types."""
    end = query.index(b"\0", 12) + 5  # the name, its type and its class
    wants_address = query[end - 4 : end - 2] == b"\0\1"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(_HOST)
    counts = struct.pack("!4H", 1, wants_address, 0, 0)
    return query[:2] + b"\x81\x80" + counts + query[12:end] + record * wants_address


@contextlib.contextmanager
def names_from(server: SlowNameServer) -> Iterator[None]:
    """Make the hub resolve names with its c-ares resolver, at *server*."""
    hub = gevent.get_hub()
    original = hub.resolver
    # c-ares asks again after five times the latency it is used to.
    hub.resolver = Resolver(hub, use_environ=False, servers=[_HOST], udp_port=server.port)
    try:
        yield
    finally:
        hub.resolver.close()
        hub.resolver = original
