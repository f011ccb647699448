"""Event loops and Django's database code, greenlet by greenlet.

asyncio knows threads of the operating system only. So while one greenlet runs an event loop, for
example in an async view, Django would refuse database work in all other greenlets too, and
``django.db.connections`` would give them other wrappers, in the middle of a transaction. Where
gevent has patched `threading`, Django has to see a loop only in the greenlet that runs it.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import AbstractEventLoop

import django.utils.asyncio
import gevent.monkey
from django.db import connections


def tell_greenlets_apart() -> None:
    """Let Django see an event loop only in the greenlet that runs it.

    Idempotent. Does nothing where gevent has not patched ``threading``.
    """
    if not gevent.monkey.is_module_patched("threading"):
        return
    # Django's decorator `async_unsafe` calls this.
    django.utils.asyncio.get_running_loop = get_running_loop
    before, after = connections._connections, threading.local()
    if isinstance(before, threading.local):
        return
    # The storage is asgiref's, which has other values while it sees a loop.
    for wrapper in connections.all(initialized_only=True):
        setattr(after, wrapper.alias, wrapper)
    connections._connections = after


def has_storage_of_greenlets() -> bool:
    """Tell whether ``django.db.connections`` has a storage for each greenlet."""
    # If it is asgiref's, there is the `threading.local` of the time of Django's import in it.
    storage = connections._connections
    return isinstance(getattr(storage, "_storage", storage), threading.local)


def get_running_loop() -> AbstractEventLoop:
    """Do ``asyncio.get_running_loop``, but raise if another greenlet runs the loop."""
    loop = asyncio.get_running_loop()
    # The loop has noted its thread by gevent's patched function. Other libraries' loops have not.
    if getattr(loop, "_thread_id", None) in (None, threading.get_ident()):
        return loop
    raise RuntimeError("no running event loop in this greenlet")
