"""The examples do what they say: with the libraries they are for where these are, and with stand-ins everywhere."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gmos_deploy
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer

HERE = Path(__file__).parent
EXAMPLES = Path(gmos_deploy.__file__).parent / "examples"
STAND_IN = HERE / "stand_in"
LIMIT_S = 120
"""Of a process that takes a few seconds on a quiet machine."""

ROS_IS_THERE = "import rclpy, sensor_msgs.msg, std_msgs.msg; rclpy.init(); rclpy.create_node('probe')"
GSTREAMER_IS_THERE = """
import sys
sys.path.append("/usr/lib/python3/dist-packages")
import gi
for name in ("Gst", "GstApp"):
    gi.require_version(name, "1.0")
from gi.repository import Gst, GstApp
Gst.init(None)
assert Gst.ElementFactory.find("videotestsrc") and Gst.ElementFactory.find("appsink")
"""

THIS_MACHINE = {
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "ROS_LOCALHOST_ONLY": "1",
    "ROS_DOMAIN_ID": "77",
}
"""Nothing goes further, by the names of new and of old releases."""


ROS_PYTHON = os.environ.get("GMOS_ROS_PYTHON", sys.executable)
"""The Python that has rclpy, and NumPy, where that is not this one: `pip install ros-rclpy ros-rmw-fastrtps-cpp
ros-sensor-msgs ros-std-msgs numpy` in an environment of its own makes one."""


def run(
    *words: object, stand_in: bool = False, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """A process that finds the stand-ins first, or nothing of them."""
    paths = [
        *([STAND_IN] if stand_in else []),
        Path(gmos_deploy.__file__).parent.parent,
        os.environ.get("PYTHONPATH"),
    ]
    environment = (
        os.environ | THIS_MACHINE | {"PYTHONPATH": os.pathsep.join(str(one) for one in paths if one)}
    )
    return subprocess.run(
        [python, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def needed(probe: str, name: str, python: str = sys.executable) -> None:
    """Skip where a library is not there."""
    found = run("-c", probe, python=python)
    if found.returncode:
        pytest.skip(f"no {name} here ({found.stderr.strip().splitlines()[-1]}): a stand-in was tested")


@pytest.mark.parametrize("stand_in", [True, False], ids=["stand-in", "rclpy"])
def test_the_ros_node(stand_in: bool) -> None:
    """Every image is answered with its own stamp, in any encoding, row length and size."""
    if not stand_in:
        needed(ROS_IS_THERE, "rclpy", ROS_PYTHON)
    python = sys.executable if stand_in else ROS_PYTHON
    found = run(HERE / "ros_driver.py", EXAMPLES, stand_in=stand_in, python=python)
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    assert [one["stamp"] for one in told["labels"]] == [
        [1_700_000_000, 10**8 * index + 1] for index in range(6)
    ]
    assert [one["hw"] for one in told["labels"]] == [[16, 24]] * 4 + [[20, 30]] * 2
    assert {(one["encoding"], one["frame_id"]) for one in told["labels"]} == {("mono8", "camera")}
    assert all(one["bytes"] == one["hw"][0] * one["hw"][1] for one in told["labels"])
    # The square is where it was put; grey has nothing red.
    assert [one["set"] for one in told["labels"]] == [[2 * 24 + 3 + i] for i in range(4)] + [[2 * 30 + 7], []]
    first = told["tracks"][1]
    assert first["stamp"] == {"sec": 1_700_000_000, "nanosec": 100_000_001}
    assert first["objects"] == [
        {"id": 5, "slot": 1, "moving": True, "iou": None, "box": [4, 2, 10, 6], "area": 24}
    ]
    assert told["tracks"][5]["objects"] == []
    assert told["refused"] == "an image in 'yuv422': expected one of rgb8, bgr8, rgba8, bgra8, mono8"


@pytest.mark.parametrize("stand_in", [True, False], ids=["stand-in", "GStreamer"])
def test_the_appsink(stand_in: bool) -> None:
    """Every frame of a pipeline that waits, in rows that GStreamer has made longer; one line where it fails."""
    if not stand_in:
        needed(GSTREAMER_IS_THERE, "GStreamer")
    red = "videotestsrc num-buffers=6 pattern=red ! video/x-raw,width=31,height=24,framerate=10/1"
    found = run(HERE / "gstreamer_driver.py", EXAMPLES, red, "--keep", stand_in=stand_in)
    assert found.returncode == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    assert [one["index"] for one in lines] == list(range(6))
    assert [one["time_s"] for one in lines] == pytest.approx([index / 10 for index in range(6)])
    assert all(one["objects"] == [{"id": 5, "moving": True, "box": [0, 0, 31, 24]}] for one in lines)
    missing = "filesrc location=/no-such-file ! decodebin"
    found = run(HERE / "gstreamer_driver.py", EXAMPLES, missing, stand_in=stand_in)
    assert found.returncode == 1
    assert found.stderr.strip() == "the pipeline failed: Resource not found."


def test_the_webcam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A clip in the camera's place, and nano itself: an answer for each frame whose window is complete."""
    with Mp4Writer(tmp_path / "clip.mp4", video_hw=(64, 96), fps=10) as clip:
        for index in range(8):
            frame = np.full((64, 96, 3), 90, np.uint8)
            frame[10:30, 5 + 4 * index : 25 + 4 * index] = (220, 30, 30)
            clip.write(frame, index / 10)
    runpy.run_path(str(EXAMPLES / "webcam.py"))["main"](str(tmp_path / "clip.mp4"), None)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" s: ")[0] for line in lines] == [f"{index / 10:.2f}" for index in range(6)]
    assert any(" at (" in line for line in lines)
