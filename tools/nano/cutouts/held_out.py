"""Writes clips of held-out cutouts on held-out photographs, one dataset per kind of camera, as gmos-eval reads them.

`python -m cutouts.held_out`, in tools/nano; what cutouts.table measures on.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from held_out import SEED, VIDEO_WH, draw_clip, write_clip
from scenes import VIEW_WH, Camera

from cutouts.material import load_material
from cutouts.scene_maker import CutoutSceneMaker

KINDS: dict[str, Camera] = {"static": "static", "slow": "slow", "shake": "fast"}
"""Kinds of clips: a camera that stands still, one that pans slowly, one that shakes and zooms."""


def main() -> None:
    """Write the datasets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, help="folder that dpkg-deb unpacked the packages into")
    parser.add_argument("root", type=Path, help="folder to write to")
    parser.add_argument("--clips", type=int, default=48, help="clips of each kind (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    maker = CutoutSceneMaker(load_material(options.packages, "held out"), density=VIDEO_WH[0] / VIEW_WH[0])
    for number, (kind, camera) in enumerate(KINDS.items()):
        root, rng = options.root / kind, np.random.default_rng((SEED, 25, number))
        rows = [
            write_clip(root, f"{kind}-{index:02d}", draw_clip(maker, rng, camera))
            for index in range(options.clips)
        ]
        with (root / "time_annotation.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        print(f"{root}: {len(rows)} clips", flush=True)


if __name__ == "__main__":
    main()
