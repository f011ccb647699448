"""A Celery app that knows nothing of geventpg: for testing the test kit."""

import os
import time

from celery import Celery

app = Celery("plain", broker=os.environ["BROKER_URL"], backend=os.environ["BROKER_URL"])
app.conf.broker_connection_retry_on_startup = True


@app.task
def add(left, right):
    return left + right


@app.task
def doze(seconds):
    time.sleep(seconds)
