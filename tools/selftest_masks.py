"""Writes the label maps that `gmos-doctor --selftest` compares with: nano's reference in float32 on the CPU.

    python tools/selftest_masks.py

Run it after nano's weights or the clip of the self-test have changed.
"""

from __future__ import annotations

from contextlib import closing

from gmos_deploy.evaluation.doctor.selftest import STORED, clip_masks, store_masks
from gmos_deploy.networks import NetworkChoice


def main() -> None:
    """Run the reference on the clip and store its masks."""
    choice = NetworkChoice(backend="torch", preset="nano", variant="gmos", device="cpu", precision="fp32")
    with closing(choice.resolve().load()) as backend:
        maps, seconds = clip_masks(backend)
    store_masks(maps)
    objects = {name: int(labels.max()) for name, labels in maps.items()}
    print(f"{STORED}: {STORED.stat().st_size} bytes, objects {objects}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
