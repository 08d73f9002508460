"""A network's inputs and outputs in files that Polygraphy reads, and the command that goes on from there.

Polygraphy's own classes write the same (the tests read these files with them); it is not needed here.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import GmosError
from ..files.atomic_file import replaced_at_end, writing
from ..precision import Limits

Arrays = Mapping[str, NDArray[Any]]

INPUTS_FILE = "inputs.json"

KIND = "polygraphy_class"
"""The key that says which of Polygraphy's classes an object is read as."""


def save_call(folder: Path, inputs: Arrays, outputs: Mapping[str, Arrays]) -> None:
    """Write what a network got into `inputs.json` and what each side answered into `SIDE.json`.

    Args:
        folder: made where it is missing; files of these names in it are replaced.
        inputs: by name, in the dtypes of the graph.
        outputs: by side and name.

    Raises:
        GmosError: they cannot be written.
    """
    _write(folder / INPUTS_FILE, [{name: _array(values) for name, values in inputs.items()}])
    for side, arrays in outputs.items():
        iteration = {
            "outputs": {
                name: {"values": _array(values), KIND: "LazyArray"} for name, values in arrays.items()
            },
            "runtime": None,
            "runner_name": side,
            KIND: "IterationResult",
        }
        _write(folder / f"{side}.json", {"lst": [[side, [iteration]]], KIND: "RunResults"})


def run_line(graph: Path, folder: Path, side: str, expected: Arrays, limits: Limits) -> str:
    """The `polygraphy` command that runs a graph on what `save_call` wrote and compares it with a side.

    Args:
        graph: ONNX file; one that ONNX Runtime's CPU provider runs.
        folder: that the call was saved in.
        side: whose outputs the graph's are compared with.
        expected: that side's outputs.
        limits: its bound on the largest error becomes Polygraphy's absolute tolerance.
    """
    words = ["polygraphy", "run", str(graph), "--onnxrt"]
    words += ["--load-inputs", str(folder / INPUTS_FILE), "--load-outputs", str(folder / f"{side}.json")]
    words += ["--rtol", "0", "--atol"]
    words += [f"{name}:{_tolerance(values, limits):.3g}" for name, values in expected.items()]
    return shlex.join(words)


def leave_call(
    graph: Path,
    folder: Path,
    inputs: Arrays,
    outputs: Mapping[str, Arrays],
    *,
    side: str,
    limits: Limits,
    moved: Iterable[Path] = (),
) -> str:
    """Save a call that was beyond the limits, and say so with the command that goes on from there.

    Args:
        graph: ONNX file that was run, or was in question.
        folder: where to.
        inputs: as in `save_call`.
        outputs: as in `save_call`.
        side: whose outputs the command compares those of the graph with.
        limits: as in `run_line`.
        moved: files that are moved there, the graph perhaps among them.

    Returns:
        A sentence for people, two lines long. That nothing could be written is said in it, too: it is no reason to
        hide what was wrong.
    """
    try:
        save_call(folder, inputs, outputs)
        with writing(folder):
            for file in moved:
                shutil.move(file, folder / file.name)
    except GmosError as error:
        return f"its inputs and outputs could not be kept: {error}"
    kept = folder / graph.name
    line = run_line(kept if kept.exists() else graph, folder, side, outputs[side], limits)
    return f"its inputs and outputs are in {folder}; go on with\n{line}"


def _tolerance(values: NDArray[Any], limits: Limits) -> float:
    if not np.issubdtype(values.dtype, np.floating):
        return 0.0
    finite = values[np.isfinite(values)].astype(np.float64)
    return limits.largest * float(np.sqrt((finite**2).mean())) if finite.size else 0.0


def _array(values: NDArray[Any]) -> dict[str, str]:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return {"array": base64.b64encode(buffer.getbuffer()).decode("ascii"), KIND: "ndarray"}


def _write(path: Path, document: object) -> None:
    with replaced_at_end(path) as temporary, temporary.open("w", encoding="ascii") as file:
        json.dump(document, file)
