"""A TCP proxy that fails on command, in a process of its own.

A process of its own, because a test that blocks the gevent hub, or patches ``socket``, must not
block or patch the network that it tests. That process imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ProxyError", "TcpProxy"]

_HOST = "127.0.0.1"
_CHUNK = 65_536


class ProxyError(RuntimeError):
    """The proxy process refused a command or is gone."""


class TcpProxy:
    """Forward connections to ``target_host:target_port`` until told to do worse.

    Use it as a context manager, or call :meth:`start` and :meth:`close`. The port stays the same
    and stays reserved for the life of this object, so a refused connection is really refused.
    The process ends with this one. Commands take effect before they return; they take microseconds.

    :param target_host: where connections go: a name or an address.
    :param target_port: the port there.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.target_host = target_host
        self.target_port = target_port
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None
        self._lock = threading.Lock()  # a command and its answer belong together

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {_HOST}:{self._port} -> {self.target_host}:{self.target_port}>"
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def host(self) -> str:
        """The address the proxy listens on."""
        return _HOST

    @property
    def port(self) -> int:
        """The port the proxy listens on."""
        if self._port is None:
            raise ProxyError("the proxy has not been started")
        return self._port

    @property
    def connections(self) -> int:
        """How many clients are connected right now."""
        return int(self._command("connections"))

    def dsn(self, dsn: str) -> str:
        """Return the conninfo *dsn* with the proxy's address in place of the server's."""
        from psycopg.conninfo import conninfo_to_dict, make_conninfo

        parameters = conninfo_to_dict(dsn)
        parameters.pop("hostaddr", None)
        return make_conninfo("", **{**parameters, "host": _HOST, "port": self.port})

    def start(self) -> None:
        """Accept connections, from the first call on or again after :meth:`stop`."""
        if self._process is None:
            self._launch()
        self._command("start")

    def stop(self) -> None:
        """Refuse new connections and drop the present ones, as a server does that has died."""
        self._command("stop")

    def stall(self) -> None:
        """Accept and keep connections but forward nothing, as a silent network does."""
        self._command("stall")

    def resume(self) -> None:
        """Forward again after :meth:`stall`, what has piled up first."""
        self._command("resume")

    def drop_connections(self, reset: bool = False) -> None:
        """Close all present connections on both sides: politely (FIN), or with a TCP *reset*."""
        self._command("drop reset" if reset else "drop fin")

    def delay(self, seconds: float) -> None:
        """Deliver everything *seconds* later, in both directions; 0 ends that."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds must be a finite number from 0 up, not {seconds!r}")
        self._command(f"delay {seconds!r}")

    def close(self) -> None:
        """End the proxy process. Harmless when repeated."""
        process, self._process, self._port = self._process, None, None
        if process is None:
            return
        process.kill()  # nothing to save
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _launch(self) -> None:
        # By path and isolated, not with -m: it must not import geventpg, and it starts faster.
        arguments = [sys.executable, "-I", __file__, self.target_host, str(self.target_port)]
        from geventpg.testing.ports import free_port

        for _ in range(5):
            port = free_port(_HOST)
            self._process = subprocess.Popen(
                [*arguments, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # our group's SIGINT is not meant for it
            )
            try:
                self._read_answer()
            except ProxyError:
                self.close()
            else:
                self._port = port
                return
        raise ProxyError("the proxy process found no port to listen on")

    def _command(self, command: str) -> str:
        with self._lock:
            if self._process is None or self._process.stdin is None:
                raise ProxyError("the proxy has not been started")
            try:
                self._process.stdin.write(command.encode() + b"\n")
            except OSError as exc:
                raise ProxyError(f"the proxy process is gone: {exc}") from exc
            return self._read_answer()

    def _read_answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().decode().strip()
        status, _, value = answer.partition(" ")
        if status != "ok":
            raise ProxyError(value or "the proxy process is gone")
        return value


# -- the other process ---------------------------------------------------------------------------


class _Server:
    """The proxy itself: one asyncio loop, driven by lines on standard input."""

    def __init__(self, target_host: str, target_port: int, port: int) -> None:
        self._target = (target_host, target_port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay = 0.0
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        # Bound but never listening: nobody else can take the port while connections are refused.
        self._reservation = _bound_socket(port)
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

    async def do_start(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(
                self._serve, sock=_bound_socket(self._port), limit=_CHUNK, backlog=1024
            )

    def do_stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.do_drop("fin")

    def do_stall(self) -> None:
        self._flowing.clear()

    def do_resume(self) -> None:
        self._flowing.set()

    def do_drop(self, how: str) -> None:
        for link in self._links:
            link.close(reset=how == "reset")
        self._links.clear()

    def do_delay(self, seconds: str) -> None:
        self._delay = float(seconds)

    def do_connections(self) -> int:
        return len(self._links)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        pumps: list[asyncio.Task[None]] = []
        try:
            await self._flowing.wait()
            target_reader, target_writer = await asyncio.open_connection(
                *self._target, limit=_CHUNK
            )
            link.writers.append(target_writer)
            pumps = [
                asyncio.create_task(self._pump(reader, target_writer)),
                asyncio.create_task(self._pump(target_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the target refuses: so do we, a little late
        finally:
            for pump in pumps:
                pump.cancel()
            self._links.discard(link)
            link.close(reset=False)
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one direction; the queue lets chunks travel together, as packets do."""
        loop = asyncio.get_running_loop()
        travelling: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)

        async def deliver() -> None:
            while True:
                due, data = await travelling.get()
                if (remaining := due - loop.time()) > 0:
                    await asyncio.sleep(remaining)
                await self._flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()

        async def collect() -> None:
            data = b"unread"
            while data:
                await self._flowing.wait()
                try:
                    data = await reader.read(_CHUNK)
                except OSError:
                    data = b""  # the end, which travels like data
                await travelling.put((loop.time() + self._delay, data))

        collection = asyncio.create_task(collect())
        try:
            await deliver()
        finally:
            collection.cancel()
            await asyncio.gather(collection, return_exceptions=True)


class _Link:
    """One client's connection and, once there is one, the connection to the target."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self._task = asyncio.current_task()
        self._closed = False

    def close(self, reset: bool) -> None:
        """Close both sides and end the task that serves them."""
        if self._closed:
            return
        self._closed = True
        for writer in self.writers:
            if reset:
                sock = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):  # closed already
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()


def _bound_socket(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((_HOST, port))
    return sock


def _answer(line: str) -> None:
    os.write(sys.stdout.fileno(), line.encode() + b"\n")


async def _main(target_host: str, target_port: int, port: int) -> None:
    try:
        server = _Server(target_host, target_port, port)
    except OSError as exc:
        _answer(f"error {exc}")
        return
    await server.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The process behind geventpg.testing.TcpProxy.")
    parser.add_argument("target_host")
    parser.add_argument("target_port", type=int)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    asyncio.run(_main(options.target_host, options.target_port, options.port))
