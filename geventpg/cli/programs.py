"""The benchmark and the demo: programs beside the package, which a wheel has inside of it.

In a checkout they are ``benchmarks/`` and ``examples/demo/``; ``setup.py`` puts copies into the
wheel, in a directory that is on ``sys.path`` only while they run: their names are too common.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import geventpg

INSIDE = "_programs"
"""The directory in the package that `setup.py` fills."""


class ProgramMissing(Exception):
    """The program, or something that it needs, is not installed; the text says what to do."""


def folder() -> Path:
    """Return the directory that has ``benchmarks`` and ``examples``. Raise `ProgramMissing`."""
    package = Path(geventpg.__file__).parent
    for candidate in (package / INSIDE, package.parent):
        if (candidate / "benchmarks" / "registry.py").is_file():
            return candidate
    raise ProgramMissing("the programs are missing in this installation of geventpg")


def load(module: str, extra: str) -> ModuleType:
    """Import *module* of a program, for this process and those that it starts.

    Raise `ProgramMissing` if it needs what the extra *extra* would bring.
    """
    where = str(folder())
    if where not in sys.path:
        sys.path.insert(0, where)
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{where}{os.pathsep}{inherited}" if inherited else where
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ProgramMissing(f"{error}: pip install 'geventpg[{extra}]'") from error
