"""How a prefork parent asks its children, without a worker around it."""

from __future__ import annotations

import logging
import tempfile

import pytest

from celery_integration import children
from celery_integration.children import Children
from tests.support.script import output_of


@pytest.fixture
def folder(monkeypatch, tmp_path_factory):
    """Return where directories are made; its name is short enough for a socket."""
    folder = tmp_path_factory.mktemp("t")
    monkeypatch.setenv("_GEVENTPG_CHILDREN", "/of/somebody/else")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def family(folder):
    """Return a parent without children."""
    family = Children()
    yield family
    family.close()


ANSWERING = """
import os, sys, tempfile
from celery_integration.children import CHILDREN

tempfile.tempdir = sys.argv[1]
CHILDREN.open()
CHILDREN.answer()  # in a thread of this process
me = os.getpid()
assert CHILDREN.ask([me], "describe") == ([{"pid": me, "pools": []}], {})
answers, failures = CHILDREN.ask([me], "drain", pool="reports")
assert answers == [] and "no pool 'reports' is open" in failures[me], failures
print(len(os.listdir(sys.argv[1])))
"""


def test_a_child_answers_and_says_what_it_cannot_do(folder):
    assert output_of(ANSWERING, str(folder)) == "1\n"
    assert list(folder.iterdir()) == []  # removed at the end


def test_a_directory_with_a_long_name_is_not_used(folder):
    deep = folder / ("x" * 100)
    deep.mkdir()
    assert output_of(ANSWERING, str(deep)) == "0\n"


def test_a_child_that_is_not_there_yet_is_named(family):
    family.open()
    assert family.ask([1], "describe") == ([], {1: "is starting, and cannot be asked yet"})


def test_without_a_directory_the_worker_goes_on_and_says_why_no_child_answers(
    family, monkeypatch, caplog
):
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/directory")
    with caplog.at_level(logging.WARNING):
        family.open()
    assert "remote control cannot reach the children" in caplog.text
    family.answer()  # not in the directory of the process that started this one
    answers, failures = family.ask([7], "describe")
    assert answers == []
    assert "no directory" in failures[7]


def test_a_copy_in_a_child_removes_nothing(family, folder, monkeypatch):
    family.open()
    with monkeypatch.context() as patch:
        patch.setattr(children.os, "getpid", lambda: 1)
        family.close()
    assert len(list(folder.iterdir())) == 1
    family.close()
    assert list(folder.iterdir()) == []
