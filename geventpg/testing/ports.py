"""Choosing TCP ports that stay ours while nobody listens on them."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 15_000
_random = random.SystemRandom()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on *host* that nobody uses now, below the system's ephemeral range.

    A port from the ephemeral range is a trap for tests that take a server down: the kernel may give
    it to the client that is just reconnecting, which then finds itself connected to itself.
    Somebody else may still take the port before the caller binds it: be ready to try another one.
    """
    try:
        first_ephemeral = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except OSError:  # not Linux: the range that IANA recommends
        first_ephemeral = 49_152
    candidates = range(_LOWEST_PORT, first_ephemeral)
    for _ in range(100):
        port = _random.choice(candidates) if candidates else 0
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            try:
                sock.bind((host, port))
            except OSError:
                continue
            return int(sock.getsockname()[1])
    raise OSError(f"no free TCP port found on {host}")
