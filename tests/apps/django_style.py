"""Configured as in a Django project: an object, a namespace, and nothing else."""

import os
from typing import ClassVar

from celery import Celery


class Settings:
    CELERY_BROKER_URL = os.environ["BROKER_URL"]
    CELERY_RESULT_BACKEND = os.environ["RESULT_BACKEND"]
    CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
    CELERY_IMPORTS = ("celery_integration",)
    CELERY_GEVENTPG: ClassVar = {
        "conninfo": os.environ["SETTINGS_CONNINFO"],
        "max_size": 3,
        "min_size": 1,
    }


app = Celery("django_style")
app.config_from_object(Settings, namespace="CELERY")


@app.task(name="stats")
def stats():
    import geventpg

    with geventpg.get_conn() as conn:
        name = conn.info.parameter_status("application_name")
    return name, geventpg.get_pool().max_size
