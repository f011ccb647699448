import os

SECRET_KEY = os.environ.get("SECRET_KEY", "only for this example")
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]
ROOT_URLCONF = "project.urls"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "geventpg.django",  # system checks and "manage.py geventpg"
    "notes",
]

DATABASES = {
    "default": {
        "ENGINE": "geventpg.django",  # was: "django.db.backends.postgresql"
        "NAME": os.environ.get("PGDATABASE", "notes"),
        "USER": os.environ.get("PGUSER", ""),
        "PASSWORD": os.environ.get("PGPASSWORD", ""),
        "HOST": os.environ.get("PGHOST", ""),
        "PORT": os.environ.get("PGPORT", ""),
        "OPTIONS": {
            "application_name": os.environ.get("PGAPPNAME", "notes"),
            # For each process: 20 connections serve hundreds of greenlets.
            "pool": {"min_size": 4, "max_size": 20},
        },
    }
}

CELERY_BROKER_URL = os.environ.get("BROKER_URL", "redis://localhost/0")
CELERY_RESULT_BACKEND = os.environ.get("RESULT_BACKEND")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_IMPORTS = ["celery_integration"]  # what get_conn() does in a task is one transaction
