"""What a stream keeps from frame to frame at the published sizes, by stride: computed from the contract, not measured.

    python benchmarks/live_arrays.py [--video 1080x1920] [--objects 10] [--bytes 2]

Device: DINO's tokens of the frames in windows, SAM2's features of the first three frames, memories, pointers and masks
of all live objects. Host: the frames that wait for their windows. Weights, activations and the arrays of single calls
come on top (docs/edge.md).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from gmos_deploy.gmos_ref.presets import PUBLISHED, model_spec
from gmos_deploy.runtime.contract import network_specs
from gmos_deploy.runtime.pi3_frame import pi3_size_wh
from gmos_deploy.runtime.shapes import size_of
from gmos_deploy.runtime.tensorrt.memory import LIVE_FRAMES

MIB = 1 << 20
RATES_FPS = (10, 15, 25, 30, 50, 60)
SIZES = {"compute": None, "float32": 4, "uint8": 1, "int64": 8}
"""Bytes of an element by the contract's dtype; `compute` is what the networks run in."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--video", default="1080x1920", help="height and width (%(default)s)")
    parser.add_argument("--objects", type=int, default=10, help="live objects (%(default)s)")
    parser.add_argument("--bytes", type=int, default=2, choices=(2, 4), help="of an element (%(default)s)")
    given = parser.parse_args(arguments)
    height, width = (int(side) for side in given.video.split("x"))
    model = model_spec(PUBLISHED, "gmos")
    specs = network_specs(model)
    pi3_wh = pi3_size_wh(width, height, model.pi3_area_px, model.patch_px)
    lengths = {"B": 1, "O": 1, "h": pi3_wh[1] // model.patch_px, "w": pi3_wh[0] // model.patch_px}

    def mib(network: str, *names: str) -> float:
        outputs = [one for one in specs[network].outputs if not names or one.name in names]
        return (
            sum(math.prod(size_of(one, lengths)) * (SIZES[one.dtype] or given.bytes) for one in outputs) / MIB
        )

    tokens, features = mib("dino"), LIVE_FRAMES * mib("sam2_encoder")
    memory, pointer, mask = (
        mib("memory_encoder"),
        mib("mask_decoder", "pointer"),
        mib("mask_decoder", "masks"),
    )
    an_object = model.memory_frames * memory + model.object_pointers * pointer + mask
    frame = height * width * 3 / MIB
    print(f"{width}x{height}, Pi3 {pi3_wh[0]}x{pi3_wh[1]}, {given.objects} objects of {an_object:.2f} MiB\n")
    print(
        "| frames per second | stride | delay | tokens | features | objects | device | frames on the host |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for rate in RATES_FPS:
        stride = max(1, rate // 8)
        waiting = (4 * stride + 1 + model.window) * tokens
        objects = given.objects * an_object
        print(
            f"| {rate} | {stride} | {1000 * 2 * stride / rate:.0f} ms | {waiting:.0f} | {features:.0f} "
            f"| {objects:.0f} | {waiting + features + objects:.0f} | {(2 * stride + 1) * frame:.0f} |"
        )


if __name__ == "__main__":
    main()
