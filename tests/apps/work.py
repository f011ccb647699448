"""The Celery app of the integration's tests: one task for each way a task can begin, work and end.

The environment decides the rest: ``BROKER_URL``, ``RESULT_BACKEND``; ``APP_CONF``, a JSON object of
Celery settings; ``APP_IMPORTS_ONLY``, to enable geventpg by configuration alone.
"""

import json
import os

import gevent
import gevent.pool
import psycopg
from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from psycopg.conninfo import make_conninfo

import geventpg
from celery_integration import install, retry_policy
from geventpg.metrics import view as registry_view

app = Celery("work", broker=os.environ["BROKER_URL"], backend=os.environ.get("RESULT_BACKEND"))
app.conf.broker_connection_retry_on_startup = True
app.conf.update(json.loads(os.environ.get("APP_CONF", "{}")))
if os.environ.get("APP_IMPORTS_ONLY"):
    app.conf.imports = ("celery_integration",)
else:
    install(app)

leaked = []


def note(tag):
    geventpg.get_conn().execute("insert into work_notes (tag) values (%s)", [tag])


def break_constraint(tag):
    """Insert what only the commit will refuse."""
    geventpg.get_conn().execute("insert into work_links (tag, target) values (%s, -1)", [tag])


def pid():
    return geventpg.get_conn().execute("select pg_backend_pid()").fetchone()[0]


@app.task(name="note")
def note_task(tag):
    note(tag)
    return tag


@app.task(name="backend")
def backend(seconds=0):
    if seconds:
        geventpg.get_conn().execute("select pg_sleep(%s)", [seconds])
    return pid()


@app.task(name="process")
def process():
    return os.getpid(), pid()


@app.task(name="stats")
def stats():
    """Return the pool's view; this task holds no connection itself."""
    pool = geventpg.get_pool()
    return {
        "class": f"{type(pool).__module__}.{type(pool).__qualname__}",
        "min_size": pool.min_size,
        **pool.get_stats(),
    }


@app.task(name="nothing")
def nothing():
    return os.getpid()


# -- endings -------------------------------------------------------------------------------------


@app.task(name="fail")
def fail(tag):
    note(tag)
    raise RuntimeError("on purpose")


@app.task(name="fail_in_sql")
def fail_in_sql(tag):
    note(tag)
    geventpg.get_conn().execute("select 1/0")


@app.task(name="swallow")
def swallow(tag):
    """Swallow the error of a statement: its transaction cannot be committed any more."""
    note(tag)
    try:
        geventpg.get_conn().execute("select 1/0")
    except psycopg.Error:
        pass


@app.task(name="ignore")
def ignore(tag):
    note(tag)
    raise Ignore


@app.task(name="reject", acks_late=True)
def reject(tag):
    note(tag)
    raise Reject("on purpose", requeue=False)


@app.task(name="retry", bind=True, max_retries=3, default_retry_delay=0)
def retry(self, tag, times=2):
    note(f"{tag}-{self.request.retries}")
    if self.request.retries < times:
        raise self.retry()
    return self.request.retries


@app.task(
    name="autoretry", bind=True, autoretry_for=(ZeroDivisionError,), default_retry_delay=0,
    max_retries=3,
)  # fmt: skip
def autoretry(self, tag, times=2):
    note(f"{tag}-{self.request.retries}")
    if self.request.retries < times:
        geventpg.get_conn().execute("select 1")
        raise ZeroDivisionError
    return self.request.retries


@app.task(name="sleep")
def sleep(tag, seconds, in_sql=True):
    note(tag)
    if in_sql:
        geventpg.get_conn().execute("select pg_sleep(%s)", [seconds])
    else:
        gevent.sleep(seconds)
    return tag


@app.task(name="break_commit")
def break_commit(tag):
    note(tag)
    break_constraint(tag)
    return "the body ended well"


@app.task(
    name="break_commit_autoretry", bind=True, autoretry_for=(psycopg.IntegrityError,),
    default_retry_delay=0, max_retries=3,
)  # fmt: skip
def break_commit_autoretry(self, tag, times=2):
    note(f"{tag}-{self.request.retries}")
    if self.request.retries < times:
        break_constraint(tag)
    return self.request.retries


@app.task(name="lose_connection")
def lose_connection(tag):
    """Lose the connection where only the commit can notice."""
    note(tag)
    with psycopg.connect(os.environ["GEVENTPG_CONNINFO"], autocommit=True) as admin:
        admin.execute("select pg_terminate_backend(%s)", [pid()])


@app.task(name="statement_timeout")
def statement_timeout():
    """Return the statement_timeout (ms) of a transaction that is to end with the task."""
    with geventpg.transaction(statement_timeout="remaining") as conn:
        return int(
            conn.execute(
                "select setting from pg_settings where name = 'statement_timeout'"
            ).fetchone()[0]
        )


# -- kinds of tasks ------------------------------------------------------------------------------


class Audited(Task):
    """A base class that works before and after the body, on the task's connection."""

    def __call__(self, tag, *args):
        note(f"{tag}-before")
        result = super().__call__(tag, *args)
        if result == "after":
            note(f"{tag}-after")
        return result


@app.task(name="audited", base=Audited)
def audited(tag, result):
    note(f"{tag}-body")
    return result


class Prepared(Task):
    def before_start(self, task_id, args, kwargs):
        note(f"{args[0]}-before")


@app.task(name="prepared", base=Prepared)
def prepared(tag):
    note(f"{tag}-body")


class Reporting(Task):
    """Hooks that Celery calls when the outcome is stored already."""

    def on_success(self, retval, task_id, args, kwargs):
        with geventpg.get_conn():
            note(f"{args[0]}-success")

    def after_return(self, status, retval, task_id, args, *rest):
        with geventpg.get_conn():
            note(f"{args[0]}-{status}")
        note(f"{args[0]}-never committed")


@app.task(name="reporting", base=Reporting)
def reporting(tag):
    note(f"{tag}-body")


class PlainTask(app.Task):
    name = "class_based"

    def run(self, tag):
        note(tag)
        raise RuntimeError("on purpose") if tag.endswith("fail") else Ignore


app.register_task(PlainTask())


# -- retried tasks -------------------------------------------------------------------------------


def tried(task, tag):
    """Write down, whatever becomes of the task, that it was tried; return whether for once."""
    with psycopg.connect(os.environ["GEVENTPG_CONNINFO"], autocommit=True) as conn:
        conn.execute("insert into work_notes (tag) values (%s)", [f"{tag}-tried"])
    return task.request.retries == 0


def fail_with(sqlstate):
    geventpg.get_conn().execute(f"do $$ begin raise sqlstate '{sqlstate}'; end $$")


@app.task(name="policy", **retry_policy(backoff=0.01))
def policy(tag, sqlstate="40001"):
    note(f"{tag}-done")
    if tried(policy, tag):
        fail_with(sqlstate)


@app.task(name="policy_bound", bind=True, acks_late=True, **retry_policy(backoff=0.01))
def policy_bound(self, tag, sqlstate="40001"):
    note(f"{tag}-done")
    if tried(self, tag):
        fail_with(sqlstate)


@app.task(name="policy_audited", base=Audited, bind=True, **retry_policy(backoff=0.01))
def policy_audited(self, tag, sqlstate="40001"):
    note(f"{tag}-done")
    if tried(self, tag):
        fail_with(sqlstate)


class PolicyTask(app.Task):
    name = "policy_class"

    def run(self, tag, sqlstate="40001"):
        note(f"{tag}-done")
        if tried(self, tag):
            fail_with(sqlstate)


for option, value in retry_policy(backoff=0.01).items():
    setattr(PolicyTask, option, value)
app.register_task(PolicyTask())


@app.task(name="policy_forever", bind=True, **retry_policy(max_retries=2, backoff=0.01))
def policy_forever(self, tag):
    note(f"{tag}-done")
    tried(self, tag)
    fail_with("40P01")


@app.task(name="policy_lost", bind=True, **retry_policy(backoff=0.01))
def policy_lost(self, tag):
    """Lose the connection where only the commit can notice."""
    note(f"{tag}-done")
    if tried(self, tag):
        with psycopg.connect(os.environ["GEVENTPG_CONNINFO"], autocommit=True) as admin:
            admin.execute("select pg_terminate_backend(%s)", [pid()])


@app.task(name="policy_lost_in_block", bind=True, **retry_policy(backoff=0.01))
def policy_lost_in_block(self, tag):
    with geventpg.get_conn() as conn:
        note(f"{tag}-done")
        if tried(self, tag):
            conn.execute("select pg_terminate_backend(pg_backend_pid())")


@app.task(name="policy_fatal_commit", bind=True, **retry_policy(backoff=0.01))
def policy_fatal_commit(self, tag):
    """Be terminated by the server in the middle of COMMIT."""
    note(f"{tag}-done")
    if tried(self, tag):
        geventpg.get_conn().execute("insert into work_fatal values (1)")


def commit_and_be_terminated(task, tag, by="commit"):
    conn = geventpg.get_conn()
    if by == "commit":
        note(f"{tag}-done")
        if tried(task, tag):
            conn.execute("insert into work_fatal values (1)")
        conn.commit()
        return
    conn.rollback()
    with conn.transaction():
        note(f"{tag}-done")
        if tried(task, tag):
            conn.execute("insert into work_fatal values (1)")


@app.task(name="policy_unknown", bind=True, **retry_policy(backoff=0.01))
def policy_unknown(self, tag, by="commit"):
    commit_and_be_terminated(self, tag, by)


@app.task(
    name="policy_unknown_autoretry", bind=True, autoretry_for=(psycopg.OperationalError,),
    default_retry_delay=0, **retry_policy(backoff=0.01),
)  # fmt: skip
def policy_unknown_autoretry(self, tag):
    commit_and_be_terminated(self, tag)


@app.task(name="policy_idempotent", bind=True, **retry_policy(backoff=0.01, idempotent=True))
def policy_idempotent(self, tag):
    commit_and_be_terminated(self, tag)


@app.task(name="late", acks_late=True, bind=True)
def late(self, tag):
    note(tag)
    return self.request.id


@app.task(name="typed", typing=True, ignore_result=False, bind=True)
def typed(self, tag, *, suffix="x"):
    note(f"{tag}-{suffix}")
    return self.name


@app.task(name="with_block")
def with_block(tag):
    with geventpg.get_conn():
        note(f"{tag}-block")
    note(f"{tag}-rest")
    raise RuntimeError("on purpose")


@app.task(name="commit_first")
def commit_first(tag):
    note(f"{tag}-committed")
    geventpg.get_conn().commit()
    note(f"{tag}-rest")
    raise RuntimeError("on purpose")


@app.task(name="release_first")
def release_first(tag):
    note(f"{tag}-released")
    geventpg.release_conn()
    note(f"{tag}-rest")


@app.task(name="call_another")
def call_another(tag, ending="return"):
    note(f"{tag}-outer")
    note_task(f"{tag}-inner")
    if ending == "raise":
        raise RuntimeError("on purpose")


@app.task(name="call_a_failing_one")
def call_a_failing_one(tag):
    note(f"{tag}-outer")
    try:
        fail(f"{tag}-inner")
    except RuntimeError:
        pass


@app.task(name="apply_another")
def apply_another(tag):
    note(f"{tag}-outer")
    note_task.apply([f"{tag}-inner"])


@app.task(name="children")
def children(tag, number, ending="return"):
    """Spawn greenlets, each with its own connection, and wait for them."""

    def child(index):
        with geventpg.get_conn():
            note(f"{tag}-{index}")
            return pid()

    mine = pid()
    note(f"{tag}-parent")
    pids = gevent.pool.Pool(4).map(child, range(number))
    if ending == "raise":
        raise RuntimeError("on purpose")
    return mine, pids


@app.task(name="orphan")
def orphan(tag, seconds):
    """Spawn a greenlet that outlives the task."""

    def child():
        gevent.sleep(seconds)
        with geventpg.get_conn():
            note(f"{tag}-orphan")

    gevent.spawn(child)
    note(f"{tag}-parent")


@app.task(name="leak")
def leak(tag):
    leaked.append(geventpg.get_conn())
    note(tag)
    return pid()


@app.task(name="two_pools")
def two_pools(tag, ending="return"):
    conninfo = make_conninfo(os.environ["GEVENTPG_CONNINFO"], application_name="second")
    geventpg.configure(conninfo, name="second", min_size=0, max_size=2)
    note(tag)
    conn = geventpg.get_conn("second")
    conn.execute("insert into work_notes (tag) values (%s)", [f"{tag}-second"])
    if ending == "raise":
        raise RuntimeError("on purpose")


@app.task(name="add")
def add(numbers, tag=None):
    if tag:
        note(tag)
    return sum(numbers) if isinstance(numbers, list) else numbers + 1


@app.task(name="holders")
def holders():
    """Return the holders of this process's pool, as other processes are shown them."""
    return [holder.as_dict() for holder in registry_view.holders(geventpg.get_pool())]
