"""OpenTelemetry: metrics of pools and spans of statements (extra ``otel``).

Names and attributes are those of the semantic conventions for database clients
(https://opentelemetry.io/docs/specs/semconv/database/). Parameters are never recorded, nor are
literals in statements that have no parameters, nor the messages of errors, which may quote both.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import psycopg
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from geventpg.pool import lifecycle
from geventpg.pool.events import Event
from geventpg.pool.pool import Pool
from geventpg.pool.stats import STATISTICS
from geventpg.sql.reading import read_text
from geventpg.statements.stats import Kind, Statistic

from .view import all_pools, stats

SCHEMA = "https://opentelemetry.io/schemas/1.34.0"

PREFIX = "db.client.connection."
POOL = PREFIX + "pool.name"
STATE = PREFIX + "state"

# What the conventions say of each metric. `STATISTICS` has the statistics of each size.
SIZES = {
    "count": (
        "{connection}",
        "The number of connections that are currently in state described by the state attribute.",
    ),
    "idle.max": ("{connection}", "The maximum number of idle open connections allowed."),
    "idle.min": ("{connection}", "The minimum number of idle open connections allowed."),
    "max": ("{connection}", "The maximum number of open connections allowed."),
    "pending_requests": (
        "{request}",
        "The number of current pending requests for an open connection.",
    ),
    "timeouts": (
        "{timeout}",
        (
            "The number of connection timeouts that have occurred trying to obtain a connection"
            " from the pool."
        ),
    ),
}
_TIMES = {
    "connected": ("create_time", "The time it took to create a new connection."),
    "waited": ("wait_time", "The time it took to obtain an open connection from the pool."),
    "returned": (
        "use_time",
        "The time between borrowing a connection and returning it to the pool.",
    ),
}
"""The histogram of each kind of event."""


def instrument(
    *,
    meter_provider: metrics.MeterProvider | None = None,
    tracer_provider: trace.TracerProvider | None = None,
    spans: bool = True,
) -> Instrumentation:
    """Report all pools of this process: those that are open, and those that open later.

    Without providers the global ones are used. With *spans* there is a span for each statement.
    Does not block. Call this in the process that is to report, after forks. Pools with
    ``timings=True`` also report how long connections were used, and how long every checkout
    waited; other pools report the waits of those checkouts that had to wait.
    Call `Instrumentation.stop` to end it.
    """
    return Instrumentation(meter_provider, tracer_provider, spans=spans)


class Instrumentation:
    """The reporting that `instrument` began."""

    def __init__(
        self,
        meter_provider: metrics.MeterProvider | None,
        tracer_provider: trace.TracerProvider | None,
        *,
        spans: bool,
    ) -> None:
        meter = metrics.get_meter("geventpg", meter_provider=meter_provider, schema_url=SCHEMA)
        self._stopped = False
        self._spans = spans
        self._tracer = trace.get_tracer(
            "geventpg", tracer_provider=tracer_provider, schema_url=SCHEMA
        )
        self._observe_sizes(meter)
        self._histograms = {
            kind: meter.create_histogram(PREFIX + name, "s", text)
            for kind, (name, text) in _TIMES.items()
        }
        self._histograms["checked_out"] = self._histograms["waited"]
        lifecycle.on_open.append(self._watch)
        for pool in list(lifecycle.open_pools):
            self._watch(pool)

    def stop(self) -> None:
        """Report nothing any more. Idempotent."""
        self._stopped = True
        if self._watch in lifecycle.on_open:
            lifecycle.on_open.remove(self._watch)
        for pool in list(lifecycle.open_pools):
            pool.remove_listener(self._measure)
            pool.remove_listener(self._span)

    def _watch(self, pool: Pool[Any]) -> None:
        pool.remove_listener(self._measure)  # opened once more, it is watched already
        pool.remove_listener(self._span)
        waits = ("checked_out", "returned") if pool.timings else ("waited",)
        pool.add_listener(self._measure, "connected", *waits)
        if self._spans:
            pool.add_listener(self._span, "statement", "batch")

    def _measure(self, event: Event) -> None:
        if event.error is None and event.seconds is not None:
            self._histograms[event.kind].record(event.seconds, {POOL: event.pool})

    def _span(self, event: Event) -> None:
        end = time.time_ns()
        conn, seconds = event.connection, event.seconds
        assert conn is not None
        assert seconds is not None
        attributes, texts = _where(conn), event.statements
        if len(texts) > 1:
            attributes["db.operation.batch.size"] = len(texts)
        summary = _summary_of_all(texts)
        if summary:
            attributes["db.query.summary"] = summary
        shown = texts
        if not event.has_parameters:
            shown = [read_text(text).without_literals for text in texts]
        attributes["db.query.text"] = "; ".join(dict.fromkeys(shown))
        span = self._tracer.start_span(
            summary or "postgresql",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=end - int(seconds * 1e9),
        )
        if event.error is not None:
            _note_error(span, event.error)
        span.end(end)

    # -- sizes ----------------------------------------------------------------------------

    def _observe_sizes(self, meter: metrics.Meter) -> None:
        for name, (unit, text) in SIZES.items():
            parts = [one for one in STATISTICS if name in one.otel]
            make = (
                meter.create_observable_counter
                if parts[0].kind is Kind.COUNTER
                else meter.create_observable_up_down_counter
            )
            make(PREFIX + name, [partial(self._observe, parts)], unit, text)

    def _observe(
        self, parts: Sequence[Statistic], _options: CallbackOptions
    ) -> Iterator[Observation]:
        totals: Counter[tuple[str, str | None]] = Counter()
        for pool in [] if self._stopped else all_pools():
            shown = stats(pool)
            for part in parts:
                totals[pool.name, part.state] += part.of(shown)
        for (name, state), value in totals.items():
            yield Observation(value, {POOL: name, **({STATE: state} if state else {})})


def _note_error(span: trace.Span, error: BaseException) -> None:
    # Neither the message nor `record_exception`: a message can quote values of the statement.
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    if sqlstate:
        span.set_attribute("db.response.status_code", sqlstate)
    span.set_attribute("error.type", sqlstate or type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR))


def _summary_of_all(texts: Sequence[str]) -> str:
    """Return the name of a span; for a batch it is what all its statements have in common."""
    summaries = {read_text(text).summary for text in dict.fromkeys(texts)}
    common = summaries.pop() if len(summaries) == 1 else ""
    return f"BATCH {common}".rstrip() if len(texts) > 1 else common


def _where(conn: psycopg.Connection[Any]) -> dict[str, str | int]:
    """Return what is known of the server without asking it."""
    attributes: dict[str, str | int] = {"db.system.name": "postgresql"}
    pgconn = conn.pgconn
    if pgconn.status != psycopg.pq.ConnStatus.OK:
        return attributes
    return attributes | _server(pgconn.host, pgconn.port, pgconn.db)


@lru_cache(maxsize=64)
def _server(host: bytes, port: bytes, database: bytes) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {"db.namespace": database.decode(errors="replace")}
    if host:
        attributes["server.address"] = host.decode(errors="replace")
    if port.isdigit():
        attributes["server.port"] = int(port)
    return attributes
