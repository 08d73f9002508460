"""Measures the nano networks on held-out clips (held_out.py) with gmos-run and gmos-eval, as a table.

Every prediction is written as PNGs and scored by gmos-eval: GMOS-S and frame differencing by `davis`,
queries and GMOS by `mos-i`, the tracker by `davis`. Only the share of look-alikes is counted here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from held_out import STOP_AT
from numpy.typing import NDArray
from PIL import Image
from scenes import CAMERAS, WINDOW_REACH

from gmos_deploy.gmos_ref.loading import load_reference
from gmos_deploy.gmos_ref.reference_config import FOLDER, ReferenceConfig, nano_checkpoints
from gmos_deploy.runtime.contract import Variant
from gmos_deploy.runtime.pipeline.clip import AfterTracking, ClipRun, Tracks
from gmos_deploy.runtime.pipeline.memory_tracker import make_tracker
from gmos_deploy.runtime.pipeline.options import RunOptions
from gmos_deploy.runtime.results.png_writer import PngWriter
from gmos_deploy.runtime.tracker import FrameFeatures, Prompt
from gmos_deploy.runtime.video.inputs import resolve_frames

FPS = 8
"""Of the clips: neighbours of a window are one frame apart."""

KINDS = (*CAMERAS, "limbs")

STILL_FRAMES = 5
MIN_PROMPT_PX = 150
"""Pixels of 448 x 252 that an object must show where the tracker is prompted."""

DIFFERENCE_LEVELS = (4, 8, 12, 16, 24, 32, 48)
"""8-bit differences at which the baseline is cut; the best one per kind of camera counts."""

Maps = NDArray[np.uint8]


def read_folder(folder: Path) -> NDArray[np.uint8]:
    """The PNGs of a folder, stacked."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def write_folder(folder: Path, maps: Maps) -> None:
    """Label maps (T, H, W) as palette PNGs."""
    writer = PngWriter(folder, "palette")
    for index, values in enumerate(maps):
        writer.write(index, values)


def sequences(kind: Path) -> list[str]:
    """Names of the clips of a kind."""
    return sorted(path.name for path in (kind / "JPEGImages").iterdir())


class Nano:
    """The nano networks of one variant with the weights of a folder, as the pipeline runs them."""

    def __init__(self, variant: Variant, weights: Path) -> None:
        files = nano_checkpoints(variant, weights)
        self.backend = load_reference(ReferenceConfig(variant=variant, preset="nano", device="cpu", **files))

    def run(self, frames: NDArray[np.uint8], after_tracking: AfterTracking | None = None) -> ClipRun:
        """A run over frames (T, H, W, 3)."""
        model = self.backend.model
        sequence = resolve_frames(
            frames, name="clip", fps=FPS, stride=1, pi3_area_px=model.pi3_area_px, patch_px=model.patch_px
        )
        options = RunOptions(device_budget=0, host_budget=2**30)
        return ClipRun(self.backend, sequence, options, after_tracking=after_tracking)

    def foreground(self, frames: NDArray[np.uint8]) -> Maps:
        """GMOS-S masks (T, H, W)."""
        return np.stack([answer.mask for answer in self.run(frames)])

    def probability(self, frames: NDArray[np.uint8]) -> Maps:
        """Probabilities of GMOS-S in 255ths (T, H, W)."""
        return np.stack([answer.probability for answer in self.run(frames)])

    def objects(self, frames: NDArray[np.uint8], first: Maps) -> tuple[Maps, Maps]:
        """Moving proposals (T, H, W), and tracks (T, H, W) of the objects of `first` (H, W)."""
        video_hw = (frames.shape[1], frames.shape[2])
        tracks = np.zeros(frames.shape[:3], np.uint8)
        labels = [int(n) for n in np.unique(first) if n and (first == n).sum() >= MIN_PROMPT_PX]

        def track(features: FrameFeatures, _: Tracks) -> None:
            if not labels:
                return
            tracker = make_tracker(self.backend, features, frames=len(frames), video_hw=video_hw)
            tracker.add_prompts(0, [Prompt(object_id=n, mask=first == n) for n in labels])
            table = np.array([0, *labels], np.uint8)
            for step in tracker.propagate(0):
                free = np.where(step.masks.any(axis=0), step.labels, 0)
                tracks[step.frame] = table[free]

        run = self.run(frames, track)
        for _ in run:
            pass
        if run.tracks is None:
            raise RuntimeError("a run of GMOS leaves its tracks")
        proposals = run.tracks.proposals
        moving = np.zeros((len(frames), 256), np.uint8)
        count = proposals.motions.shape[1]
        moving[:, 1 : 1 + count] = np.where(proposals.motions > 0.5, np.arange(1, 1 + count), 0)
        return np.stack([moving[t][proposals.maps[t]] for t in range(len(frames))]), tracks


def frame_difference(frames: NDArray[np.uint8], level: int) -> Maps:
    """The baseline: where a frame differs from the mean of its window's others."""
    grey = frames.astype(np.float32).mean(axis=-1)
    count = len(grey)
    masks = []
    for t in range(count):
        others = [min(max(t + k, 0), count - 1) for k in range(-WINDOW_REACH, WINDOW_REACH + 1) if k]
        masks.append(np.abs(grey[others] - grey[t]).mean(axis=0) > level)
    return np.stack(masks).astype(np.uint8)


def best_level(kind: Path, clips: dict[str, NDArray[np.uint8]]) -> int:
    """The level at which frame differencing is best on these very clips."""
    scores = dict.fromkeys(DIFFERENCE_LEVELS, 0.0)
    for name, frames in clips.items():
        truth = read_folder(kind / "foreground" / name) > 0
        for level in DIFFERENCE_LEVELS:
            found = frame_difference(frames, level) > 0
            scores[level] += np.mean([_iou(a, b) for a, b in zip(found, truth, strict=True) if b.any()])
    return max(scores, key=scores.__getitem__)


def run_program(entry: str, *arguments: str) -> None:
    """Run a program of this very checkout, by the name of its entry point.

    Raises:
        RuntimeError: it failed; the message is what it said.
    """
    code = f"from gmos_deploy.entry import {entry}; {entry}()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{entry} {' '.join(arguments)}: {done.stderr.strip()}")


def score(command: str, *options: str, work: Path) -> dict[str, Any]:
    """The overall numbers of a gmos-eval command."""
    report = work / "report.json"
    run_program("evaluate", command, *options, "--json", str(report), "--jobs", "1")
    overall: dict[str, Any] = json.loads(report.read_text())["overall"]
    return overall


def davis_j(predictions: Path, annotations: Path, dataset: str, names: list[str], work: Path) -> float:
    """Mean J by `gmos-eval davis`."""
    listed = work / "sequences.txt"
    listed.write_text("\n".join(names) + "\n")
    overall = score(
        "davis", "--dataset", dataset, "--res_dir", str(predictions), "--anno_dir", str(annotations),
        "--sequences", str(listed), work=work,
    )  # fmt: skip
    return float(overall["j_mean"])


def moving_only(kind: Path, names: list[str], out: Path, predict: Callable[[str], Maps]) -> None:
    """Write predictions and annotations of the frames in which something moves: J is undefined elsewhere."""
    for name in names:
        truth = read_folder(kind / "foreground" / name)
        kept = truth.any(axis=(1, 2))
        write_folder(out / "annotations" / name, truth[kept])
        write_folder(out / "predictions" / name, predict(name)[kept])


def foreground_scores(
    kind: Path, work: Path, clips: Mapping[str, NDArray[np.uint8]], masks: Mapping[str, Maps]
) -> dict[str, float]:
    """J of masks, and the shares of the pixels of look-alikes at rest and of other background segmented."""
    names = list(clips)
    work.mkdir(parents=True, exist_ok=True)
    moving_only(kind, names, work / "gmos_s", masks.__getitem__)
    j = davis_j(work / "gmos_s/predictions", work / "gmos_s/annotations", "davis16", names, work)
    hit = total = outside = empty = 0
    for name in names:
        alike = read_folder(kind / "distractors" / name) > 0
        hit += int((masks[name].astype(bool) & alike).sum())
        total += int(alike.sum())
        rest = ~alike & (read_folder(kind / "foreground" / name) == 0)
        outside += int((masks[name].astype(bool) & rest).sum())
        empty += int(rest.sum())
    return {
        "j": j,
        "look-alikes segmented": hit / max(total, 1),
        "other background segmented": outside / max(empty, 1),
    }


def measure_gmos_s(kind: Path, work: Path, weights: Path) -> dict[str, float]:
    """J of GMOS-S, of frame differencing and of repeated frames, and the share of look-alikes segmented."""
    nano, names = Nano("gmos-s", weights), sequences(kind)
    clips = {name: read_folder(kind / "JPEGImages" / name) for name in names}
    masks = {name: nano.foreground(clips[name]) for name in names}
    found = foreground_scores(kind, work, clips, masks)
    level = best_level(kind, clips)
    place = work / "difference"
    moving_only(kind, names, place, lambda name: frame_difference(clips[name], level))
    found["j frame differencing"] = davis_j(
        place / "predictions", place / "annotations", "davis16", names, work
    )
    for name in names:
        truth = read_folder(kind / "foreground" / name)
        middle = int(truth.sum(axis=(1, 2)).argmax())
        still = nano.foreground(np.repeat(clips[name][middle : middle + 1], STILL_FRAMES, axis=0))
        write_folder(work / "still/annotations" / name, truth[middle : middle + 1])
        write_folder(work / "still/predictions" / name, still[STILL_FRAMES // 2][None])
    found["j repeated frame"] = davis_j(
        work / "still/predictions", work / "still/annotations", "davis16", names, work
    )
    return found


def measure_gmos(kind: Path, work: Path, weights: Path) -> dict[str, float]:
    """Mean IoU per moving object of the queries, and J of the tracker from a perfect first mask."""
    nano, names, tracked = Nano("gmos", weights), sequences(kind), []
    for name in names:
        frames, truth = read_folder(kind / "JPEGImages" / name), read_folder(kind / "objects" / name)
        proposed, tracks = nano.objects(frames, truth[0])
        write_folder(work / "queries" / name, proposed)
        prompted = [n for n in np.unique(truth[0]) if n and (truth[0] == n).sum() >= MIN_PROMPT_PX]
        if prompted:
            # Numbered from 1, without the prompted frame, without objects that were not prompted.
            table = np.zeros(256, np.uint8)
            table[prompted] = np.arange(1, 1 + len(prompted))
            write_folder(work / "tracker/annotations" / name, table[truth[1:]])
            write_folder(work / "tracker/predictions" / name, table[tracks[1:]])
            tracked.append(name)
    overall = score(
        "mos-i", "--dataset", "davis17-im", "--res_dir", str(work / "queries"), "--anno_dir",
        str(kind / "objects"), "--time_anno_csv", str(kind / "time_annotation.csv"), "--frame_level_match", work=work,
    )  # fmt: skip
    place = work / "tracker"
    return {
        "iou of queries per moving object": float(overall["j_mov_frame_level"]),
        "false proposals per frame": float(overall["fp_count_frame_level"]),
        "j tracker": davis_j(place / "predictions", place / "annotations", "davis17", tracked, work),
    }


def measure_pipeline(
    kind: Path, work: Path, weights: Path, names: list[str] | None = None
) -> dict[str, float]:
    """J_mov of MOS-I by the whole pipeline, on all clips of a kind or those named."""
    names = sequences(kind) if names is None else names
    run_gmos([kind / "JPEGImages" / name for name in names], work / "run", weights)
    truth = work / "objects"
    truth.mkdir()
    for name in names:
        (truth / name).symlink_to((kind / "objects" / name).resolve())
    header, *rows = (kind / "time_annotation.csv").read_text().splitlines()
    listed = work / "time_annotation.csv"
    listed.write_text("\n".join([header, *(row for row in rows if row.split(",")[0] in names)]) + "\n")
    overall = score(
        "mos-i", "--dataset", "davis17-im", "--res_dir", str(work / "run"), "--anno_dir",
        str(truth), "--time_anno_csv", str(listed), work=work,
    )  # fmt: skip
    return {"j_mov MOS-I": float(overall["j_mov"]), "false positives MOS-I": float(overall["fp_count"])}


def run_gmos(folders: list[Path], out: Path, weights: Path) -> None:
    """gmos-run on folders of frames."""
    flags = [
        item for flag, path in nano_checkpoints("gmos", weights).items() for item in (f"--{flag}", str(path))
    ]
    run_program(
        "run",
        *(*map(str, folders), "--save_dir", str(out), "--fps", str(FPS)),
        *("--preset", "nano", "--variant", "gmos", "--backend", "torch", "--overwrite", "--quiet"),
        *flags,
    )


def measure_stop(kind: Path, work: Path, weights: Path) -> dict[str, float]:
    """Share of stopping objects that are found, leave MOS-I within half a second, and stay in MOS.

    An object stays where its track, the one that fits it best over the clip, still does after the stop.
    """
    names = sequences(kind)
    run_gmos([kind / "JPEGImages" / name for name in names], work / "run", weights)
    found = left = stayed = 0
    for name in names:
        truth = read_folder(kind / "objects" / name) > 0
        now = read_folder(work / "run/mos-i_frame" / name)
        kept = read_folder(work / "run/mos_frame" / name)
        seen = [t for t in range(STOP_AT) if _iou(now[t] > 0, truth[t]) > 0.3]
        if len(seen) < STOP_AT // 2:
            continue
        found += 1
        late = range(STOP_AT + FPS // 2, len(truth))
        left += not any((now[t].astype(bool) & truth[t]).sum() > 0.2 * truth[t].sum() for t in late)
        own = own_track(kept, truth)
        stayed += np.mean([_iou(own[t], truth[t]) > 0.3 for t in late]) > 0.8
    return {
        "stopping objects found": found / len(names),
        "of these gone from MOS-I after 0.5 s": left / max(found, 1),
        "of these kept in MOS": stayed / max(found, 1),
    }


def own_track(tracks: Maps, truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The masks (T, H, W) of the track, of label maps (T, H, W), whose mean IoU with an object is best."""
    found = [tracks == track for track in np.unique(tracks) if track]
    fits = [np.mean([_iou(a, b) for a, b in zip(masks, truth, strict=True)]) for masks in found]
    return found[int(np.argmax(fits))] if found else np.zeros_like(truth)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def main() -> None:
    """Measure and print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("held_out", type=Path, help="folder that held_out.py wrote")
    parser.add_argument("work", type=Path, help="folder for predictions; what is there is replaced")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument(
        "--parts",
        default="gmos-s,gmos,pipeline,stop",
        help="what to measure, of gmos-s, gmos, pipeline and stop, with commas (default: all)",
    )
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        help="kinds of clips for all parts but stop, which has its own, with commas (default: all)",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=FOLDER,
        help="folder that publish.py wrote (default: the package's own)",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = options.parts.split(",")
    measures = {"gmos-s": measure_gmos_s, "gmos": measure_gmos, "pipeline": measure_pipeline}
    table: dict[str, dict[str, float]] = {}
    for kind in options.kinds.split(","):
        for part, measure in measures.items():
            if part in parts:
                work = options.work / kind / part
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
                table.setdefault(kind, {}).update(measure(options.held_out / kind, work, options.weights))
    if "stop" in parts:
        work = options.work / "stop"
        shutil.rmtree(work, ignore_errors=True)
        table["stop"] = measure_stop(options.held_out / "stop", work, options.weights)
    for kind, numbers in table.items():
        for name, value in numbers.items():
            print(f"{kind:7s} {name:40s} {value:.3f}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
