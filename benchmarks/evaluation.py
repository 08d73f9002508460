"""Times the MOS-I evaluator on a DAVIS17-IM-sized tree, and the dense way of computing the same overlaps.

    python benchmarks/evaluation.py [--jobs N] [--dense-frames N]

Writes 19 sequences of 65 frames at 854x480 to a temporary folder. The dense way builds 20 + 20 bool
masks per frame and takes the IoU of every pair, on a few frames, once for each of the two ways of
matching as the published script does; its time for all frames is that share scaled up, and said to
be. Ratios are of CPU time in one process, which other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmos_deploy.evaluation.benchmarks.benchmarks import BenchmarkRequest, load_benchmark
from gmos_deploy.evaluation.benchmarks.label_maps import LABEL_LIMIT, read_label_map
from gmos_deploy.evaluation.benchmarks.mos_i import count_overlaps
from gmos_deploy.evaluation.benchmarks.run import evaluate_sequences
from gmos_deploy.runtime.host_memory import usable_cores
from gmos_deploy.runtime.pipeline.mask_overlap import iou_matrix
from gmos_deploy.runtime.results.overlay import davis_palette

SEQUENCES, FRAMES = 19, 65
HEIGHT, WIDTH = 480, 854


def label_map(rng: np.random.Generator, centres: NDArray[np.float64], frame: int) -> NDArray[np.uint8]:
    """Drifting ellipses with ragged outlines, so that the PNGs compress as real masks do; uint8 (H, W)."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for index, (y, x, radius) in enumerate(centres):
        ragged = 1 + 0.1 * np.sin(rows / 7 + index) * np.cos(columns / 9)
        distance = ((rows - y) / 0.8) ** 2 + (columns - x - 2 * frame) ** 2
        labels[distance < (radius * ragged) ** 2] = index + 1
    labels[rng.random((HEIGHT, WIDTH)) < 2e-5] = 1
    return labels


def write_tree(root: Path) -> None:
    """Annotations, predictions and the CSV; three objects a sequence, predictions shifted by a few pixels."""
    palette = davis_palette().ravel().tolist()
    rng = np.random.default_rng(0)
    with (root / "time_annotation.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seq_name", "time_anno"])
        for sequence in range(SEQUENCES):
            name = f"sequence_{sequence:02d}"
            writer.writerow([name, str({str(k): [[0, 30], [40, FRAMES - 1]] for k in (1, 2, 3)})])
            centres = rng.uniform((80, 80, 40), (400, 600, 110), (3, 3))
            for folder, shift in (("annotations", 0), ("predictions", 4)):
                offset = np.array((shift, shift, 0))
                (root / folder / name).mkdir(parents=True)
                for frame in range(FRAMES):
                    image = Image.fromarray(label_map(rng, centres + offset, frame))
                    image.putpalette(palette)
                    image.save(root / folder / name / f"{frame:05d}.png")


def dense_ious(annotated: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.float32]:
    """20x20 mask IoUs of one frame from whole masks, as float32 (predicted, annotated)."""
    channels = np.arange(1, LABEL_LIMIT + 1)[:, None, None]
    annotations, predictions = annotated[None] == channels, predicted[None] == channels
    ious = np.empty((LABEL_LIMIT, LABEL_LIMIT), np.float32)
    for row, prediction in enumerate(predictions):
        for column, annotation in enumerate(annotations):
            union = np.float32((prediction | annotation).sum())
            intersection = np.float32((prediction & annotation).sum())
            ious[row, column] = intersection / (union + np.float32(1e-6)) if union else 1.0
    return ious


def time_overlaps(root: Path, frames: int) -> tuple[float, float, float]:
    """CPU seconds per frame: reading both files, ours, dense. Checks that the IoUs agree."""
    reading = ours = dense = 0.0
    for frame in range(frames):
        names = [root / kind / "sequence_00" / f"{frame:05d}.png" for kind in ("annotations", "predictions")]
        start = time.process_time()
        annotation, prediction = (read_label_map(name) for name in names)
        reading += time.process_time() - start
        start = time.process_time()
        ious = iou_matrix(*count_overlaps(annotation, prediction))
        ours += time.process_time() - start
        start = time.process_time()
        expected = dense_ious(annotation.labels, prediction.labels)
        dense += time.process_time() - start
        if not np.array_equal(ious, expected):
            raise SystemExit(f"frame {frame}: the two ways disagree by {np.abs(ious - expected).max()}")
    return reading / frames, ours / frames, dense / frames


def main() -> None:
    """Write the tree, time both ways and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="processes (default: cores)")
    parser.add_argument("--dense-frames", type=int, default=10, help="frames for the dense way (default: 10)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print(f"writing 2 x {SEQUENCES} x {FRAMES} frames of {WIDTH}x{HEIGHT} …")
        write_tree(root)
        start = time.perf_counter()
        request = BenchmarkRequest(
            dataset="davis17-im",
            res_dir=root / "predictions",
            anno_dir=root / "annotations",
            time_anno_csv=root / "time_annotation.csv",
            frame_level_match=True,
        )
        prepared = load_benchmark("mos-i", request)
        jobs = list(prepared.jobs.values())
        sequences = evaluate_sequences(jobs, workers=arguments.jobs, advance=lambda: None)
        overall = prepared.overall(sequences)
        elapsed = time.perf_counter() - start
        start = time.process_time()
        jobs[0]()
        whole = (time.process_time() - start) / FRAMES
        reading, ours, dense = time_overlaps(root, arguments.dense_frames)
    frames = SEQUENCES * FRAMES
    dense_whole = reading + 2 * dense
    print(f"J_mov {overall['j_mov']:.4f}, mtIoU {overall['mtiou']:.4f}, FP count {overall['fp_count']:.4f}")
    print(f"MOS-I, both ways of matching, {arguments.jobs} processes: {elapsed:.1f} s for {frames} frames")
    print("CPU time of one frame, one process")
    print(f"  reading a pair of PNGs          {1e3 * reading:8.2f} ms")
    print(f"  overlaps, joint histogram       {1e3 * ours:8.2f} ms")
    print(f"  overlaps, 20x20 dense masks     {1e3 * dense:8.2f} ms  ({dense / ours:.0f}x)")
    print(f"  everything, ours                {1e3 * whole:8.2f} ms")
    print(f"  reading and dense masks twice   {1e3 * dense_whole:8.2f} ms  ({dense_whole / whole:.0f}x)")
    print(
        f"dense way on all frames, extrapolated from {arguments.dense_frames} frames:"
        f" {frames * dense_whole:.0f} s of CPU time, ours {frames * whole:.1f} s"
    )


if __name__ == "__main__":
    main()
