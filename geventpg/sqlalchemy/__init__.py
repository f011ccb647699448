"""The SQLAlchemy dialect ``postgresql+geventpg://`` and the pool adapter of its engines.

SQLAlchemy is an optional dependency (extra ``sqlalchemy``); nothing else imports this package.
SQLAlchemy finds it by the entry point in setup.cfg.
"""

from .dialect import GeventDialect
from .pool import GeventPool

__all__ = ["GeventDialect", "GeventPool"]
