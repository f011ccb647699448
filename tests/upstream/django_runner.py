"""A runner for Django's own tests that writes down what became of each of them.

``python -m tests.upstream.django_runner [--gevent] runtests.py …`` runs Django's script, on gevent
if asked; settings name `Runner` as TEST_RUNNER. ``DJANGO_TESTS_OUTCOMES`` is the file.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import unittest
from pathlib import Path
from typing import Any

if "--gevent" in sys.argv[1:2]:
    from gevent import monkey

    monkey.patch_all()
    del sys.argv[1]

from django.test.runner import DiscoverRunner

outcomes: dict[str, str] = {}


class RecordingResult(unittest.TextTestResult):
    """Notes one word for each test, and the last line of an error."""

    def _note(self, test: unittest.TestCase, word: str, error: Any = None) -> None:
        if error is not None:
            word += f": {error[0].__name__}: {str(error[1]).strip().splitlines()[:1]}"
        outcomes[test.id()] = word

    def addSuccess(self, test: Any) -> None:  # noqa: N802
        super().addSuccess(test)
        outcomes.setdefault(test.id(), "passed")

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self._note(test, "failed", err)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self._note(test, "error", err)

    def addSkip(self, test: Any, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        outcomes[test.id()] = f"skipped: {reason}"

    def addExpectedFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        super().addExpectedFailure(test, err)
        outcomes[test.id()] = "failed as expected"

    def addUnexpectedSuccess(self, test: Any) -> None:  # noqa: N802
        super().addUnexpectedSuccess(test)
        outcomes[test.id()] = "passed, unexpectedly"

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(subtest, "failed", err)
            outcomes[test.id()] = "failed in a subtest"


class Runner(DiscoverRunner):  # type: ignore[misc]  # ships no types
    """Django's runner with our result."""

    def get_resultclass(self) -> type[RecordingResult]:
        return RecordingResult

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        try:
            return super().run_suite(suite, **kwargs)
        finally:
            Path(os.environ["DJANGO_TESTS_OUTCOMES"]).write_text(json.dumps(outcomes, indent=0))


if __name__ == "__main__":
    script = sys.argv[1]
    sys.path.insert(0, str(Path(script).parent))
    sys.argv = sys.argv[1:]
    runpy.run_path(script, run_name="__main__")
