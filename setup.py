"""Builds the C programs beside the Python: keel, guard, and the fronts that are installed."""

from __future__ import annotations

import os
import subprocess
from distutils.command.build_scripts import build_scripts  # setuptools': it is imported before this
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent.resolve()
PROGRAMS = ("keel", "guard")


def build(program: str, out: Path, target: str = "all", variable: str = "OUT") -> None:
    """Compile `program` into the file `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    words = ["make", "-s", "-C", str(HERE / program), target, f"{variable}={out}"]
    subprocess.run(words, check=True)
    out.chmod(0o755)


class BuildPrograms(build_py):
    """Compile the C programs into the package; an editable install gets them in the source tree."""

    def run(self) -> None:
        super().run()
        package = HERE / "src/onggi" if self.editable_mode else Path(self.build_lib) / "onggi"
        for program in PROGRAMS:
            build(program, (package / "bin").resolve() / program)


class BuildFront(build_scripts):
    """Compile the fronts as scripts: setuptools' own command takes only text files."""

    def run(self) -> None:
        place = Path(self.build_dir).resolve()
        build("front", place / "onggi")
        build("front", place / "onggi-runtime", "runtime", "RUNTIME")


class PlatformDistribution(Distribution):
    """The wheel holds programs for one machine."""

    def has_ext_modules(self) -> bool:
        return True


os.chdir(HERE)
setup(
    cmdclass={"build_py": BuildPrograms, "build_scripts": BuildFront},
    distclass=PlatformDistribution,
    scripts=["front/face.c"],
)
