"""What greenlets work on: names for `Pool.holders` and `Pool.waiters` to show."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from gevent import getcurrent

from geventpg import hub

_current: WeakKeyDictionary[Any, doing] = WeakKeyDictionary()


class doing:  # noqa: N801  # reads as what it says: with doing("a task"):
    """Name what the current greenlet works on in a block, such as a task or a request.

    ``with geventpg.pool.work.doing("GET /orders"):``. In a Celery task it is done already.
    *name* and *id* are shown as they are: keep secrets out. Blocks may be nested; the innermost
    counts. Does not block. Without gevent it names the work of the thread.
    """

    __slots__ = ("__weakref__", "_outer", "id", "name", "thread")

    def __init__(self, name: str, id: str | None = None) -> None:  # noqa: A002  # as in Celery
        self.name = name
        self.id = id
        self._outer: doing | None = None
        self.thread = 0

    def __enter__(self) -> None:
        greenlet = getcurrent()
        self.thread = hub.get_ident()
        self._outer = _current.get(greenlet)
        _current[greenlet] = self

    def __exit__(self, *_exc_info: object) -> None:
        greenlet = getcurrent()
        if self._outer is None:
            _current.pop(greenlet, None)
        else:
            _current[greenlet] = self._outer


def work_of(greenlet: Any) -> tuple[str | None, str | None]:
    """Return the name and the id of what *greenlet* works on."""
    work = None if greenlet is None else _current.get(greenlet)
    return (None, None) if work is None else (work.name, work.id)


def work_of_thread(ident: int) -> tuple[str | None, str | None]:
    """Return the name and the id of what a thread works on that runs no greenlets."""
    for reference in _current.keyrefs():  # a list at once: other threads go on
        work = _current.get(reference())
        if work is not None and work.thread == ident:
            return work.name, work.id
    return None, None
