"""A Celery worker that keeps its results in PostgreSQL. To start and use it:
export BROKER=redis://localhost RESULTS=db+postgresql+geventpg://user@localhost/db
celery -A examples.database_results worker -P gevent -c 500
python -c "from examples.database_results import add; print(add.delay(1, 2).get())"
"""

import os

from celery import Celery
from celery.signals import worker_init

app = Celery("results", broker=os.environ["BROKER"], backend=os.environ["RESULTS"])
app.conf.result_backend_thread_safe = True  # one backend for all greenlets, not one for each
app.conf.database_engine_options = {"pool_size": 10, "max_overflow": 0}


@worker_init.connect
def keep_the_engine(**_):
    # Else Celery makes an engine without a pool for every result, except in prefork children.
    app.backend.session_manager.forked = True


@app.task
def add(one, other):
    return one + other
