"""Event loops and Django's database code, greenlet by greenlet.

asyncio knows threads of the operating system only. While one greenlet runs an event loop, an async
view for instance, Django would refuse database work in all other greenlets too, and in those that
stand for the threads of ``sync_to_async``; and ``django.db.connections`` would give them other
wrappers meanwhile, in the middle of a transaction. Where gevent has patched what a thread is,
Django is to see a loop in the greenlet that runs it, and nowhere else.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import AbstractEventLoop

import django.utils.asyncio
import gevent.monkey
from django.db import connections


def tell_greenlets_apart() -> None:
    """Have Django do so. Idempotent, and a no-op where gevent has not patched ``threading``."""
    if not gevent.monkey.is_module_patched("threading"):
        return
    # What its decorator `async_unsafe` asks.
    django.utils.asyncio.get_running_loop = get_running_loop
    before, after = connections._connections, threading.local()
    if isinstance(before, threading.local):
        return
    # asgiref's local storage, which keeps a value for each context instead while it sees a loop.
    for wrapper in connections.all(initialized_only=True):
        setattr(after, wrapper.alias, wrapper)
    connections._connections = after


def get_running_loop() -> AbstractEventLoop:
    """Do ``asyncio.get_running_loop``, whose loop must be one that this greenlet runs."""
    loop = asyncio.get_running_loop()
    # What the loop asked for its thread is patched. Loops that are not asyncio's do not say.
    if getattr(loop, "_thread_id", None) in (None, threading.get_ident()):
        return loop
    raise RuntimeError("no running event loop in this greenlet")
