"""Writes shards of synthetic training clips, the same bytes for the same seed."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from clips import CLIP_FRAMES, shard_folder, write_shard
from cutouts.material import load_material
from cutouts.scene_maker import CutoutSceneMaker


def main() -> None:
    """Write those shards that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder of the shards")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="index of the first shard (default: 0)")
    parser.add_argument("--count", type=int, default=64, help="number of shards of 48 clips (default: 64)")
    parser.add_argument(
        "--frames",
        type=int,
        default=CLIP_FRAMES,
        help="of a clip; more are for the tracker (default: %(default)s)",
    )
    parser.add_argument(
        "--cutouts",
        type=Path,
        metavar="FOLDER",
        help="make clips of cutouts over photographs from the packages unpacked there, without those held out",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    maker = None if options.cutouts is None else CutoutSceneMaker(load_material(options.cutouts, "training"))
    for index in range(options.first, options.first + options.count):
        if shard_folder(options.root, index).exists():
            continue
        start = time.monotonic()
        folder = write_shard(options.root, options.seed, index, frames=options.frames, maker=maker)
        print(f"{folder}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
