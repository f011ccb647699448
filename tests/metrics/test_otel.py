"""OpenTelemetry: the names of the semantic conventions, and no parameter anywhere."""

from __future__ import annotations

from contextlib import suppress

import gevent
import psycopg
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from geventpg import PoolTimeout
from geventpg.metrics.opentelemetry import POOL, STATE, instrument
from tests.connection.batch.helpers import batch_of

SECRET = "hunter2"

UNITS = {
    "db.client.connection.count": "{connection}",
    "db.client.connection.idle.max": "{connection}",
    "db.client.connection.idle.min": "{connection}",
    "db.client.connection.max": "{connection}",
    "db.client.connection.pending_requests": "{request}",
    "db.client.connection.timeouts": "{timeout}",
    "db.client.connection.create_time": "s",
    "db.client.connection.wait_time": "s",
    "db.client.connection.use_time": "s",
}


class Telemetry:
    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.exporter = InMemorySpanExporter()
        self.meter_provider = MeterProvider([self.reader])
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.instrumentation = instrument(
            meter_provider=self.meter_provider, tracer_provider=self.tracer_provider
        )

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def metrics(self, pool):
        """Return (unit, data points) of each metric of *pool*, by name."""
        data = self.reader.get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data else []:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = [p for p in metric.data.data_points if p.attributes[POOL] == pool.name]
                    if points:
                        found[metric.name] = (metric.unit, points)
        return found


@pytest.fixture
def telemetry():
    telemetry = Telemetry()
    yield telemetry
    telemetry.instrumentation.stop()
    telemetry.meter_provider.shutdown()
    telemetry.tracer_provider.shutdown()


def test_the_metrics_of_the_conventions_are_there_with_their_units(telemetry, make_pool):
    pool = make_pool(min_size=1, max_size=3, timings=True)
    pool.wait()
    with pool.connection():
        pass
    with pytest.raises(PoolTimeout):
        pool.getconn(0)
    with pool.connection():
        metrics = telemetry.metrics(pool)
    assert {name: unit for name, (unit, _) in metrics.items()} == UNITS
    counts = {p.attributes[STATE]: p.value for p in metrics["db.client.connection.count"][1]}
    assert counts == {"idle": 0, "used": 1}

    def value(name):
        (point,) = metrics[f"db.client.connection.{name}"][1]
        return point.count if hasattr(point, "count") else point.value

    assert (value("max"), value("idle.max"), value("idle.min")) == (3, 3, 1)
    assert (value("pending_requests"), value("timeouts")) == (0, 1)
    assert (value("create_time"), value("wait_time"), value("use_time")) == (1, 2, 1)


def test_without_timings_only_waits_are_measured(telemetry, make_pool):
    pool = make_pool(max_size=1)
    pool.wait()
    with pool.connection():
        assert "db.client.connection.wait_time" not in telemetry.metrics(pool)
        waiter = gevent.spawn(pool.getconn, 10)
        gevent.sleep(0.01)
    pool.putconn(waiter.get())
    metrics = telemetry.metrics(pool)
    assert metrics["db.client.connection.wait_time"][1][0].count == 1
    assert "db.client.connection.use_time" not in metrics


def test_a_statement_is_a_client_span_of_the_conventions(telemetry, make_pool):
    pool = make_pool()
    with pool.connection() as conn:
        conn.execute("select oid from pg_class where relname = %s", [SECRET])
        (span,) = telemetry.spans
        assert span.name == "SELECT pg_class"
        assert span.kind == SpanKind.CLIENT
        assert span.status.status_code == StatusCode.UNSET
        assert 0 <= span.end_time - span.start_time < 10e9
        assert dict(span.attributes) == {
            "db.system.name": "postgresql",
            "db.namespace": conn.info.dbname,
            "db.query.summary": "SELECT pg_class",
            "db.query.text": "select oid from pg_class where relname = %s",
            "server.address": conn.info.host,
            "server.port": conn.info.port,
        }


def test_a_statement_is_a_child_of_the_span_it_is_executed_in(telemetry, make_pool):
    tracer = telemetry.tracer_provider.get_tracer("test")
    pool = make_pool()

    def work(name):
        with tracer.start_as_current_span(name), pool.connection() as conn:
            conn.execute("select pg_sleep(0.01)")

    gevent.joinall([gevent.spawn(work, name) for name in "ab"], raise_error=True)
    spans = {span.context.span_id: span for span in telemetry.spans}
    parents = [spans[s.parent.span_id].name for s in telemetry.spans if s.name == "SELECT"]
    assert sorted(parents) == ["a", "b"]


def test_single_statements_are_spans_like_others(telemetry, make_pool):
    tracer = telemetry.tracer_provider.get_tracer("test")
    pool = make_pool()

    def work(name):
        with tracer.start_as_current_span(name):
            pool.fetch_val("select oid from pg_class where relname = %s", (SECRET,))
            pool.execute(f"select '{SECRET}' where pg_sleep(0.01) is not null")

    gevent.joinall([gevent.spawn(work, name) for name in "abc"], raise_error=True)
    spans = {span.context.span_id: span for span in telemetry.spans}
    asked = [span for span in telemetry.spans if span.name == "SELECT pg_class"]
    assert sorted(spans[span.parent.span_id].name for span in asked) == ["a", "b", "c"]
    assert asked[0].attributes["db.query.text"] == "select oid from pg_class where relname = %s"
    assert asked[0].attributes["server.port"]
    assert len(spans) == 9
    assert SECRET not in "".join(span.to_json() for span in telemetry.spans)


@pytest.mark.parametrize("atomic", [True, False])
def test_a_batch_is_one_span_of_the_conventions(telemetry, make_pool, atomic):
    tracer = telemetry.tracer_provider.get_tracer("test")
    pool = make_pool()
    query = "select oid from pg_class where relname = %s"
    with tracer.start_as_current_span("the work"):
        pool.send_batch(batch_of((query, (SECRET,)), (query, (SECRET,))), atomic=atomic)
    batch, work = telemetry.spans
    assert batch.name == batch.attributes["db.query.summary"] == "BATCH SELECT pg_class"
    assert batch.attributes["db.operation.batch.size"] == 2
    assert batch.attributes["db.query.text"] == query
    assert batch.parent.span_id == work.context.span_id


def test_a_batch_of_different_statements_shows_each_once_and_no_literals(telemetry, make_pool):
    pool = make_pool()
    pool.send_batch(
        batch_of(f"select '{SECRET}'", "select 'and another'", ("select %s::text", (SECRET,)))
    )
    (span,) = telemetry.spans
    assert span.name == span.attributes["db.query.summary"] == "BATCH SELECT"
    assert span.attributes["db.operation.batch.size"] == 3
    assert span.attributes["db.query.text"] == "select ?; select %s::text"
    pool.send_batch(batch_of("select 1", "lock pg_class in access share mode"))
    assert telemetry.spans[1].name == "BATCH"


def test_a_batch_of_one_is_a_span_like_that_of_its_statement(telemetry, make_pool):
    pool = make_pool()
    pool.send_batch(batch_of("select oid from pg_class limit 1"))
    (span,) = telemetry.spans
    assert span.name == "SELECT pg_class"
    assert "db.operation.batch.size" not in span.attributes


@pytest.mark.parametrize("atomic", [True, False])
def test_a_batch_that_fails_is_a_span_with_an_error(telemetry, make_pool, atomic):
    pool = make_pool()
    failing = batch_of("select 1", ("select %s::text::int", (SECRET,)))
    with suppress(psycopg.DataError):
        pool.send_batch(failing, atomic=atomic)
    (span,) = telemetry.spans
    assert span.attributes["db.response.status_code"] == "22P02"
    assert SECRET not in span.to_json()


@pytest.mark.parametrize("single", [True, False], ids=["single", "of a checkout"])
def test_a_statement_whose_connection_is_lost_is_a_span_too(telemetry, make_pool, single):
    pool = make_pool()
    query = f"select pg_terminate_backend(pg_backend_pid()), '{SECRET}'"
    with pytest.raises(psycopg.OperationalError):
        if single:
            pool.execute(query)
        else:
            with pool.connection() as conn:
                conn.execute(query)
    (span,) = telemetry.spans
    assert span.attributes["error.type"]
    assert SECRET not in span.to_json()


def test_an_error_is_told_by_its_sqlstate_and_not_by_its_message(telemetry, make_pool):
    pool = make_pool()
    with pytest.raises(psycopg.DataError), pool.connection() as conn:
        conn.execute("select %s::text::int", [SECRET])
    with pytest.raises(gevent.Timeout), pool.connection() as conn, gevent.Timeout(0.02):
        conn.execute("select pg_sleep(10)")
    failed, interrupted = telemetry.spans
    assert failed.status.status_code == interrupted.status.status_code == StatusCode.ERROR
    assert failed.attributes["db.response.status_code"] == "22P02"
    assert failed.attributes["error.type"] == "22P02"
    assert interrupted.attributes["error.type"] == "Timeout"
    assert SECRET not in failed.to_json()


@pytest.mark.parametrize(
    "run",
    [
        lambda conn: conn.execute("select %s::text", [SECRET]),
        lambda conn: conn.execute(f"select '{SECRET}'"),
        lambda conn: conn.execute(f"select $${SECRET}$$ -- {SECRET}"),
        lambda conn: conn.cursor().executemany("select %s::text", [[SECRET]]),
        lambda conn: psycopg.ClientCursor(conn).execute("select %s", [SECRET]),
        lambda conn: conn.execute(psycopg.sql.SQL("select {}").format(psycopg.sql.Literal(SECRET))),
        lambda conn: (
            conn.execute("set standard_conforming_strings = off")
            and conn.execute(f"select 'it\\'s {SECRET}'")
        ),
    ],
)
def test_no_parameter_and_no_literal_gets_into_a_span(telemetry, make_pool, run):
    pool = make_pool()
    with pool.connection() as conn:
        run(conn)
        conn.rollback()
    assert telemetry.spans
    assert SECRET not in "".join(span.to_json() for span in telemetry.spans)


def test_after_stop_nothing_is_reported_and_nothing_is_paid(telemetry, make_pool):
    pool = make_pool(timings=True)
    telemetry.instrumentation.stop()
    telemetry.instrumentation.stop()
    with pool.connection() as conn:
        conn.execute("select 1")
    later = make_pool()
    with later.connection() as conn:
        conn.execute("select 1")
    assert telemetry.spans == ()
    assert telemetry.metrics(pool) == telemetry.metrics(later) == {}
