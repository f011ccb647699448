"""What setup.cfg cannot say: the programs that the command `geventpg` runs go into the wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PROGRAMS = ("benchmarks", "examples/demo")
INSIDE = "_programs"  # geventpg.cli.programs looks for them there


class BuildWithPrograms(build_py):
    """Copy the programs into the package; in a checkout they are found where they are."""

    def run(self):
        """Do what build_py does, then copy."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        inside = Path(self.build_lib, "geventpg", INSIDE)
        shutil.rmtree(inside, ignore_errors=True)
        unwanted = shutil.ignore_patterns("__pycache__", "results")
        for name in PROGRAMS:
            shutil.copytree(HERE / name, inside / name, ignore=unwanted)
        shutil.copy(HERE / "examples" / "__init__.py", inside / "examples")


setup(cmdclass={"build_py": BuildWithPrograms})
