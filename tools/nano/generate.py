"""Writes shards of synthetic training clips, the same bytes for the same seed."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from clips import CLIP_FRAMES, shard_folder, write_shard


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
    options = parser.parse_args()
    torch.set_num_threads(1)
    for index in range(options.first, options.first + options.count):
        if shard_folder(options.root, index).exists():
            continue
        start = time.monotonic()
        folder = write_shard(options.root, options.seed, index, frames=options.frames)
        print(f"{folder}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
