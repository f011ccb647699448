"""The extra `redis`: a task has a connection, and Celery has a client for its broker."""

from gevent import monkey

monkey.patch_all()

import os

from celery import Celery
from kombu.transport.redis import redis

import geventpg
from celery_integration import install

assert redis is not None, "kombu has no client"
app = Celery("app", broker="redis://127.0.0.1:1/0", set_as_current=False)
app.conf.task_always_eager = True
install(app)
geventpg.configure(os.environ["DSN"])


@app.task
def ask():
    return geventpg.get_conn().execute("select 42").fetchone()[0]


print(ask.delay().get(), geventpg.__file__)
