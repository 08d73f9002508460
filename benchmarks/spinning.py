"""What spinning threads of ONNX Runtime cost a run: the same video with and without, in turns, in one process.

    python benchmarks/spinning.py VIDEO --bundle DIR [--rounds 3]

A session that spins keeps its threads busy between two calls. The pipeline calls several networks in turn
and decodes in threads of its own, so what one session's threads spin away another one waits for.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from contextlib import closing
from pathlib import Path

from gmos_deploy.runtime.bundle.manifest import open_bundle
from gmos_deploy.runtime.console_progress import LineProgress
from gmos_deploy.runtime.onnx.backend import OnnxBackend
from gmos_deploy.runtime.onnx.sessions import OnnxDevice, SessionOptions, load_onnxruntime
from gmos_deploy.runtime.pipeline.clip import ClipRun
from gmos_deploy.runtime.results.completion import ResultSet
from gmos_deploy.runtime.results.outputs import file_results
from gmos_deploy.runtime.video.inputs import resolve_inputs
from gmos_deploy.runtime.video.sequence import SequenceInput


def run_s(sequence: SequenceInput, bundle: Path, *, spin: bool) -> float:
    """Seconds of all stages with label maps written; loading is not in them."""
    options = SessionOptions(spin=spin)
    backend = OnnxBackend(open_bundle(bundle), OnnxDevice(kind="cpu"), options, load_onnxruntime())
    with closing(backend), tempfile.TemporaryDirectory() as folder, LineProgress() as progress:
        results = ResultSet(
            save_dir=Path(folder),
            sequence=sequence.name,
            variant=backend.model.variant,
            modes=frozenset({"mask"}),
        )
        run = ClipRun(backend, sequence, progress=progress)
        file_results(iter(run), results, sequence.media)
    return sum(run.summary.stage_s.values())


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path, help="an .mp4 file or a directory of frames")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each (%(default)s)")
    given = parser.parse_args()
    (sequence,) = resolve_inputs([given.video], fps=None, stride=None if given.video.is_file() else 1)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for number in range(given.rounds):
        for spin in (True, False) if number % 2 else (False, True):
            taken[spin].append(run_s(sequence, given.bundle, spin=spin))
    ratios = [spinning / waiting for spinning, waiting in zip(taken[True], taken[False], strict=True)]
    for spin, name in ((True, "spinning"), (False, "waiting")):
        print(
            f"{name:<9}{statistics.median(taken[spin]):7.2f} s ({min(taken[spin]):.2f}..{max(taken[spin]):.2f})"
        )
    print(f"spinning over waiting: {statistics.median(ratios):.2f}x ({min(ratios):.2f}..{max(ratios):.2f})")


if __name__ == "__main__":
    main()
