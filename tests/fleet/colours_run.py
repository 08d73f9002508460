"""gmos-run on networks that see colours, whose worker processes see them too: each imports this file.

    python tests/fleet/colours_run.py FOLDER GMOS_RUN_ARGUMENT...

A video that is white kills the process that runs it. One that is black does so the first time; `FOLDER` remembers. A
blue one waits until FOLDER/go is there.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from gmos_deploy.errors import GmosError
from gmos_deploy.networks import BackendEntry, NetworkChoice, register_backend

spec = importlib.util.spec_from_file_location("colours", Path(__file__).parents[1] / "conftest.py")
assert spec is not None
assert spec.loader is not None
colours = importlib.util.module_from_spec(spec)
sys.modules["colours"] = colours
spec.loader.exec_module(colours)

FOLDER = "GMOS_TEST_FOLDER"
LIMIT_S = 60.0


class Deadly(colours.ColourBackend):  # type: ignore[name-defined, misc]
    """Sees colours, and dies of some."""

    def _dino(self, frames: Any) -> Any:
        folder = Path(os.environ[FOLDER])
        rgb = frames[:, :, 0, 0].reshape(-1, 3)[0].tolist()
        if rgb == [255, 255, 255]:
            os.kill(os.getpid(), signal.SIGKILL)
        if rgb == [0, 0, 0]:
            try:
                (folder / "died").open("x").close()
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        if rgb == [0, 0, 255]:
            (folder / "waiting").write_text(_node())
            until = time.monotonic() + LIMIT_S
            while not (folder / "go").exists() and time.monotonic() < until:
                time.sleep(0.02)
        return super()._dino(frames)


def _node() -> str:
    """The node of a Ray cluster that this process is on."""
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else ""


def _open(choice: NetworkChoice, _: Any) -> Deadly:
    with (Path(os.environ[FOLDER]) / "shares").open("a") as shares:
        shares.write(f"{choice.memory_share} {choice.threads}\n")
    return Deadly()


register_backend(BackendEntry(name="colours", open=_open, runs="checkpoints"))


def _broken(*_: Any) -> Any:
    raise GmosError("there is no such device")


register_backend(BackendEntry(name="broken", open=_broken, runs="checkpoints"))

if __name__ == "__main__":
    os.environ[FOLDER] = sys.argv.pop(1)
    from gmos_deploy.entry import run

    run()
