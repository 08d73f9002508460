"""The packages of `gmos_deploy`, found by walking: the repository's root is the package itself."""

from setuptools import find_packages, setup

NOT_SHIPPED = ("tests*", "tools*", "benchmarks*", "docs*", "examples*", "build*")

setup(packages=["gmos_deploy", *(f"gmos_deploy.{name}" for name in find_packages(exclude=NOT_SHIPPED))])
