"""What a calibration has worked out so far, on disk: one that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.atomic_file import writing
from ...runtime.contract import NetworkName
from ...runtime.pipeline.label_store import LabelStore
from ..quantiser.formats import FORMATS
from ..quantiser.layer_choice import ActivationChoice, StoredLayer
from ..quantiser.linear_layers import Activation
from ..sampling.own_files import (
    UNREADABLE,
    as_json,
    check_own,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
)

logger = logging.getLogger(__name__)

SCHEMA = "gmos-calibration-work/2"
SETTINGS = "settings.json"
OWN_FILE = re.compile(
    r"settings\.json|(activation|result|labels)-[0-9a-f]{32}\.(npz|json)|\..*\.tmp|trial-\w+"
)

Array = NDArray[Any]


class FinishedWork:
    """The directory of what is finished: choices, comparisons, label maps. Files are whole or not there.

    Args:
        root: the directory. Nothing is read or written before `begin`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def check(self) -> None:
        """Refuse a place that holds something else.

        Raises:
            GmosError: it is a file, or a directory with other files.
        """
        check_own(
            self.root,
            lambda entry: OWN_FILE.fullmatch(entry.name) is not None,
            given=self.root,
            file=", and unfinished work goes there; choose another --out",
            foreign=", and unfinished work goes there; move it or choose another --out",
        )

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keep what is there if it was made with the same settings, all that work depends on; else remove it.

        Raises:
            GmosError: the directory cannot be written.
        """
        wanted = as_json({"schema": SCHEMA, **settings})
        if read_json(self.root / SETTINGS) == wanted:
            logger.info("goes on with what an earlier calibration left in %s", self.root)
            for killed in self.root.glob("trial-*"):
                shutil.rmtree(killed, ignore_errors=True)
            return
        if self.root.exists():
            logger.info("%s is of other settings; it is begun anew", self.root)
            self.remove()
        write_json(self.root / SETTINGS, wanted)

    def remove(self) -> None:
        """Remove everything: the bundle is complete."""
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def trial_folder(self) -> Iterator[Path]:
        """A directory for what is needed for a while; one that a kill leaves goes with the next `begin` or `remove`."""
        with (
            writing(self.root),
            tempfile.TemporaryDirectory(dir=self.root, prefix="trial-", ignore_cleanup_errors=True) as folder,
        ):
            yield Path(folder)

    def choice(self, network: NetworkName, activation: Activation) -> ActivationChoice | None:
        """What was chosen for an activation."""
        try:
            return _choice(activation, read_arrays(self._file("activation", (network, activation.name))))
        except UNREADABLE:
            return None

    def keep_choice(self, network: NetworkName, choice: ActivationChoice) -> None:
        """Keep what was chosen for an activation.

        Raises:
            GmosError: it cannot be written.
        """
        write_arrays(self._file("activation", (network, choice.activation.name)), _arrays(choice))

    def result(self, *key: object) -> dict[str, Any] | None:
        """What `keep_result` was given for a key of values that JSON has."""
        return read_json(self._file("result", key))

    def keep_result(self, result: Mapping[str, Any], *key: object) -> None:
        """Keep a result whose values JSON has.

        Raises:
            GmosError: it cannot be written.
        """
        write_json(self._file("result", key), result)

    def labels(self, video: str) -> Mapping[str, LabelStore] | None:
        """Label maps of a video by result."""
        found: dict[str, LabelStore] = {}
        try:
            for name, labels in read_arrays(self._file("labels", video)).items():
                result, _, _ = name.rpartition("/")
                found.setdefault(result, LabelStore(0, labels.shape)).append(labels)
        except UNREADABLE:
            return None
        return found

    def keep_labels(self, video: str, labels: Mapping[str, LabelStore]) -> None:
        """Keep the label maps of a video by result.

        Raises:
            GmosError: they cannot be written.
        """
        maps = {
            f"{result}/{frame:08d}": found
            for result, store in labels.items()
            for frame, found in enumerate(store)
        }
        write_arrays(self._file("labels", video), maps, compressed=True)

    def _file(self, kind: str, key: object) -> Path:
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        return self.root / f"{kind}-{digest}{'.json' if kind == 'result' else '.npz'}"


PLAIN = ("threshold", "method", "alpha", "error")
"""Fields of a choice that JSON has."""


def _arrays(choice: ActivationChoice) -> dict[str, Array]:
    """All but the activation itself, which is found in the graph again."""
    layers = [
        (kind, node, layer)
        for kind, found in (("quantised", choice.quantised), ("weight_only", choice.weight_only))
        for node, layer in found.items()
    ]
    plain = {name: getattr(choice, name) for name in PLAIN}
    plain["stored"] = [(kind, node, layer.form.name) for kind, node, layer in layers]
    arrays = {
        "plain": np.array(json.dumps(plain)),
        "factors": choice.factors,
        "mean_shift": choice.mean_shift,
    }
    for number, (_, _, layer) in enumerate(layers):
        arrays |= {
            # NumPy's files know no eight-bit floating type.
            f"{number}/weight": layer.weight.view(np.uint8),
            f"{number}/scale": layer.scale,
            f"{number}/bias_correction": layer.bias_correction,
        }
    return {name: array for name, array in arrays.items() if array is not None}


def _choice(activation: Activation, arrays: Mapping[str, Array]) -> ActivationChoice:
    plain = json.loads(str(arrays["plain"]))
    stored: dict[str, dict[str, StoredLayer]] = {"quantised": {}, "weight_only": {}}
    for number, (kind, node, precision) in enumerate(plain.pop("stored")):
        form = FORMATS[precision]
        stored[kind][node] = StoredLayer(
            form=form,
            weight=arrays[f"{number}/weight"].view(form.dtype.numpy()),
            scale=arrays[f"{number}/scale"],
            bias_correction=arrays.get(f"{number}/bias_correction"),
        )
    return ActivationChoice(
        activation=activation,
        factors=arrays.get("factors"),
        mean_shift=arrays.get("mean_shift"),
        quantised=stored["quantised"],
        weight_only=stored["weight_only"],
        **plain,
    )
