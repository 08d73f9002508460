"""What many videos cost beside the networks.

    python benchmarks/fleet.py workers VIDEO [--copies 8]        two workers against one process with two threads
    python benchmarks/fleet.py clips [--clips 300]               tiny clips: overhead of each, and memory of the driver
    python benchmarks/fleet.py simulate [--workers 100] [--videos 10000] [--mean_s 5] [--measured run.jsonl]

`simulate` is Ray's scheduler and this project's dispatcher, claims and summary as they are, with networks that are
pretended: a worker sleeps for as long as a video would take. Those times are drawn from a real run, the file of its
`--json_lines` (`--measured FILE`), else evenly from lengths of 25 to 104 frames, and scaled to the mean that is asked
for. Told: seconds, overhead a video, and the share of the workers' time in which they had nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
from PIL import Image

SHORTEST, LONGEST = 25, 104
"""Frames of the shortest and the longest video, where no run was measured."""

RUN = "from gmos_deploy.entry import run; run()"


class Pretended:
    """Stands for a `Segmenter`: sleeps. Workers import nothing of the project."""

    def __init__(self, _: object) -> None:
        pass

    def ready(self, _: str) -> str:
        """It sees every file."""
        return ""

    def facts(self) -> tuple[str, float]:
        """Nothing is loaded."""
        return "pretended", 0.0

    def run(self, item: Any) -> SimpleNamespace:  # noqa: ANN401 - an `Item`, which is not imported here
        """The time is in the input's name."""
        time.sleep(float(item.given.rpartition("=")[2]))
        return SimpleNamespace(status="done")


def gmos_run(*given: object) -> tuple[dict[str, Any], float, float]:
    """The command in a process of its own: its summary, its seconds, and the most MiB that its process held."""
    start, most = time.monotonic(), 0.0
    with tempfile.TemporaryFile() as out:
        process = psutil.Popen([sys.executable, "-c", RUN, *map(str, given), "--json", "--quiet"], stdout=out)
        while process.poll() is None:
            try:
                most = max(most, process.memory_info().rss / 2**20)
            except psutil.Error:
                break
            time.sleep(0.1)
        process.wait()
        seconds = time.monotonic() - start
        out.seek(0)
        return json.load(out), seconds, most


def workers(given: argparse.Namespace, folder: Path) -> None:
    """Frames per second of both, in turns; the time in which networks load is part of it."""
    for k in range(given.copies):
        shutil.copy(given.video, folder / f"{k}{given.video.suffix}")
    ways = {"one process, two threads": ("--threads", 2), "two workers": ("--workers", 2, "--threads", 1)}
    for turn in range(given.turns):
        for name, how in ways.items():
            out = folder / f"{turn}-{name}"
            found, seconds, _ = gmos_run(
                folder, "--save_mode", "mask", "--save_dir", out, *how, *given.options
            )
            frames = sum(one["frames"] for one in found["sequences"])
            print(f"{name}: {frames} frames, {seconds:.1f} s, {frames / seconds:.2f} frames/s", flush=True)


def clips(given: argparse.Namespace, folder: Path) -> None:
    """Tiny clips in one process, and in two workers: seconds a clip beside the networks, memory of the driver."""
    for k in range(given.clips):
        place = folder / "clips" / f"{k:04d}"
        place.mkdir(parents=True)
        for index in range(5):
            rgb = np.full((28, 42, 3), 128, np.uint8)
            rgb[8:20, 4 + 4 * index : 16 + 4 * index] = (220, 40, 40)
            Image.fromarray(rgb).save(place / f"{index:05d}.png")
    for name, how in {"one process": (), "two workers": ("--workers", 2)}.items():
        for count in (given.clips // 10, given.clips):
            listed = folder / "list.txt"
            listed.write_text("".join(f"{folder / 'clips' / f'{k:04d}'}\n" for k in range(count)))
            found, seconds, most = gmos_run(
                *("--inputs_from", listed, "--stride", 1, "--save_mode", "mask", "--threads", 1),
                *("--save_dir", folder / f"{name}-{count}", *how, *given.options),
            )
            inside = sum(sum(one["stage_s"].values()) for one in found["sequences"])
            print(
                f"{name}, {count} clips: {seconds:.1f} s, {inside:.1f} s of them in stages, driver {most:.0f} MiB",
                flush=True,
            )


def simulate(given: argparse.Namespace, folder: Path) -> None:
    """Ray's scheduler on pretended networks."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_DISABLE_IMPORT_WARNING="1")
    import ray  # noqa: PLC0415 - an extra

    from gmos_deploy.fleet.batch import Turns  # noqa: PLC0415 - here and below: the others need none of it
    from gmos_deploy.fleet.claims import Claims  # noqa: PLC0415
    from gmos_deploy.fleet.dispatch import Dispatcher, Ended  # noqa: PLC0415
    from gmos_deploy.fleet.listing import Item  # noqa: PLC0415
    from gmos_deploy.fleet.progress import ListProgress  # noqa: PLC0415
    from gmos_deploy.fleet.ray_workers import RayChoice, RayWorkers  # noqa: PLC0415
    from gmos_deploy.fleet.sequence_runner import RunSettings  # noqa: PLC0415
    from gmos_deploy.fleet.statuses import SequenceSummary  # noqa: PLC0415
    from gmos_deploy.fleet.summary import Summary  # noqa: PLC0415
    from gmos_deploy.networks import NetworkChoice  # noqa: PLC0415

    class Workers(RayWorkers):
        def events(self, timeout_s: float) -> list[Any]:
            started = [one.starting is None for one in self._actors]
            if all(started) and not times.get("all"):
                times["all"] = time.monotonic()
            found = []
            for event in super().events(timeout_s):
                if isinstance(event, Ended):
                    name = items_in_hand.pop(event.worker)
                    event = Ended(worker=event.worker, summary=SequenceSummary(name=name, frames=70))  # noqa: PLW2901
                found.append(event)
            return found

        def give(self, worker: int, item: Item) -> None:
            items_in_hand[worker] = item.name
            super().give(worker, item)

    lengths_s = times_of_videos(given)
    items = [Item(f"https://video={length}", f"video{k}") for k, length in enumerate(lengths_s)]
    times: dict[str, float] = {}
    items_in_hand: dict[int, str] = {}
    ray.init(
        address="local",
        num_cpus=given.workers,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200 << 20,
        _node_ip_address="127.0.0.1",
    )
    settings = RunSettings(networks=NetworkChoice(preset="tiny", backend="torch"), save_dir=folder / "out")
    runner: Any = SimpleNamespace(finished_since=lambda *_: False)
    process, most = psutil.Process(), [0.0, 0.0]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            place = 0 if len(items_in_hand) and sum(summary.counts.values()) < given.videos / 10 else 1
            most[place] = max(most[place], process.memory_info().rss / 2**20)

    with (
        (folder / "summary.json").open("w") as out,
        Claims(settings.save_dir, "key") as claims,
        Summary(as_json=True, out=out) as summary,
        ListProgress(len(items)) as progress,
    ):
        summary.several = True
        threading.Thread(target=watch, daemon=True).start()
        start = time.monotonic()
        choice = RayChoice(address="local", workers=given.workers)
        with Workers(choice, settings, claims.marker, len(items), Pretended) as pool:
            Dispatcher(Turns(items, runner, claims), pool, summary, progress).run()
        end = time.monotonic()
    over.set()
    ray.shutdown()
    slept, began = sum(lengths_s), times.get("all", start)
    print(
        f"{given.videos} videos on {given.workers} workers: {end - start:.0f} s, of these {began - start:.0f} s until "
        f"all workers were there; {slept / given.workers:.0f} s would be without any overhead"
    )
    idle = 1 - slept / (given.workers * (end - start))
    print(
        f"overhead {(end - start - slept / given.workers) * given.workers / given.videos:.2f} s of a worker a video, "
        f"idle share {idle:.1%}; driver {most[0]:.0f} MiB in the first tenth, {most[1]:.0f} MiB later"
    )


def times_of_videos(given: argparse.Namespace) -> list[float]:
    """Seconds that each video takes on pretended networks."""
    draw = random.Random(0)  # noqa: S311 - a sample
    if given.measured is None:
        drawn = [float(draw.randint(SHORTEST, LONGEST)) for _ in range(given.videos)]
    else:
        lines = given.measured.read_text(encoding="utf-8").splitlines()
        known = [sum(json.loads(line)["stage_s"].values()) for line in lines]
        drawn = draw.choices([seconds for seconds in known if seconds], k=given.videos)
    return [given.mean_s * seconds * len(drawn) / sum(drawn) for seconds in drawn]


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("workers", "clips", "simulate"))
    parser.add_argument("video", type=Path, nargs="?")
    parser.add_argument("--copies", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--mean_s", type=float, default=5.0)
    parser.add_argument("--measured", type=Path)
    given, options = parser.parse_known_args()
    given.options = options
    with tempfile.TemporaryDirectory() as folder:
        {"workers": workers, "clips": clips, "simulate": simulate}[given.what](given, Path(folder))


if __name__ == "__main__":
    main()
