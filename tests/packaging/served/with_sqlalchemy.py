"""The extra `sqlalchemy`: the dialect, by its entry point."""

from gevent import monkey

monkey.patch_all()

import os

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text

import geventpg

arguments = conninfo_to_dict(os.environ["DSN"])
engine = create_engine("postgresql+geventpg://", connect_args=arguments, pool_size=1)
with engine.connect() as conn:
    print(conn.execute(text("select 42")).scalar(), geventpg.__file__)
engine.dispose()
