"""Answers the frames of a GStreamer pipeline, one line of JSON each.

    python examples/gstreamer_appsink.py "v4l2src device=/dev/video0 ! videoconvert"
    python examples/gstreamer_appsink.py "nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGRx ! videoconvert"

It needs PyGObject and GStreamer's typelibs (Debian: python3-gi gir1.2-gst-plugins-base-1.0). The pipeline ends in an
appsink that keeps the newest frame alone, so that what comes while a frame is computed is left out; `--keep` makes the
pipeline wait instead, as for files. Frames are pulled by the thread that computes: nothing runs in GStreamer's own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

import gi
import numpy as np
from numpy.typing import NDArray

import gmos_deploy as gmos

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402, F401 - versions come first; GstApp teaches appsink its methods

SINK = "videoconvert ! video/x-raw,format=RGB ! appsink name=frames sync=false max-buffers=1 drop={drop}"
PULL_NS = 500_000_000
"""How long a frame is waited for before the pipeline is asked whether it has ended."""


def rgb_of(sample: Any) -> NDArray[np.uint8]:
    """A sample as (H, W, 3) uint8. Rows of GStreamer's RGB begin at multiples of four bytes."""
    caps, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
    height, width = caps.get_value("height"), caps.get_value("width")
    rows = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(height, -1)
    return np.ascontiguousarray(rows[:, : 3 * width].reshape(height, width, 3))


def rate_of(sample: Any) -> float | None:
    """Frames per second as the pipeline states them; None where it does not."""
    found, above, below = sample.get_caps().get_structure(0).get_fraction("framerate")
    return above / below if found and above and below else None


def samples(pipeline: Any) -> Iterator[Any]:
    """Samples until the pipeline ends.

    Raises:
        GmosError: it failed.
    """
    frames, bus = pipeline.get_by_name("frames"), pipeline.get_bus()
    while True:
        sample = frames.try_pull_sample(PULL_NS)
        if sample is not None:
            yield sample
            continue
        failed = bus.pop_filtered(Gst.MessageType.ERROR)
        if failed is not None:
            raise gmos.GmosError(f"the pipeline failed: {failed.parse_error()[0].message}")
        if frames.is_eos():
            return


def tell(answer: gmos.FrameResult) -> None:
    """One line of JSON."""
    objects = [{"id": one.id, "moving": one.moving, "box": one.box} for one in answer.objects]
    print(json.dumps({"index": answer.index, "time_s": answer.time_s, "objects": objects}), flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Run a pipeline."""
    options = argparse.ArgumentParser(description="moving objects in the frames of a GStreamer pipeline")
    options.add_argument("pipeline", help="what gives raw video, as for gst-launch-1.0")
    options.add_argument("--bundle", help="directory of gmos-export onnx (default: nano)")
    options.add_argument("--fps", type=float, help="frames per second where the pipeline states none")
    options.add_argument("--keep", action="store_true", help="answer every frame, and let the pipeline wait")
    given = options.parse_args(words)
    Gst.init(None)
    pipeline = Gst.parse_launch(f"{given.pipeline} ! {SINK.format(drop=str(not given.keep).lower())}")
    with gmos.load(given.bundle) as model:
        session = None
        try:
            pipeline.set_state(Gst.State.PLAYING)
            for sample in samples(pipeline):
                rgb = rgb_of(sample)
                if session is None:
                    fps = given.fps or rate_of(sample)
                    if fps is None:
                        raise gmos.GmosError("the pipeline states no rate; give --fps")
                    session = model.session(rgb.shape[:2], fps=fps)
                for answer in session.push(rgb, sample.get_buffer().pts / Gst.SECOND):
                    tell(answer)
            for answer in session.finish() if session is not None else ():
                tell(answer)
        finally:
            pipeline.set_state(Gst.State.NULL)
            if session is not None:
                session.close()


if __name__ == "__main__":
    try:
        main()
    except gmos.GmosError as error:
        raise SystemExit(f"gstreamer_appsink: {error}") from error
