"""Run pytest in the current folder, psycopg's source, with our classes in place of psycopg's.

A script and no plugin: psycopg's tests are a package called ``tests``, too.
"""

import sys

from gevent import monkey

monkey.patch_all()

sys.path[0] = ""  # and not this folder

import psycopg  # noqa: E402
import psycopg_pool  # noqa: E402
import pytest  # noqa: E402

import geventpg  # noqa: E402

psycopg.Connection = psycopg.connection.Connection = geventpg.Connection
psycopg.connect = geventpg.Connection.connect
psycopg_pool.ConnectionPool = psycopg_pool.pool.ConnectionPool = geventpg.Pool

sys.exit(pytest.main())
