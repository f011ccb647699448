"""A cache with a bound, for what is found by a text."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by text. What was asked for lately stays, what nothing asks for goes.

    It has two generations. When the young one is full it becomes the old one, whose values are
    gone; a value of the old one that is asked for becomes young again. So finding a value costs
    one look into a dict, and nothing is ordered.

    :param entries: values in one generation, at most.
    :param size: bytes of the texts in one generation, at most.
    """

    __slots__ = ("_entries", "_old", "_room", "_size", "_young")

    def __init__(self, entries: int, size: int) -> None:
        self._entries = entries
        self._size = self._room = size
        self._young: dict[bytes, T] = {}
        self._old: dict[bytes, T] = {}

    def get(self, text: bytes) -> T | None:
        """Return the value of *text*, ``None`` if it is not here."""
        value = self._young.get(text)
        if value is None:
            value = self._old.get(text)
            if value is not None:
                self.put(text, value)
        return value

    def put(self, text: bytes, value: T) -> None:
        """Keep *value* for *text*."""
        if len(self._young) >= self._entries or self._room < len(text):
            self._old, self._young = self._young, {}
            self._room = self._size
        self._room -= len(text)
        self._young[text] = value

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
