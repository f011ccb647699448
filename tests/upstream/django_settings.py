"""Settings for Django's own tests; ``DJANGO_TESTS_DATABASE`` is the database as JSON."""

import json
import os

_database = json.loads(os.environ["DJANGO_TESTS_DATABASE"])

DATABASES = {"default": {**_database, "NAME": "django"}, "other": {**_database, "NAME": "django2"}}
SECRET_KEY = "django_tests_secret_key"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "tests.upstream.django_runner.Runner"
