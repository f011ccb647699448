"""GeoDjango on geventpg: ``ENGINE = "geventpg.django.postgis"``."""
