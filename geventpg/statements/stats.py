"""What a pool's statements have to tell in numbers. Values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class StatementStats:
    """The statement-level API of one pool: counters since the start, and what is so now."""

    sent: int = 0
    """Statements sent over shared connections."""
    batches: int = 0
    """In so many portions; each is one write to the network."""
    batch_max: int = 0
    """The most statements in one of them."""
    spilled: int = 0
    """Statements that were given a connection of their own instead."""
    moved: int = 0
    """Times that a statement was taken from one connection to another before it was executed."""
    abandoned: int = 0
    """Statements that were sent and whose greenlets were killed or timed out."""
    outstanding: int = 0
    """Sent and not answered, now."""
    waiting: int = 0
    """Not sent yet, now."""
    connections: int = 0
    """Connections that carry statements, now."""

    def counters(self) -> dict[str, int]:
        """Return what only grows, by the names of ``get_stats()``."""
        return {name: value for name, value in self._named().items() if name not in _MEASURES}

    def measures(self) -> dict[str, int]:
        """Return the rest, by the names of ``get_stats()``."""
        return {name: value for name, value in self._named().items() if name in _MEASURES}

    def _named(self) -> dict[str, int]:
        return {f"statements_{name}": value for name, value in asdict(self).items()}


_MEASURES = {
    f"statements_{name}" for name in ("batch_max", "outstanding", "waiting", "connections")
}
