"""What the servers of this package raise."""

from __future__ import annotations

__all__ = ["ServerError"]


class ServerError(RuntimeError):
    """A server did not do what it was asked to; the message quotes its log."""
