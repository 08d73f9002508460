"""A ROS 2 node: images in, label images and tracks out.

    python examples/ros2_node.py --ros-args -r image:=/camera/image_raw -p fps:=30.0 -p bundle:=gmos-bundle

Subscribes to `image` (sensor_msgs/Image). Publishes, with the stamp and frame of the image that is answered:

- `labels` (sensor_msgs/Image, mono8): 0, or the slot of the object; of GMOS-S 1 where something moves.
- `tracks` (std_msgs/String): JSON with the stamp and each object's id, slot, motion, IoU, box and area.

Parameters: `bundle` (directory of gmos-export onnx; empty: nano), `variant` ("gmos", "gmos-s" or empty: the bundle's),
`fps` of the camera, `stride` (0: from the rate), and `drop`. "oldest" takes what a camera's driver offers, best effort,
and keeps the newest image while one is computed; "none" asks for reliable delivery and keeps every image, as for bags.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

import gmos_deploy as gmos

DROPS = {
    "oldest": QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
    "none": QoSProfile(history=HistoryPolicy.KEEP_ALL, depth=0, reliability=ReliabilityPolicy.RELIABLE),
}

CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2, 3), "bgra8": (2, 1, 0, 3), "mono8": (0,)}
"""Where red, green and blue are in a pixel, by encoding; a fourth byte is left out."""


def rgb_of(image: Image) -> NDArray[np.uint8]:
    """An image as (H, W, 3) uint8.

    Raises:
        GmosError: its encoding is none of `CHANNELS`.
    """
    order = CHANNELS.get(image.encoding)
    if order is None:
        raise gmos.GmosError(f"an image in {image.encoding!r}: expected one of {', '.join(CHANNELS)}")
    rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)
    pixels = rows[:, : image.width * len(order)].reshape(image.height, image.width, len(order))
    return np.ascontiguousarray(pixels[..., [order[min(place, len(order) - 1)] for place in range(3)]])


class MovingObjects(Node):
    """Answers images in its callback; whoever spins it computes, so one executor thread is enough."""

    def __init__(self) -> None:
        super().__init__("moving_objects")
        given = {
            name: self.declare_parameter(name, default).value
            for name, default in (
                ("bundle", ""), ("variant", ""), ("fps", 30.0), ("stride", 0), ("drop", "oldest"),
            )
        }  # fmt: skip
        if given["drop"] not in DROPS:
            raise gmos.GmosError(f"drop {given['drop']!r}: expected {' or '.join(DROPS)}")
        self._fps, self._stride = float(given["fps"]), given["stride"] or None
        self._model = gmos.load(given["bundle"] or None, variant=given["variant"] or None)
        self._session: gmos.Session | None = None
        self._waiting: deque[Any] = deque()
        """Headers of images that are not answered yet: answers come in the order of the images."""
        self._labels = self.create_publisher(Image, "labels", 10)
        self._tracks = self.create_publisher(String, "tracks", 10)
        self.create_subscription(Image, "image", self._seen, DROPS[given["drop"]])
        self.get_logger().info("ready")

    def close(self) -> None:
        """Answer what still waits, if ROS still takes it, and let go of the model."""
        if self._session is not None and rclpy.ok():
            self._publish(self._session.finish())
        self._model.close()

    def _seen(self, image: Image) -> None:
        size_hw = (image.height, image.width)
        if self._session is None or self._session.size_hw != size_hw:
            if self._session is not None:
                self._publish(self._session.finish())
            self._session = self._model.session(size_hw, fps=self._fps, stride=self._stride, name="image")
        self._waiting.append(image.header)
        stamp = image.header.stamp
        self._publish(self._session.push(rgb_of(image), stamp.sec + 1e-9 * stamp.nanosec))

    def _publish(self, answers: list[gmos.FrameResult]) -> None:
        for answer in answers:
            header = self._waiting.popleft()
            labels = answer.tracked if "tracked" in answer.maps else answer.mask
            height, width = labels.shape
            self._labels.publish(
                Image(
                    header=header,
                    height=height,
                    width=width,
                    encoding="mono8",
                    step=width,
                    data=labels.tobytes(),
                )
            )
            objects = [
                {
                    "id": one.id,
                    "slot": one.slot,
                    "moving": one.moving,
                    "iou": one.iou if np.isfinite(one.iou) else None,
                    "box": one.box,
                    "area": one.area,
                }
                for one in answer.objects
            ]
            stamp = {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec}
            self._tracks.publish(String(data=json.dumps({"stamp": stamp, "objects": objects})))


def main() -> None:
    """Spin until ROS shuts down."""
    rclpy.init()
    try:
        node = MovingObjects()
        try:
            rclpy.spin(node)
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        finally:
            node.close()
            node.destroy_node()
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    try:
        main()
    except gmos.GmosError as error:
        raise SystemExit(f"ros2_node: {error}") from error
