"""geventpg in a Celery worker: the pool's life follows the worker's, a task is a transaction.

Either ``from celery_integration import install; install(app)``, or nothing but configuration:
``imports = ("celery_integration",)`` in the worker's config. Settings are read from
``geventpg`` in the app's config (``CELERY_GEVENTPG`` with Django's namespace), a dict with
``conninfo`` and pool options; without it from ``GEVENTPG_CONNINFO`` and ``GEVENTPG_*``.

Inside a task ``geventpg.get_conn()`` just works: committed when the task body returns, before
the task is reported successful; rolled back on every other ending. ``@app.task(**retry_policy())``
retries it when the reason for its failure may pass.
"""

from .installation import install, install_on_worker_start
from .retries import retry_policy

__all__ = ["install", "retry_policy"]

# Named in the worker's `imports`, this module is loaded before any signal of the worker.
install_on_worker_start()
