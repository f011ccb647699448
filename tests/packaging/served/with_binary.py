"""The extra `binary`: a pool on psycopg's own libpq."""

from gevent import monkey

monkey.patch_all()

import os

import psycopg

import geventpg

assert psycopg.pq.__impl__ == "binary", psycopg.pq.__impl__
with geventpg.Pool(os.environ["DSN"], min_size=1, max_size=2) as pool:
    print(pool.fetch_val("select 42"), geventpg.__file__)
