"""Names of devices on the command line."""

from __future__ import annotations

import pytest

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.device_name import parse_device


@pytest.mark.parametrize(
    ("name", "parsed"),
    [("cpu", ("cpu", 0)), ("auto", ("auto", 0)), ("cuda", ("cuda", 0)), ("cuda:12", ("cuda", 12))],
)
def test_names_are_read(name: str, parsed: tuple[str, int]) -> None:
    """A GPU without a number is the first."""
    assert parse_device(name) == parsed


@pytest.mark.parametrize("name", ["", "tpu", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "CUDA"])
def test_other_names_are_refused(name: str) -> None:
    """With those that there are."""
    with pytest.raises(GmosError, match=f"--device {name}: expected cpu, cuda, cuda:N or auto"):
        parse_device(name)
