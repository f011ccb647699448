"""A pytest plugin for SQLAlchemy's tests on ``postgresql+geventpg``: gevent first, then a name.

The tests ask the dialect for the name of its driver, to know what to expect of it: what of
psycopg is expected is expected here.
"""

from gevent import monkey

monkey.patch_all()


from geventpg.sqlalchemy import GeventDialect  # noqa: E402

GeventDialect.driver = "psycopg"
