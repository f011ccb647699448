"""Plain sockets on both sides of a proxy."""

from __future__ import annotations

import socket
import threading

from geventpg.testing import TcpProxy

PATIENCE = 5.0
SILENCE = 0.1  # how long nothing must arrive


class EchoServer:
    """Sends back what it gets."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=[client], daemon=True).start()

    def _echo(self, client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(65536):
                    client.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.close()


def connect(proxy: TcpProxy) -> socket.socket:
    client = socket.create_connection((proxy.host, proxy.port), timeout=PATIENCE)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def ask(client: socket.socket, question: bytes = b"hello") -> bytes:
    client.sendall(question)
    return receive(client, len(question))


def receive(sock: socket.socket, count: int) -> bytes:
    """Return the next *count* bytes; fail if the connection ends before."""
    received = b""
    while len(received) < count:
        data = sock.recv(count - len(received))
        assert data, f"the connection ended after {received!r}"
        received += data
    return received


def receive_all(sock: socket.socket) -> tuple[bytes, str]:
    """Return everything up to the end, and what that is: ``"end"`` or ``"reset"``."""
    received = b""
    while True:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            return received, "reset"
        if not data:
            return received, "end"
        received += data


def is_silent(sock: socket.socket) -> bool:
    """Return whether neither a byte nor an end arrives for a while."""
    sock.settimeout(SILENCE)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENCE)
    return False
