"""The seam to gevent: hub, watchers, timers and greenlet-local storage live here only.

Everything above waits through this package, and nothing in it knows about pools.
"""

import gevent
import gevent.local

from .connecting import abandon_half_open, drive_connecting, point_at_null
from .loop import (
    DeadlineReached,
    can_wait,
    check_can_wait,
    current_hub,
    get_ident,
    getaddrinfo,
    in_use,
    pause,
    run_in_thread,
)
from .sockets import READ, WRITE, Watch, poll, switcher
from .waiting import Alarm, HubLock, Parked, Timer

Greenlet = gevent.Greenlet
GreenletLocal = gevent.local.local
spawn = gevent.spawn

__all__ = [
    "READ",
    "WRITE",
    "Alarm",
    "DeadlineReached",
    "Greenlet",
    "GreenletLocal",
    "HubLock",
    "Parked",
    "Timer",
    "Watch",
    "abandon_half_open",
    "can_wait",
    "check_can_wait",
    "current_hub",
    "drive_connecting",
    "get_ident",
    "getaddrinfo",
    "in_use",
    "pause",
    "point_at_null",
    "poll",
    "run_in_thread",
    "spawn",
    "switcher",
]
