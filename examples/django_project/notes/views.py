from django.db import connection, transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from .models import Note
from .tasks import count_words


@csrf_exempt
def notes(request: HttpRequest) -> JsonResponse:
    """GET: how many notes there are. POST: write one; a worker counts its words."""
    if request.method != "POST":
        return JsonResponse({"notes": Note.objects.count()})
    with transaction.atomic():
        note = Note.objects.create(text=request.body.decode())
        if "count" in request.GET:
            transaction.on_commit(lambda: count_words.delay(note.pk))
    return JsonResponse({"id": note.pk})


@csrf_exempt
@require_POST
def slow(request: HttpRequest) -> JsonResponse:
    """Hold a connection for some milliseconds, and tell which."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_backend_pid(), pg_sleep(%s)", [float(request.body) / 1000])
        return JsonResponse({"backend": cursor.fetchone()[0]})
