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

from ...errors import GmosError
from ...runtime.atomic_file import replaced_at_end, writing
from ...runtime.contract import NetworkName
from ...runtime.pipeline.label_store import LabelStore
from ..quantiser.formats import FORMATS
from ..quantiser.layer_choice import SiteChoice, StoredLayer
from ..quantiser.linears import Site
from ..sampling.own_files import UNREADABLE, foreign_entry, read_arrays, write_arrays

logger = logging.getLogger(__name__)

SCHEMA = "gmos-calibration-work/1"
SETTINGS = "settings.json"
OWN_FILE = re.compile(r"settings\.json|(site|result|labels)-[0-9a-f]{32}\.(npz|json)|\..*\.tmp|trial-\w+")

Array = NDArray[Any]


class FinishedWork:
    """The directory of what is finished: choices of sites, comparisons, label maps. Files are whole or not there.

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
        entry = foreign_entry(self.root, lambda entry: OWN_FILE.fullmatch(entry.name) is not None)
        if entry == self.root:
            raise GmosError(f"{self.root} is a file, and unfinished work goes there; choose another --out")
        if entry is not None:
            raise GmosError(
                f"{self.root} holds {entry.name}, and unfinished work goes there; move it or choose another --out"
            )

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Keep what is there if it was made with the same settings, all that work depends on; else remove it.

        Raises:
            GmosError: the directory cannot be written.
        """
        wanted = json.loads(json.dumps({"schema": SCHEMA, **settings}))
        if self._json(self.root / SETTINGS) == wanted:
            logger.info("goes on with what an earlier calibration left in %s", self.root)
            for killed in self.root.glob("trial-*"):
                shutil.rmtree(killed, ignore_errors=True)
            return
        if self.root.exists():
            logger.info("%s is of other settings; it is begun anew", self.root)
            self.remove()
        self._write_json(self.root / SETTINGS, wanted)

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

    def choice(self, network: NetworkName, site: Site) -> SiteChoice | None:
        """What was chosen for a site."""
        try:
            return _choice(site, read_arrays(self._site_file(network, site)))
        except UNREADABLE:
            return None

    def keep_choice(self, network: NetworkName, choice: SiteChoice) -> None:
        """Keep what was chosen for a site.

        Raises:
            GmosError: it cannot be written.
        """
        write_arrays(self._site_file(network, choice.site), _arrays(choice))

    def result(self, *key: object) -> dict[str, Any] | None:
        """What `keep_result` was given for a key of values that JSON has."""
        return self._json(self._result_file(key))

    def keep_result(self, result: Mapping[str, Any], *key: object) -> None:
        """Keep a result whose values JSON has.

        Raises:
            GmosError: it cannot be written.
        """
        self._write_json(self._result_file(key), result)

    def labels(self, video: str) -> Mapping[str, LabelStore] | None:
        """Label maps of a video by result."""
        found: dict[str, LabelStore] = {}
        try:
            for name, labels in read_arrays(self._labels_file(video)).items():
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
        write_arrays(self._labels_file(video), maps, compressed=True)

    def _site_file(self, network: NetworkName, site: Site) -> Path:
        return self.root / f"site-{_digest((network, site.name))}.npz"

    def _labels_file(self, video: str) -> Path:
        return self.root / f"labels-{_digest(video)}.npz"

    def _result_file(self, key: object) -> Path:
        return self.root / f"result-{_digest(key)}.json"

    def _json(self, path: Path) -> dict[str, Any] | None:
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        with replaced_at_end(path) as temporary:
            temporary.write_text(json.dumps(value), encoding="utf-8")


def _digest(key: object) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _arrays(choice: SiteChoice) -> dict[str, Array]:
    """All but the site itself, which is found in the graph again."""
    arrays: dict[str, Array] = {
        "threshold": np.array(choice.threshold, np.float64),
        "method": np.array(choice.method),
        "strength": np.array(choice.strength, np.float64),
        "error": np.array(choice.error, np.float64),
    }
    arrays |= {
        name: part
        for name, part in (("factors", choice.factors), ("centre", choice.centre))
        if part is not None
    }
    for kind, layers in (("layers", choice.layers), ("restored", choice.restored)):
        for number, (node, layer) in enumerate(layers.items()):
            place = f"{kind}/{number}"
            arrays |= {
                f"{place}/node": np.array(node),
                f"{place}/form": np.array(layer.form.name),
                # NumPy's files know no eight-bit floating type.
                f"{place}/weight": layer.weight.view(np.uint8),
                f"{place}/scale": layer.scale,
            }
            if layer.correction is not None:
                arrays[f"{place}/correction"] = layer.correction
    return arrays


def _choice(site: Site, arrays: Mapping[str, Array]) -> SiteChoice:
    return SiteChoice(
        site=site,
        threshold=float(arrays["threshold"]),
        method=str(arrays["method"]),
        factors=arrays.get("factors"),
        strength=float(arrays["strength"]),
        centre=arrays.get("centre"),
        layers=dict(_layers(arrays, "layers")),
        restored=dict(_layers(arrays, "restored")),
        error=float(arrays["error"]),
    )


def _layers(arrays: Mapping[str, Array], kind: str) -> Iterator[tuple[str, StoredLayer]]:
    number = 0
    while f"{kind}/{number}/node" in arrays:
        place = f"{kind}/{number}"
        form = FORMATS[str(arrays[f"{place}/form"])]
        yield (
            str(arrays[f"{place}/node"]),
            StoredLayer(
                form=form,
                weight=arrays[f"{place}/weight"].view(form.dtype.numpy()),
                scale=arrays[f"{place}/scale"],
                correction=arrays.get(f"{place}/correction"),
            ),
        )
        number += 1
