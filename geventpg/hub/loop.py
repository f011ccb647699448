"""The hub of this thread, the greenlets that may wait on it, and blocking calls in threads."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import gevent.hub
import gevent.monkey
import gevent.socket
from gevent._hub_local import get_hub_if_exists
from greenlet import getcurrent

from geventpg.errors import WrongHub

# The native thread's, whatever is patched: it tells hubs apart, and costs less than they do.
get_ident = gevent.monkey.get_original("_thread", "get_ident")


class DeadlineReached(Exception):
    """The deadline given to a wait passed. Internal: callers translate it."""


def in_use() -> bool:
    """Tell whether this thread runs under gevent: patched, or with a hub of its own."""
    return (
        gevent.monkey.is_module_patched("socket")
        or gevent.monkey.is_module_patched("threading")
        or get_hub_if_exists() is not None
    )


def current_hub() -> gevent.hub.Hub:
    """Return this thread's hub, making it when there is none. Does not block."""
    return gevent.hub.get_hub()


def check_can_wait(owner: gevent.hub.Hub, what: str) -> None:
    """Raise `WrongHub` unless the current greenlet can wait on *owner*, the hub of *what*."""
    here = gevent.hub.get_hub()
    if here is not owner:
        raise WrongHub(
            f"{what} belongs to the gevent hub of another thread and can only be used there;"
            " open one in this thread"
        )
    if getcurrent() is owner:
        raise WrongHub(f"{what} cannot be waited for inside a callback of the gevent hub itself")


def can_wait(owner: gevent.hub.Hub) -> bool:
    """Tell whether the current greenlet can wait on *owner*: its thread's, and not itself."""
    return gevent.hub.get_hub() is owner and getcurrent() is not owner


def pause(seconds: float) -> None:
    """Pause this greenlet, or the thread where gevent does not run."""
    if in_use():
        gevent.sleep(seconds)
    else:
        time.sleep(seconds)


def getaddrinfo(host: str, port: str | int, timeout: float) -> list[str]:
    """Resolve *host* with gevent's resolver; return its addresses, best first.

    Block this greenlet only, *timeout* seconds at most. Raise `OSError` if the name does not
    resolve and `DeadlineReached` when time is up.
    """
    late = DeadlineReached(f"name {host!r} not resolved in time")
    with gevent.Timeout(max(timeout, 0.0), late):
        found = gevent.socket.getaddrinfo(
            host, port, type=gevent.socket.SOCK_STREAM, proto=gevent.socket.IPPROTO_TCP
        )
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def run_in_thread(function: Callable[[], object]) -> None:
    """Run a function that would block the hub in gevent's thread pool and wait for it."""
    gevent.hub.get_hub().threadpool.apply(function)
