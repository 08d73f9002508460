"""A camera held in a hand that shakes and zooms."""

from __future__ import annotations

import numpy as np
from scenes import VIEW_WH, CameraPath, background_motion

SHAKE_PX = (4.0, 18.0)
"""Mean background motion between the ends of a window, in scene pixels."""

WAVES = 3


class ShakyCamera(CameraPath):
    """Sways in place and angle, and zooms: a few sines each, of periods from two windows down to three frames."""

    def __init__(self, rng: np.random.Generator, frames: int) -> None:
        time = np.arange(frames) - frames / 2

        def sway() -> np.ndarray:
            pace = rng.uniform(0.3, 2.1, WAVES)
            phase = rng.uniform(0, 2 * np.pi, WAVES)
            height = rng.dirichlet(np.ones(WAVES)) / np.sqrt(pace)
            return (height * np.sin(time[:, None] * pace + phase)).sum(axis=1)

        arm = VIEW_WH[0] / 4
        shift = np.stack([sway(), sway()], -1) + 0.2 * time[:, None] * rng.normal(0, 1, 2)
        angle = rng.uniform(0.1, 0.5) * sway() / arm
        zoom = rng.choice([-1, 1]) * rng.uniform(0.0, 0.5) * time / arm
        self._set(shift, angle, zoom, 1.0)
        seen = float(background_motion(self.poses(1.0)).mean())
        self._set(shift, angle, zoom, np.exp(rng.uniform(*np.log(SHAKE_PX))) / max(seen, 1e-6))

    def _set(self, shift: np.ndarray, angle: np.ndarray, zoom: np.ndarray, times: float) -> None:
        self.shift, self.angle, self.scale = shift * times, angle * times, np.exp(zoom * times)
