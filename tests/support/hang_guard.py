"""End a test that hangs, and show where every greenlet was."""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Iterator

import gevent
from gevent.util import format_run_info

from tests.plugin_gevent import TERMINAL_FD

DEFAULT_LIMIT = 60.0
_LONGEST_GRACE = 15.0


class HungTest(BaseException):
    """The hang guard's exception; a BaseException, so that no test swallows it by accident."""


@contextlib.contextmanager
def hang_guard(limit: float) -> Iterator[None]:
    """Raise :exc:`HungTest` in the current greenlet after *limit* seconds, with all stacks printed.

    If that is impossible because the hub itself is blocked, or does not help, end the process
    some seconds later: faulthandler does that from a thread that needs neither the hub nor the GIL.
    """
    faulthandler.dump_traceback_later(
        limit + min(limit, _LONGEST_GRACE), exit=True, file=TERMINAL_FD
    )
    # A kill scheduled on the hub: while the hub runs, this reaches a greenlet that waits for ever.
    timer = gevent.get_hub().loop.timer(limit)
    timer.start(_end, gevent.getcurrent(), limit)
    try:
        yield
    finally:
        timer.stop()
        timer.close()
        faulthandler.cancel_dump_traceback_later()


def _end(greenlet: gevent.Greenlet, limit: float) -> None:
    print("\n".join(format_run_info()), file=sys.stderr)
    greenlet.throw(HungTest(f"the test hung for {limit} s; all stacks are in captured stderr"))
