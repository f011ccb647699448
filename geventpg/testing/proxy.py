"""A TCP proxy that fails on command, in a process of its own.

A process of its own, because a test that blocks the gevent hub, or patches ``socket``, must not
block or patch the network that it tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .helper_process import HelperProcess, ProxyError

__all__ = ["Direction", "ProxyError", "TcpProxy"]

Direction = Literal["from_client", "from_server"]

_DIRECTIONS: tuple[Direction, ...] = ("from_client", "from_server")


class TcpProxy(HelperProcess):
    """Forward connections to ``target_host:target_port`` until told to do worse.

    Use it as a context manager, or call :meth:`start` and :meth:`close`. The port stays the same
    and stays reserved for the life of this object, so a refused connection is really refused.
    The process ends with this one. Commands take effect before they return; they take well below a
    millisecond. When one side of a connection ends, the other side's connection ends too.

    :meth:`stall`, :meth:`blackhole` and :meth:`mute` exclude each other: the one called last holds
    until :meth:`resume`. All other faults can be combined with them and with each other.

    :param target_host: where connections go: a name or an address.
    :param target_port: the port there.
    """

    _program = Path(__file__).with_name("proxy_process.py")

    def __init__(self, target_host: str, target_port: int) -> None:
        super().__init__()
        self.target_host = target_host
        self.target_port = target_port

    def __repr__(self) -> str:
        target = f"{self.target_host}:{self.target_port}"
        return f"<{type(self).__name__} {self.host}:{self._port} -> {target}>"

    @property
    def connections(self) -> int:
        """How many clients are connected right now, as far as the proxy's state lets it see."""
        return int(self._command("connections"))

    def dsn(self, dsn: str) -> str:
        """Return the conninfo *dsn* with the proxy's address in place of the server's."""
        from psycopg.conninfo import conninfo_to_dict, make_conninfo

        parameters = conninfo_to_dict(dsn)
        parameters.pop("hostaddr", None)
        return make_conninfo("", **{**parameters, "host": self.host, "port": self.port})

    def start(self) -> None:
        """Accept connections, from the first call on or again after :meth:`stop`."""
        super().start()
        self._command("start")

    def stop(self) -> None:
        """Refuse new connections and drop the present ones, as a server does that has died."""
        self._command("stop")

    def stall(self) -> None:
        """Accept and keep connections but forward nothing, as a network does that is stuck.

        Nothing is lost: what has piled up is delivered after :meth:`resume`.
        """
        self._command("mode stalled")

    def blackhole(self) -> None:
        """Throw away every byte, in both directions, as a network does that drops packets.

        TCP itself stays up: neither side hears of an end, new connections are accepted and never
        answered. :meth:`resume` ends that for connections that come later and for those that sent
        nothing meanwhile. A connection that lost a byte (or its end) stays silent for ever, as
        behind a firewall that has forgotten it; its server side stays open when the client has
        left, until the server ends it too or :meth:`drop_connections` is called.
        """
        self._command("mode dropping")

    def mute(self) -> None:
        """Accept new connections and never answer or forward them, as a server does that hangs.

        The present connections work on. :meth:`resume` ends that for connections that come later;
        those accepted meanwhile stay mute.
        """
        self._command("mode mute")

    def resume(self) -> None:
        """End :meth:`stall`, :meth:`blackhole` or :meth:`mute`."""
        self._command("mode flowing")

    def drop_connections(self, reset: bool = False) -> None:
        """Close all present connections on both sides: politely (FIN), or with a TCP *reset*."""
        self._command("drop reset" if reset else "drop fin")

    def delay(self, seconds: float) -> None:
        """Deliver everything *seconds* later, in both directions; 0 ends that."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds must be a finite number from 0 up, not {seconds!r}")
        self._command(f"delay {seconds!r}")

    def cut_after(
        self, count: int | None, direction: Direction = "from_server", reset: bool = False
    ) -> None:
        """Close every connection opened from now on after exactly *count* bytes of *direction*.

        The other side gets these bytes, then the end; 0 ends a connection as soon as it is
        accepted. Each direction has a limit of its own. ``None`` takes both away, for connections
        opened later.

        :param count: bytes, counted for each connection from its beginning.
        :param direction: whose bytes count: ``"from_server"`` or ``"from_client"``.
        :param reset: end both sides with a TCP reset and not politely (FIN).
        """
        if count is None:
            self._command("cut_never")
        else:
            self._command(f"cut_after {_cut(count, direction, reset)}")

    def cut_next(
        self, count: int, direction: Direction = "from_server", reset: bool = False
    ) -> None:
        """Close each present connection after exactly *count* more bytes of *direction*.

        The parameters are those of :meth:`cut_after`; 0 closes them at once. To let the server do
        something whose answer never arrives, cut after 1 byte from the server.
        """
        self._command(f"cut_next {_cut(count, direction, reset)}")

    def retarget(self, host: str, port: int) -> None:
        """Lead connections that are opened from now on to another *host* and *port*."""
        if not host or host.split() != [host]:
            raise ValueError(f"host must be a name or an address, not {host!r}")
        self._command(f"retarget {host} {int(port)}")
        self.target_host, self.target_port = host, int(port)

    def forwarded(self, direction: Direction) -> int:
        """Return how many bytes of *direction* have been forwarded so far, on all connections."""
        return int(self._command(f"forwarded {_checked(direction)}"))

    def _arguments(self) -> list[str | Path]:
        return [self.target_host, str(self.target_port)]


def _cut(count: int, direction: Direction, reset: bool) -> str:
    if count < 0:
        raise ValueError(f"count must be a number of bytes from 0 up, not {count!r}")
    return f"{int(count)} {_checked(direction)} {'reset' if reset else 'fin'}"


def _checked(direction: Direction) -> Direction:
    if direction not in _DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(_DIRECTIONS)}, not {direction!r}")
    return direction
