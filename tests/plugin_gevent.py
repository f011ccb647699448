"""Patch the standard library for gevent before anything else is imported.

Loaded by ``-p`` in pyproject.toml: after pytest's core, before conftest.py, the tests, psycopg and
geventpg. A gevent worker starts in the same order.
"""

import os

import gevent
from gevent import monkey

monkey.patch_all()

# pytest has not begun to capture yet: this is the terminal, for the hang guard's last words.
TERMINAL_FD = os.dup(2)

if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker of pytest-xdist takes its orders from a thread that was started before gevent
    # patched anything. While it waits for one, its hub would have nothing else to wait for and
    # give up: so it has this timer.
    _alive = gevent.get_hub().loop.timer(3600, 3600)
    _alive.start(lambda: None)
