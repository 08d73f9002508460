"""The packages of `gmos_deploy`, found by walking: the repository's root is the package itself.

What is built from a checkout tells its commit, as `commit.txt` (evaluation/report/software.py reads it).
"""

import shutil
import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
STAMP = "commit.txt"
NOT_SHIPPED = ("tests*", "tools*", "benchmarks*", "docs*", "examples*", "build*", "docker*")


def stamp(folder: Path) -> None:
    """Write the commit there, if this is a checkout, or an unpacked source distribution that has one."""
    if (HERE / STAMP).exists():
        shutil.copy(HERE / STAMP, folder)
    elif (HERE / ".git").exists() and shutil.which("git"):
        words = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        asked = subprocess.run(words, cwd=HERE, capture_output=True, text=True, check=False)  # noqa: S603
        if asked.returncode == 0:
            (folder / STAMP).write_text(asked.stdout, encoding="utf-8")


class StampedBuild(build_py):
    """Of a wheel."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """As setuptools finds them, without this file, which lies beside those of the root."""
        found: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        return [one for one in found if one[1] != "setup"]

    def run(self) -> None:
        """As setuptools builds, and the stamp; an editable installation is the checkout itself."""
        super().run()
        if not self.editable_mode:
            stamp(Path(self.build_lib) / "gmos_deploy")


class StampedSource(sdist):
    """Of a source distribution."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """As setuptools makes it, and the stamp."""
        super().make_release_tree(base_dir, files)
        stamp(Path(base_dir))


setup(
    packages=["gmos_deploy", *(f"gmos_deploy.{name}" for name in find_packages(exclude=NOT_SHIPPED))],
    cmdclass={"build_py": StampedBuild, "sdist": StampedSource},
)
