"""The same with other brokers: RabbitMQ, and a directory, which needs no server."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from geventpg.testing.programs import require_program
from tests.support import wait_until
from tests.support.rabbitmq import RabbitServer


@pytest.fixture(scope="session")
def _rabbitmq_is_installed():
    """Skip before the session's Redis is looked for: it is RabbitMQ that the test is about."""
    require_program("rabbitmq-server")


@pytest.fixture(scope="module")
def rabbitmq(_rabbitmq_is_installed):
    with RabbitServer() as server:
        yield server


def check(worker, tag):
    """Commit, roll back, retry, meet a time limit, end warmly."""
    worker.send("note", f"{tag}-note")
    worker.send("fail", f"{tag}-fail")
    worker.send("break_commit", f"{tag}-break")
    worker.send("late", f"{tag}-late")
    worker.send("retry", f"{tag}-retry")
    worker.send("sleep", f"{tag}-sleep", 60, time_limit=1)
    expected = ["late", "note", "retry-2"]
    wait_until(lambda: worker.notes(tag) == expected, timeout=10, interval=0.05)
    worker.process.wait_for_log("Hard time limit")
    worker.wait_until_quiet()
    last = worker.send("sleep", f"{tag}-warm", 0.3)
    wait_until(worker.running, interval=0.02, message=f"{last} runs")
    assert worker.process.stop("warm", timeout=20) == 0
    assert worker.notes(tag) == [*expected, "warm"]
    assert not worker.backends()


@pytest.mark.hang_limit(90)
def test_with_rabbitmq(rabbitmq, own_worker, tag):
    with Celery(broker=rabbitmq.url, set_as_current=False) as client:
        environment = {"BROKER_URL": rabbitmq.url, "RESULT_BACKEND": None}
        check(own_worker(client=client, env=environment), tag)


class DirectoryClient(Celery):
    """Delivers complete messages: kombu's reader takes a file that is still being written."""

    def send_task(self, *args, **kwargs):
        sent = super().send_task(*args, **kwargs)
        options = self.conf.broker_transport_options
        for message in Path(options["data_folder_out"]).iterdir():
            message.rename(Path(options["data_folder_in"]) / message.name)
        return sent


def test_with_a_directory(own_worker, tag, tmp_path):
    inbox, outbox, processed = (tmp_path / name for name in ("inbox", "outbox", "processed"))
    for folder in (inbox, outbox, processed):
        folder.mkdir()
    options = {
        "data_folder_in": str(inbox),
        "data_folder_out": str(inbox),
        "control_folder": str(tmp_path / "control"),
        "store_processed": True,
        "processed_folder": str(processed),
        "polling_interval": 0.02,
    }
    with DirectoryClient(broker="filesystem://", set_as_current=False) as client:
        client.conf.broker_transport_options = {**options, "data_folder_out": str(outbox)}
        environment = {"BROKER_URL": "filesystem://", "RESULT_BACKEND": None}
        conf = {"broker_transport_options": options, "worker_enable_remote_control": False}
        check(own_worker(client=client, env=environment, conf=conf), tag)
