"""A complete Celery worker, for a "create table notes (text text)". To start and use it:
export GEVENTPG_CONNINFO=postgresql://user@localhost/db BROKER=redis://localhost
celery -A examples.minimal_worker worker -P gevent -c 500
python -c "from examples.minimal_worker import remember; remember.delay('hello')"
"""

import os

from celery import Celery

import geventpg
from celery_integration import install

app = Celery("minimal", broker=os.environ["BROKER"])
install(app)  # settings: app.conf.geventpg = {...}, or GEVENTPG_* variables


@app.task  # committed when the body returns, before the task counts as successful
def remember(text: str) -> None:
    geventpg.get_conn().execute("insert into notes (text) values (%s)", [text])
