"""Choosing TCP ports that stay ours while no socket listens on them."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 15_000
_random = random.SystemRandom()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on *host* that is free now, below the system's ephemeral range.

    A port from the ephemeral range is a trap for tests that take a server down: the kernel may give
    it to the client that is just reconnecting, which then finds itself connected to itself.
    Another program may still take the port before the caller binds it: be ready to try another one,
    or use :func:`reserve_port`.
    """
    with reserve_port(host) as sock:
        return int(sock.getsockname()[1])


def reserve_port(host: str = "127.0.0.1") -> socket.socket:
    """Return a socket that holds a port as :func:`free_port` chooses it, and never listens.

    Until it is closed, neither the kernel nor these functions give the port away. A server that
    binds it with ``SO_REUSEADDR``, as servers do, gets it, any number of times. Only Linux lets
    it.
    """
    try:
        first_ephemeral = int(_EPHEMERAL_RANGE.read_text().split()[0])
    except OSError:  # not Linux: the range that IANA recommends
        first_ephemeral = 49_152
    candidates = range(_LOWEST_PORT, first_ephemeral)
    for _ in range(100):
        port = _random.choice(candidates) if candidates else 0
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.bind((host, port))
            # Not before: it would let us in beside another reservation.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            sock.close()
            continue
        return sock
    raise OSError(f"no free TCP port found on {host}")
