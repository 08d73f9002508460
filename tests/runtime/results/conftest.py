"""A small scene filed in any format: what must come back from the files is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gmos_deploy.runtime.contract import Variant
from gmos_deploy.runtime.frame_result import FrameResult
from gmos_deploy.runtime.media import Media
from gmos_deploy.runtime.results.completion import ResultSet
from gmos_deploy.runtime.results.outputs import file_results

HW = (40, 56)
SETTINGS = {"bundle": "sha256:0123", "stride": 3}


def label_maps() -> dict[str, NDArray[np.uint8]]:
    """Five frames (5, H, W) uint8 of MOS-I and MOS, with all that makes masks hard.

    Object 1 has a hole with a part of its own in it, and moves on frames 0, 1 and 3; object 2 touches the corner and
    has three parts, one of a single pixel; object 3 is one frame's, one pixel thick, and in MOS-I only. Frame 4 is
    empty.
    """
    mos = np.zeros((5, *HW), np.uint8)
    for index in range(4):
        left = 6 + 3 * index
        mos[index, 8:30, left : left + 24] = 1
        mos[index, 12:26, left + 5 : left + 19] = 0
        mos[index, 16:20, left + 8 : left + 12] = 1
        mos[index, 10, left + 2] = 0
        mos[index, :4, :5] = 2
        mos[index, 34:40, 40:56] = 2
        mos[index, 36:38, 44:50] = 0
        mos[index, 2, 50] = 2
    mos_i = np.where(mos == 1, mos, 0)
    mos_i[[2, 4]] = 0
    mos_i[1, 32, 3:20] = 3
    return {"mos-i": mos_i, "mos": mos, "foreground": (mos != 0).astype(np.uint8)}


def answers(variant: Variant) -> Generator[FrameResult, None, None]:
    """The scene as a run gives it."""
    maps = label_maps()
    for index in range(5):
        if variant == "gmos":
            ious = np.float32([0.5, 0.75, np.nan])
            yield FrameResult(
                index=index,
                time_s=index / 10,
                maps={name: maps[name][index] for name in ("mos-i", "mos")},  # type: ignore[misc]
                ious={"mos-i": ious, "mos": ious + np.float32(0.125)},
            )
        else:
            mask = maps["foreground"][index]
            yield FrameResult(
                index=index, time_s=index / 10, maps={"foreground": mask, "probability": 200 * mask}
            )


@pytest.fixture
def scene() -> dict[str, NDArray[np.uint8]]:
    """The label maps that were filed, (5, H, W) uint8 by result."""
    return label_maps()


@pytest.fixture
def filed(tmp_path: Path) -> Callable[..., Path]:
    """Files the scene in some modes, as the sequence `bear`."""

    def run(*modes: str, variant: Variant = "gmos", **fields: Any) -> Path:
        results = ResultSet(
            save_dir=tmp_path / "out",
            sequence="bear",
            variant=variant,
            modes=frozenset(modes),
            settings=SETTINGS,
        )
        file_results(answers(variant), results, Media(video_hw=HW, fps=10, **fields), existing="overwrite")
        return results.save_dir

    return run
