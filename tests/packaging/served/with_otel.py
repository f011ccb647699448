"""The extra `otel`: a pool is reported to OpenTelemetry's interface, behind which nothing is."""

from gevent import monkey

monkey.patch_all()

import os

import geventpg
from geventpg.metrics.opentelemetry import instrument

instrumentation = instrument()
with geventpg.Pool(os.environ["DSN"], min_size=1, max_size=2) as pool:
    print(pool.fetch_val("select 42"), geventpg.__file__)
instrumentation.stop()
