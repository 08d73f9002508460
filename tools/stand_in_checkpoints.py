"""Write untrained weights of a preset in the layout of the published checkpoints, to try commands on.

    python tools/stand_in_checkpoints.py DIR [--preset published] [--variant gmos]

Prints the options that take them. The published size is 4.1 GB, and its masks mean nothing.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import torch
from safetensors.torch import save_file

from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.presets import preset


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--preset", default="published", help="published, small or tiny (published)")
    parser.add_argument("--variant", choices=["gmos", "gmos-s"], default="gmos", help="(gmos)")
    options = parser.parse_args()
    networks = stand_in_networks(preset(options.preset), options.variant)
    options.directory.mkdir(parents=True, exist_ok=True)
    head = options.variant.replace("-", "_")
    files = {
        "pi3_ckpt": options.directory / "pi3.safetensors",
        "sam2_ckpt": options.directory / "sam2.pt",
        f"{head}_ckpt": options.directory / f"{head}.pth",
    }
    pi3, sam2, gmos = files.values()
    save_file(networks.pi3.state_dict(), pi3)
    torch.save({"model": networks.sam2.state_dict()}, sam2)
    torch.save({"model_state_dict": networks.head.state_dict()}, gmos)
    flags = [part for option, path in files.items() for part in (f"--{option}", str(path))]
    print(shlex.join(["--preset", options.preset, *flags]))


if __name__ == "__main__":
    main()
