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

    def as_dict(self) -> dict[str, int]:
        """Return the numbers by the names they have in ``get_stats()``."""
        return {f"statements_{name}": value for name, value in asdict(self).items()}
