"""A Celery app that asks for its password, in the file that ``SECRET`` names, when it connects."""

import os
from pathlib import Path

from psycopg.conninfo import make_conninfo

from tests.apps.work import app


def conninfo():
    password = Path(os.environ["SECRET"]).read_text()
    return make_conninfo(os.environ["GEVENTPG_CONNINFO"], password=password)


app.conf.geventpg = {"conninfo": conninfo, "min_size": 4, "max_size": 10, "max_lifetime": 0.5}
