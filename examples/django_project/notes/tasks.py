import os

from celery import shared_task
from django.db import connection

import geventpg

from .models import Note


@shared_task
def count_words(note_id: int) -> int:
    """Count with the ORM, note it with plain SQL: one connection, one transaction."""
    conn = geventpg.get_conn("default")
    note = Note.objects.select_for_update().get(pk=note_id)
    words = len(note.text.split())
    conn.execute("update notes_note set words = %s where id = %s", [words, note_id])
    if not words:
        raise ValueError("an empty note")  # and nothing was written
    return words


@shared_task
def where() -> tuple[int, int, int]:
    """Return this process, and the backends that the ORM and get_conn() use."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        orm = cursor.fetchone()[0]
    with geventpg.get_conn("default") as conn:
        return os.getpid(), orm, conn.execute("select pg_backend_pid()").fetchone()[0]
