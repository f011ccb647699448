"""The extra `prometheus`: the figures of a pool."""

from gevent import monkey

monkey.patch_all()

import os

from prometheus_client import REGISTRY, generate_latest

import geventpg
from geventpg.metrics.prometheus import register

register()
with geventpg.Pool(os.environ["DSN"], min_size=1, max_size=2, name="mine") as pool:
    print(pool.fetch_val("select 42"), geventpg.__file__)
    assert b'pool="mine"' in generate_latest(REGISTRY)
