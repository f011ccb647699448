"""The extra `celery`: a task has a connection."""

from gevent import monkey

monkey.patch_all()

import os

from celery import Celery

import geventpg
from celery_integration import install

app = Celery("app", broker="memory://", set_as_current=False)
app.conf.task_always_eager = True
install(app)
geventpg.configure(os.environ["DSN"])


@app.task
def ask():
    return geventpg.get_conn().execute("select 42").fetchone()[0]


print(ask.delay().get(), geventpg.__file__)
