"""Patch the standard library for gevent before anything else is imported.

Loaded by ``-p`` in pyproject.toml: after pytest's core, before conftest.py, the tests, psycopg and
geventpg. A gevent worker starts in the same order.
"""

import os

from gevent import monkey

monkey.patch_all()

# pytest has not begun to capture yet: this is the terminal, for the hang guard's last words.
TERMINAL_FD = os.dup(2)
