"""The process behind :class:`geventpg.testing.TcpProxy`: standard library only, run by its path.

One asyncio loop on plain sockets, driven by lines on standard input, each answered by a line on
standard output. Plain sockets and not streams, because streams read and write ahead: here a byte is
counted when the kernel has it, and a connection ends exactly where it is told to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

_HOST = "127.0.0.1"
_CHUNK = 65_536
_FROM_CLIENT, _FROM_SERVER = "from_client", "from_server"


class _Mode(Enum):
    FLOWING = "flowing"
    STALLED = "stalled"  # bytes wait
    DROPPING = "dropping"  # bytes are thrown away
    MUTE = "mute"  # as FLOWING for the present connections, as DROPPING for new ones


@dataclass(frozen=True)
class _Cut:
    """The end of a connection, after a number of bytes of one direction."""

    count: int
    reset: bool


class _Proxy:
    """Accepts connections and obeys commands, one method ``do_…`` for each."""

    def __init__(self, target_host: str, target_port: int, port: int) -> None:
        self.target = (target_host, target_port)
        self.mode = _Mode.FLOWING
        self.unstalled = asyncio.Event()
        self.unstalled.set()
        self.latency = 0.0
        self.cuts: dict[str, _Cut] = {}
        self.forwarded = {_FROM_CLIENT: 0, _FROM_SERVER: 0}
        self.links: set[_Link] = set()
        self._accepting: asyncio.Task[None] | None = None
        # Bound but never listening: no program takes the port while connections are refused.
        self._reservation = _bound_socket(port, exclusive=True)
        self._port = port

    async def run(self) -> None:
        """Obey commands until standard input ends."""
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        _answer("ok")
        while line := await commands.readline():
            name, *arguments = line.decode().split()
            method: Callable[..., object] | None = getattr(self, f"do_{name}", None)
            if method is None:
                _answer(f"error unknown command {name}")
                continue
            try:
                result = method(*arguments)
                if asyncio.iscoroutine(result):
                    result = await result
            except (OSError, ValueError, TypeError) as exc:
                _answer(f"error {exc}")
            else:
                _answer("ok" if result is None else f"ok {result}")

    def do_start(self) -> None:
        if self._accepting is None:
            listener = _bound_socket(self._port)
            listener.listen(1024)
            self._accepting = asyncio.create_task(self._accept(listener))
            self._accepting.add_done_callback(lambda _: listener.close())

    async def do_stop(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None
        await self.do_drop("fin")

    def do_mode(self, name: str) -> None:
        self.mode = _Mode(name)
        if self.mode is _Mode.STALLED:
            self.unstalled.clear()
        else:
            self.unstalled.set()

    async def do_drop(self, how: str) -> None:
        links = list(self.links)
        for link in links:
            link.end(reset=how == "reset")
        if links:
            await asyncio.wait([link.task for link in links])

    def do_delay(self, seconds: str) -> None:
        self.latency = float(seconds)

    def do_cut_after(self, count: str, direction: str, how: str) -> None:
        self.cuts[direction] = _Cut(int(count), how == "reset")

    def do_cut_never(self) -> None:
        self.cuts.clear()

    async def do_cut_next(self, count: str, direction: str, how: str) -> None:
        if int(count) == 0:
            await self.do_drop(how)
        for link in self.links:
            so_far = link.forwarded[direction]
            link.cuts[direction] = _Cut(so_far + int(count), how == "reset")

    def do_retarget(self, host: str, port: str) -> None:
        self.target = (host, int(port))

    def do_forwarded(self, direction: str) -> int:
        return self.forwarded[direction]

    def do_connections(self) -> int:
        return sum(not link.client_left for link in self.links)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # the client has left already, or there are too many open files
                await asyncio.sleep(0.01)
                continue
            self.links.add(_Link(self, client))


class _Link:
    """One client's connection and, once there is one, the connection to the target."""

    def __init__(self, proxy: _Proxy, client: socket.socket) -> None:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._proxy = proxy
        self._client = client
        self._server: socket.socket | None = None
        self._reset = False
        self._ending = False
        self._lost = False  # bytes were thrown away: nothing gets through any more
        self.client_left = False
        self.cuts = dict(proxy.cuts)
        self.forwarded = {_FROM_CLIENT: 0, _FROM_SERVER: 0}
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(self._close)  # runs even if the task never got to start

    def end(self, reset: bool) -> None:
        """Have both sides closed, politely or with a TCP *reset*; await ``task`` for that."""
        if not self._ending:
            self._ending = True
            self._reset = reset
            self.task.cancel()

    async def _run(self) -> None:
        for cut in self.cuts.values():
            if cut.count == 0:
                self._reset = cut.reset
                return
        with contextlib.suppress(OSError):  # a side that ends, or the target refuses: so do we
            if self._proxy.mode is _Mode.MUTE:
                self._lost = True
            await self._proxy.unstalled.wait()
            if self._proxy.mode is _Mode.DROPPING:
                self._lost = True
            if self._lost:
                while await asyncio.get_running_loop().sock_recv(self._client, _CHUNK):
                    pass
                return
            self._server = await _connect(*self._proxy.target)
            await self._carry(self._server)

    async def _carry(self, server: socket.socket) -> None:
        """Carry bytes until a side ends; both sides, if that could no longer be told."""
        pumps = {
            asyncio.create_task(self._pump(_FROM_CLIENT, self._client, server)),
            asyncio.create_task(self._pump(_FROM_SERVER, server, self._client)),
        }
        pending = pumps
        try:
            while pending:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if not self._lost:
                    break
        finally:
            self._ending = True
            for pump in pending:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        """Carry one direction; the queue lets chunks travel together, as packets do."""
        loop = asyncio.get_running_loop()
        proxy = self._proxy
        travelling: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)

        async def collect() -> None:
            data = b"unread"
            while data:
                await proxy.unstalled.wait()
                try:
                    data = await loop.sock_recv(source, _CHUNK)
                except OSError:
                    data = b""  # the end, which travels like data
                await travelling.put((loop.time() + proxy.latency, data))

        collection = asyncio.create_task(collect())
        data = b"unread"
        try:
            while data:
                due, data = await travelling.get()
                if (remaining := due - loop.time()) > 0:
                    await asyncio.sleep(remaining)
                await proxy.unstalled.wait()
                if proxy.mode is _Mode.DROPPING:
                    self._lost = True
                if not self._lost:
                    await self._forward(direction, data, sink)
        finally:
            self.client_left |= direction == _FROM_CLIENT
            collection.cancel()
            await asyncio.gather(collection, return_exceptions=True)

    async def _forward(self, direction: str, data: bytes, sink: socket.socket) -> None:
        """Send *data* up to where the connection is to be cut, and count what the kernel took."""
        rest = memoryview(data)
        while rest:
            cut = self.cuts.get(direction)
            room = len(rest) if cut is None else cut.count - self.forwarded[direction]
            try:
                sent = sink.send(rest[:room])
            except BlockingIOError:
                await _writable(sink)
                continue
            rest = rest[sent:]
            self.forwarded[direction] += sent
            self._proxy.forwarded[direction] += sent
            if cut is not None and sent == room:
                await self._cut(cut, sink)

    async def _cut(self, cut: _Cut, sink: socket.socket) -> None:
        if cut.reset:
            # A reset throws away what the kernel has not delivered yet.
            while _undelivered(sink):
                await asyncio.sleep(0.001)
        self._reset = cut.reset
        raise ConnectionAbortedError

    def _close(self, _: asyncio.Task[None]) -> None:
        self._proxy.links.discard(self)
        for sock in (self._client, self._server):
            if sock is None:
                continue
            with contextlib.suppress(OSError):  # closed by its other side, or all is read
                if self._reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    sock.shutdown(socket.SHUT_WR)
                    # Unread bytes would turn the polite end into a reset.
                    for _attempt in range(1024):
                        if not sock.recv(_CHUNK):
                            break
            sock.close()


async def _connect(host: str, port: int) -> socket.socket:
    """Return a connection to the first of the name's addresses that answers."""
    loop = asyncio.get_running_loop()
    error: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
        except OSError as exc:
            sock.close()
            error = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error or OSError(f"{host} has no address")


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_writer(sock, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_writer(sock)


def _undelivered(sock: socket.socket) -> int:
    """Return how many bytes the other side's kernel has not acknowledged, where that is known."""
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    except OSError:
        return 0
    return int(count)


def _bound_socket(port: int, exclusive: bool = False) -> socket.socket:
    """Return a socket bound to *port*, with *exclusive* only if no other socket is."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    if not exclusive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((_HOST, port))
    # Set only now, it does not keep out sockets that set it too, as those that listen here do.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return sock


def _answer(line: str) -> None:
    os.write(sys.stdout.fileno(), line.encode() + b"\n")


async def _main(target_host: str, target_port: int, port: int) -> None:
    try:
        proxy = _Proxy(target_host, target_port, port)
    except OSError as exc:
        _answer(f"error {exc}")
        return
    await proxy.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The process behind geventpg.testing.TcpProxy.")
    parser.add_argument("target_host")
    parser.add_argument("target_port", type=int)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    asyncio.run(_main(options.target_host, options.target_port, options.port))
