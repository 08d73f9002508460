"""A browser that is asked over a pipe, and answers of a small scene."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmos_deploy.runtime.frame_result import FrameResult, LiveFacts

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--remote-debugging-pipe",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--proxy-server=direct://",
)  # fmt: skip

WAIT_S = 60
"""At most, on a busy machine, until a page shows what it should."""


class Browser:
    """One tab of a browser. Its protocol's messages go through two pipes, each ended by a zero byte."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        # The browser reads descriptor 3 and writes 4.
        shell = f'exec "$@" 3<&{commands} 4>&{answers}'
        words = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words], pass_fds=(commands, answers), stderr=subprocess.DEVNULL
        )
        os.close(commands)
        os.close(answers)
        self._rest = b""
        self._number = 0
        self._loaded = False
        self.problems: list[str] = []
        """What the page complained of."""
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._answers, 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended")
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        if found.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded"}:
            self.problems.append(json.dumps(found["params"]))
        self._loaded |= found.get("method") == "Page.loadEventFired"
        return found

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask and wait for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (found := self._read()).get("id") != self._number:
            pass
        if "error" in found:
            raise RuntimeError(f"{method}: {found['error']}")
        result: dict[str, Any] = found["result"]
        return result

    def open(self, url: str, *, width: int = 1280, height: int = 800) -> None:
        """Go to a page and wait until it is loaded."""
        self._loaded = False
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._read()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; a promise is waited for."""
        found = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            timeout=1000 * WAIT_S,
        )
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"]))
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true, whatever pages come and go meanwhile."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            # A page that is just being left, or has nothing yet.
            with suppress(RuntimeError):
                if self.evaluate(f"!!({condition})"):
                    return
            time.sleep(0.02)
        raise AssertionError(f"{condition}: {self.evaluate('document.body.innerText')}")

    def screenshot(self, path: Path) -> None:
        """What the tab shows, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        os.close(self._commands)
        self._process.terminate()
        self._process.wait(WAIT_S)
        os.close(self._answers)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """The browser of this machine."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: the preview was not opened in a browser")
    opened = Browser(program, tmp_path / "profile")
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def answer() -> Callable[..., FrameResult]:
    """A live answer: object 3 in slot 1 moves, object 12 in slot 2 stands still."""

    def make(
        index: int,
        hw: tuple[int, int] = (180, 320),
        *,
        now_s: float = 100.0,
        empty: bool = False,
        **facts: Any,
    ) -> FrameResult:
        height, width = hw
        rows, columns = np.mgrid[:height, :width]
        rgb = np.stack([rows * 200 // height, columns * 200 // width, np.full(hw, 90)], -1).astype(np.uint8)
        tracked = np.zeros(hw, np.uint8)
        if not empty:
            left = 10 + index % (width // 2)
            tracked[height // 4 : height // 2, left : left + width // 5] = 1
            tracked[height * 2 // 3 : height * 5 // 6, width * 3 // 5 : width * 4 // 5] = 2
        return FrameResult(
            index=index,
            time_s=index / 10,
            maps={"mos-i": np.where(tracked == 1, tracked, 0), "tracked": tracked},
            ious={"mos-i": np.float32([0.9, 0.8]), "tracked": np.float32([0.91, np.nan])},
            ids={1: 3, 2: 12},
            rgb=rgb,
            live=LiveFacts(arrival_s=now_s - 0.25, answer_s=now_s, **facts),
        )

    return make
