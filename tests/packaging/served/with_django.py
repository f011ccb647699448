"""The extra `django`: the engine, with its pool."""

from gevent import monkey

monkey.patch_all()

import os

import django
from django.conf import settings
from django.db import connection
from psycopg.conninfo import conninfo_to_dict

import geventpg

server = conninfo_to_dict(os.environ["DSN"])
database = {
    "ENGINE": "geventpg.django",
    "NAME": server["dbname"],
    "USER": server["user"],
    "PASSWORD": server.get("password", ""),
    "HOST": server["host"],
    "PORT": server["port"],
    "OPTIONS": {"pool": {"min_size": 1, "max_size": 2}},
}
settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["geventpg.django"])
django.setup()
with connection.cursor() as cursor:
    cursor.execute("select 42")
    print(*cursor.fetchone(), geventpg.__file__)
connection.close()
connection.close_pool()
