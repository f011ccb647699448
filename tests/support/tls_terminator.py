"""A proxy that speaks TLS with the client and plain text with the server, in a process of its own.

What PostgreSQL itself never does, such proxies do: they fill TLS records to their limit of
16 KiB, cut them where they like, or take their time for the handshake.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator

_HOST = "127.0.0.1"
_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


@contextlib.contextmanager
def tls_terminator(
    target_host: str, target_port: int, certificate: str, *, record: int = 16_384, pause: float = 0
) -> Iterator[int]:
    """Run the proxy and give its port.

    :param certificate: a file with the certificate and its key.
    :param record: how many bytes a TLS record has, as far as there are as many.
    :param pause: seconds that it waits before each of its turns in the handshake.
    """
    command = [sys.executable, "-I", __file__, target_host, str(target_port), certificate]
    process = subprocess.Popen(
        [*command, str(record), str(pause)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


# -- the other process ---------------------------------------------------------------------------


class _Link:
    def __init__(self, context: ssl.SSLContext, record: int, pause: float) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.record, self.pause = record, pause

    async def serve(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        reader, writer = client
        if await reader.readexactly(8) != _SSL_REQUEST:
            return  # a cancel request in the clear, for example
        await asyncio.sleep(self.pause)
        writer.write(b"S")
        await self._handshake(reader, writer)
        pumps = [
            asyncio.create_task(self._decrypt(reader, server[1])),
            asyncio.create_task(self._encrypt(server[0], writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _handshake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush(writer)
                self.incoming.write(await reader.read(65_536) or _eof())
                await asyncio.sleep(self.pause)
            else:
                await self._flush(writer)
                return

    async def _flush(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self.outgoing.read())
        await writer.drain()

    async def _decrypt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                while data := self.tls.read(65_536):
                    writer.write(data)
                await writer.drain()
                return
            await writer.drain()
            self.incoming.write(await reader.read(65_536) or _eof())

    async def _encrypt(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            # What is under way counts into the same record.
            await asyncio.sleep(0.0005)
            with contextlib.suppress(asyncio.TimeoutError):
                data += await asyncio.wait_for(reader.read(1 << 20), 0.0005)
            for start in range(0, len(data), self.record):
                self.tls.write(data[start : start + self.record])
            await self._flush(writer)
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()  # says goodbye, and does not wait for the client's
        await self._flush(writer)


def _eof() -> bytes:
    raise ConnectionError("the client is gone")


async def _main(options: argparse.Namespace) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = await asyncio.open_connection(options.host, options.port, limit=1 << 20)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                link = _Link(context, options.record, options.pause)
                await link.serve((reader, writer), target)
        finally:
            writer.close()
            target[1].close()

    server = await asyncio.start_server(serve, _HOST, 0)
    os.write(sys.stdout.fileno(), b"%d\n" % server.sockets[0].getsockname()[1])
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The process behind tls_terminator.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("certificate")
    parser.add_argument("record", type=int)
    parser.add_argument("pause", type=float)
    asyncio.run(_main(parser.parse_args()))
