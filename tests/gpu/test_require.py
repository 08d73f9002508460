"""A test that does not run is no pass where a GPU is expected: GMOS_REQUIRE_GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.tensorrt.gpu import find_device

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("required", "outcome"), [(False, "skipped"), (True, "GMOS_REQUIRE_GPU is set")])
def test_skips_become_failures(required: bool, outcome: str) -> None:
    """With the reason of the skip."""
    try:
        if find_device() is not None:
            pytest.skip("there is a GPU here, and nothing is skipped for want of one")
    except GmosError as error:
        pytest.skip(f"CUDA does not work here ({error})")
    environment = {key: value for key, value in os.environ.items() if key != "GMOS_REQUIRE_GPU"}
    if required:
        environment["GMOS_REQUIRE_GPU"] = "1"
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "-m",
            "gpu",
            "tests/gpu/test_cuda.py",
            "-k",
            "cheap",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert outcome in found.stdout
    assert "no GPU on this machine" in found.stdout
    assert found.returncode == int(required), found.stdout
