"""The process behind :class:`geventpg.testing.TlsProxy`: standard library only, run by its path.

It speaks the beginning of PostgreSQL's protocol, as far as TLS is agreed on there, and forwards the
rest. Bytes go through memory and not through an SSL socket, as asyncio's streams cannot begin TLS
in the middle of a connection on every Python that we support.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import ssl
import struct
import sys

_HOST = "127.0.0.1"
_CHUNK = 65_536
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_GSS_REQUEST = struct.pack("!ii", 8, 80877104)
_TLS_HANDSHAKE = 0x16  # the first byte of a client that begins TLS without asking


class _Client:
    """A client's connection, in clear until :meth:`begin_tls`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._sending = asyncio.Lock()

    async def begin_tls(self, context: ssl.SSLContext, first: bytes) -> None:
        """Do the handshake, of which *first* has been read already."""
        self._incoming.write(first)
        tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLError:
                await self._flush()  # the alert that tells the client why
                raise
            else:
                break
        await self._flush()
        self._tls = tls

    async def read(self) -> bytes:
        """Return the next bytes in clear; none at the end."""
        if self._tls is None:
            return await asyncio.get_running_loop().sock_recv(self._sock, _CHUNK)
        while True:
            try:
                return self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLZeroReturnError:
                return b""

    async def write(self, data: bytes) -> None:
        """Send *data*, which is in clear."""
        if self._tls is None:
            await asyncio.get_running_loop().sock_sendall(self._sock, data)
        else:
            self._tls.write(data)
            await self._flush()

    async def say_goodbye(self) -> None:
        """Tell the client that what it has is all."""
        if self._tls is not None:
            with contextlib.suppress(ssl.SSLWantReadError):  # its own goodbye is not waited for
                self._tls.unwrap()
            await self._flush()

    async def _flush(self) -> None:
        async with self._sending:  # both directions of TLS have something to send
            await asyncio.get_running_loop().sock_sendall(self._sock, self._outgoing.read())

    async def _feed(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._sock, _CHUNK)
        if not data:
            raise ConnectionAbortedError
        self._incoming.write(data)


class _TlsProxy:
    def __init__(self, target: tuple[str, int], context: ssl.SSLContext) -> None:
        self._target = target
        self._context = context
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Accept connections until standard input ends."""
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        accepting = asyncio.create_task(self._accept(listener))
        _answer("ok")
        await commands.read()
        accepting.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:  # the client has left already, or there are too many open files
                await asyncio.sleep(0.01)
                continue
            task = asyncio.create_task(self._serve(sock))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = _Client(sock)
            start = await self._agree(client, sock)
            reader, writer = await asyncio.open_connection(*self._target)
            try:
                writer.write(start)
                pumps = [
                    asyncio.create_task(_pump_up(client, writer)),
                    asyncio.create_task(_pump_down(reader, client)),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                writer.close()

    async def _agree(self, client: _Client, sock: socket.socket) -> bytes:
        """Answer the client's requests for encryption; return what follows them."""
        loop = asyncio.get_running_loop()
        while True:
            data = await client.read()
            while 0 < len(data) < len(_SSL_REQUEST) and (more := await client.read()):
                data += more
            if data == _SSL_REQUEST:
                await loop.sock_sendall(sock, b"S")
                await client.begin_tls(self._context, b"")
            elif data == _GSS_REQUEST:
                await loop.sock_sendall(sock, b"N")
            elif data and data[0] == _TLS_HANDSHAKE:
                await client.begin_tls(self._context, data)
            else:
                return data


async def _pump_up(client: _Client, writer: asyncio.StreamWriter) -> None:
    while data := await client.read():
        writer.write(data)
        await writer.drain()


async def _pump_down(reader: asyncio.StreamReader, client: _Client) -> None:
    while data := await reader.read(_CHUNK):
        await client.write(data)
    await client.say_goodbye()


def _answer(line: str) -> None:
    os.write(sys.stdout.fileno(), line.encode() + b"\n")


def _main() -> None:
    parser = argparse.ArgumentParser(description="The process behind geventpg.testing.TlsProxy.")
    for name in ("target_host", "target_port", "certificate", "key", "port"):
        parser.add_argument(name)
    options = parser.parse_args()
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.certificate, options.key)
        context.set_alpn_protocols(["postgresql"])
        listener = socket.create_server((_HOST, int(options.port)), backlog=1024)
    except (OSError, ValueError) as exc:
        _answer(f"error {exc}")
        return
    listener.setblocking(False)
    target = (options.target_host, int(options.target_port))
    asyncio.run(_TlsProxy(target, context).run(listener))


if __name__ == "__main__":
    _main()
