"""Gives the ROS node images and tells what it published: `ros_driver.py EXAMPLES`, in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import rclpy
from fake_model import example
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

LIMIT_S = 90

SHAPES = {"rgb8": 3, "bgra8": 4, "mono8": 1}


def image(index: int, encoding: str, hw: tuple[int, int]) -> Image:
    """A red square, in rows that are two bytes longer than needed."""
    height, width = hw
    pixels = np.zeros((height, width, SHAPES[encoding]), np.uint8)
    pixels[2:6, 3 + index : 9 + index, 2 if encoding == "bgra8" else 0] = 255
    rows = np.zeros((height, width * pixels.shape[2] + 2), np.uint8)
    rows[:, :-2] = pixels.reshape(height, -1)
    made = Image(height=height, width=width, encoding=encoding, step=rows.shape[1], data=rows.tobytes())
    made.header.frame_id = "camera"
    made.header.stamp.sec, made.header.stamp.nanosec = 1_700_000_000, 100_000_000 * index + 1
    return made


def main() -> None:
    node_module = example(sys.argv[1], "ros2_node")
    rclpy.init(args=["--ros-args", "-p", "fps:=10.0", "-p", "drop:=none", "-r", "image:=/camera/image_raw"])
    node, helper = node_module.MovingObjects(), rclpy.create_node("helper")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(helper)
    reliable = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=50, reliability=ReliabilityPolicy.RELIABLE)
    labels: list[Any] = []
    tracks: list[Any] = []
    source = helper.create_publisher(Image, "/camera/image_raw", reliable)
    helper.create_subscription(Image, "labels", labels.append, reliable)
    helper.create_subscription(String, "tracks", tracks.append, reliable)
    end = time.monotonic() + LIMIT_S

    def spin_until(condition: Any) -> None:
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"nothing more came: {len(labels)} label images, {len(tracks)} tracks")
            executor.spin_once(timeout_sec=0.05)

    spin_until(lambda: all(one.get_subscription_count() for one in (source, node._labels, node._tracks)))
    for index in range(4):
        source.publish(image(index, "rgb8", (16, 24)))
    spin_until(lambda: len(labels) == len(tracks) == 2)
    # Another size: what waits is answered first.
    source.publish(image(4, "bgra8", (20, 30)))
    source.publish(image(5, "mono8", (20, 30)))
    spin_until(lambda: len(labels) == len(tracks) == 4)
    node.close()
    spin_until(lambda: len(labels) == len(tracks) == 6)
    refused = ""
    try:
        node_module.rgb_of(Image(height=1, width=1, encoding="yuv422", step=2, data=b"ab"))
    except Exception as error:  # noqa: BLE001 - told
        refused = str(error)
    found = {
        "labels": [
            {
                "stamp": [one.header.stamp.sec, one.header.stamp.nanosec],
                "frame_id": one.header.frame_id,
                "encoding": one.encoding,
                "hw": [one.height, one.width],
                "bytes": len(one.data),
                "set": np.flatnonzero(np.frombuffer(one.data, np.uint8)).tolist()[:1],
            }
            for one in labels
        ],
        "tracks": [json.loads(one.data) for one in tracks],
        "refused": refused,
    }
    print(json.dumps(found))  # noqa: T201 - what the test reads
    helper.destroy_node()
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
