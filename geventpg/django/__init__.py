"""Django on geventpg: ``ENGINE = "geventpg.django"``.

Django's own PostgreSQL backend with a geventpg pool behind it, one for each process and database
alias. Pool options are those of `geventpg.Pool`, in ``OPTIONS["pool"]``. As an app
(``INSTALLED_APPS += ["geventpg.django"]``) it adds system checks and ``manage.py geventpg``, and
``geventpg.get_conn(alias)`` works before the ORM did anything. `docs/django.md` is the manual.
"""
