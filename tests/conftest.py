"""A backend without any network: it sees colours. What it must answer is known exactly."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from numpy.typing import NDArray

from gmos_deploy.networks import BACKENDS, BackendEntry, NetworkChoice, register_backend
from gmos_deploy.runtime.arrays import NumpyArrays
from gmos_deploy.runtime.bundle.manifest import Bundle, open_bundle
from gmos_deploy.runtime.contract import ModelSpec, Variant, network_specs
from gmos_deploy.runtime.files.made_from import BundleOrigin, MadeFrom
from gmos_deploy.runtime.tracker import FrameFeatures, Prompt, TrackerStep, frames_from, step_from_logits
from gmos_deploy.sides import Side

COLOURS = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]], np.uint8)
"""An object's colour; everything else is background."""

settings.register_profile("shared machines", deadline=None)
settings.load_profile("shared machines")

SIDE = 64
"""SAM2 image side of the fake; its mask maps have a quarter of it."""

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="session", autouse=True)
def own_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A configuration folder of the tests' own, for the key that engines are sealed with."""
    folder = tmp_path_factory.mktemp("configuration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        yield folder


def colour_map(images: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(..., 3) colours to 0 or 1 + the object of exactly that colour."""
    labels = np.zeros(images.shape[:-1], np.uint8)
    for number, colour in enumerate(COLOURS, start=1):
        labels[(np.abs(images.astype(float) - colour) < 40).all(axis=-1)] = number
    return labels


class ColourTracker:
    """Finds a prompted object again by the colour it was prompted on."""

    def __init__(self, features: FrameFeatures, frames: int | None, video_hw: tuple[int, int]) -> None:
        self._features = features
        self._frames = frames
        self._video_hw = video_hw
        self._colours: dict[int, int] = {}

    def prompt(self, frame: int, prompts: Sequence[Prompt]) -> TrackerStep:
        for prompt in prompts:
            seen = self._labels(frame)[prompt.mask]
            self._colours[prompt.object_id] = int(np.bincount(seen, minlength=4).argmax())
        return self._step(frame)

    def add_prompts(self, frame: int, prompts: Sequence[Prompt]) -> None:
        self.prompt(frame, prompts)

    def propagate(
        self, start: int, *, reverse: bool = False, unprompted: bool = False
    ) -> Iterator[TrackerStep]:
        for frame in range(start, -1, -1) if reverse else frames_from(start, self._frames):
            yield self._step(frame)

    def reset(self) -> None:
        self._colours.clear()

    def forget(self, object_ids: Sequence[int]) -> None:
        for object_id in object_ids:
            del self._colours[object_id]

    def _labels(self, frame: int) -> NDArray[np.uint8]:
        return enlarged(colour_map(self._features.get(frame)["s0"]), self._video_hw)

    def _step(self, frame: int) -> TrackerStep:
        labels = self._labels(frame)
        logits = np.stack([np.where(labels == colour, 9.0, -9.0) for colour in self._colours.values()])
        return step_from_logits(
            frame, list(self._colours), logits.astype(np.float32), np.full(len(logits), 0.97, np.float32)
        )


def enlarged(maps: NDArray[Any], video_hw: tuple[int, int]) -> NDArray[Any]:
    """Nearest-neighbour resize of the last two axes."""
    height, width = maps.shape[-2:]
    rows = np.arange(video_hw[0]) * height // video_hw[0]
    columns = np.arange(video_hw[1]) * width // video_hw[1]
    return maps[..., rows[:, None], columns]


class ColourBackend:
    """Implements `runtime.backend.Backend` on numpy, and counts the frames each network sees.

    `moves(colour, frame_mean)` decides the motion state of a colour from the window it sees.
    """

    description = "colours"

    def __init__(self, variant: Variant = "gmos") -> None:
        self.model = ModelSpec(
            variant=variant,
            preset="colours",
            patch_px=14,
            window=5,
            pi3_channels=3,
            pi3_area_px=56 * 56,
            sam2_image_px=SIDE,
            sam2_channels=8,
            queries=len(COLOURS),
            memory_channels=8,
        )
        self.arrays = NumpyArrays()
        self.seen: Counter[str] = Counter()
        self.batches: dict[str, list[int]] = {}
        self.closed = False

    def runner(self, network: str) -> Callable[[Mapping[str, Any]], Arrays]:
        spec = network_specs(self.model)[network]

        def run(inputs: Mapping[str, Any]) -> Arrays:
            assert set(inputs) == {tensor.name for tensor in spec.inputs}, network
            batch = len(next(value for name, value in inputs.items() if name != "video_hw"))
            self.seen[network] += batch
            self.batches.setdefault(network, []).append(batch)
            outputs: Arrays = getattr(self, f"_{network}")(**inputs)
            assert set(outputs) == {tensor.name for tensor in spec.outputs}, network
            return outputs

        return run

    def tracker(
        self,
        features: FrameFeatures,
        *,
        frames: int | None,
        video_hw: tuple[int, int],
        max_conditioning: int | None = None,
        look_back: int = 0,
    ) -> ColourTracker:
        return ColourTracker(features, frames, video_hw)

    def close(self) -> None:
        self.closed = True

    def _sam2_resize(self, frames: NDArray[np.uint8]) -> Arrays:
        resized = enlarged(frames.transpose(0, 3, 1, 2), (SIDE // 4, SIDE // 4))
        return {"images": resized.transpose(0, 2, 3, 1)}

    def _sam2_encoder(self, images: NDArray[np.uint8]) -> Arrays:
        return {"s0": images, "s1": images[:, ::2, ::2], "f": images[:, ::4, ::4]}

    def _dino(self, frames: NDArray[np.uint8]) -> Arrays:
        labels = colour_map(frames.transpose(0, 2, 3, 1))
        # One token per frame: how much of the frame has each colour, and where its centre is.
        rows = np.arange(labels.shape[1])[:, None]
        tokens = np.stack(
            [
                [
                    float((rows * (frame == colour)).sum() / max((frame == colour).sum(), 1))
                    for colour in range(1, 4)
                ]
                for frame in labels
            ]
        )
        return {"tokens": tokens[:, None, None, :]}

    def _pi3_decoder(self, tokens: NDArray[np.float64]) -> Arrays:
        # Geometry of the fake: how far each colour's centre moves within the window.
        return {"geometry": np.ptp(tokens, axis=1)}

    def _proposer(self, geometry: NDArray[Any], s0: NDArray[Any], **_: NDArray[Any]) -> Arrays:
        labels = colour_map(s0)
        logits = np.stack([np.where(labels == colour, 5.0, -5.0) for colour in range(1, 4)], axis=1)
        motion = np.where(geometry[:, 0, 0] > 0.5, 4.0, -4.0)
        ious = np.full(motion.shape, 0.9)
        return {
            "mask_logits": logits.astype(np.float32),
            "motion_logits": motion.astype(np.float32),
            "ious": ious.astype(np.float32),
            "confidences": ious.astype(np.float32),
        }

    def _proposal_labels(self, mask_logits: NDArray[Any], video_hw: NDArray[np.int64]) -> Arrays:
        best = np.where(mask_logits.max(axis=1) > 0, mask_logits.argmax(axis=1) + 1, 0)
        height, width = video_hw.tolist()
        return {"labels": enlarged(best.astype(np.uint8), (height, width))}

    def _gmos_s(self, geometry: NDArray[Any], s0: NDArray[Any], **_: NDArray[Any]) -> Arrays:
        moving = np.concatenate([np.zeros((len(geometry), 1), bool), geometry[:, 0, 0] > 0.5], axis=1)
        labels = colour_map(s0)
        seen = np.stack([row[frame] for row, frame in zip(moving, labels, strict=True)])
        logits = np.where(seen, 3.0, -3.0)[:, None].astype(np.float32)
        return {"foreground_logits": logits, "ious": logits[:, :, 0, 0], "confidences": logits[:, :, 0, 0]}

    def _foreground_map(self, foreground_logits: NDArray[Any], video_hw: NDArray[np.int64]) -> Arrays:
        height, width = video_hw.tolist()
        probability = 1 / (1 + np.exp(-enlarged(foreground_logits[:, 0], (height, width))))
        return {
            "mask": (probability > 0.5).astype(np.uint8),
            "probability": np.floor(255 * probability).astype(np.uint8),
        }


@pytest.fixture
def colour_backend() -> Callable[..., ColourBackend]:
    """Makes a backend that sees colours; takes the variant."""
    return ColourBackend


Box = tuple[int, int, int, int, int]
"""Colour number from 1, top, left, height, width, in pixels."""


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[NetworkChoice], Any]], None]:
    """Registers what opens a backend for one test; sides are NAME:PRESET, and presets tell them apart."""
    own: set[str] = set()

    def add(name: str, opener: Callable[[NetworkChoice], Any]) -> None:
        if name in own:
            del BACKENDS[name]
        own.add(name)
        register_backend(BackendEntry(name=name, open=lambda choice, _: opener(choice), runs="checkpoints"))
        # Gone again with the test.
        entry = BACKENDS.pop(name)
        monkeypatch.setitem(BACKENDS, name, entry)

    return add


@pytest.fixture
def load_sides(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Side], Any]], None]:
    """Takes what loads the networks of sides in one test, whatever their names."""

    def made_from(side: Side) -> MadeFrom:
        """As of a bundle that is called like the side."""
        return MadeFrom(bundles=(BundleOrigin(name=side.text, sha256="0" * 64),))

    def patch(load: Callable[[Side], Any]) -> None:
        monkeypatch.setattr(Side, "load", load)
        monkeypatch.setattr(Side, "check", lambda side: load(side).model)
        monkeypatch.setattr(Side, "made_from", made_from)

    return patch


@pytest.fixture
def colour_video(tmp_path: Path) -> Callable[..., Path]:
    """Writes frames of boxes into a directory of PNGs: `(name, list of boxes per frame, (H, W))`."""
    from PIL import Image

    def write(name: str, frames: Sequence[Sequence[Box]], video_hw: tuple[int, int] = (64, 96)) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        for index, boxes in enumerate(frames):
            rgb = np.full((*video_hw, 3), 128, np.uint8)
            for colour, top, left, height, width in boxes:
                rgb[top : top + height, left : left + width] = COLOURS[colour - 1]
            Image.fromarray(rgb).save(directory / f"{index:05d}.png")
        return directory

    return write


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread(request: pytest.FixtureRequest) -> None:
    """Small networks run on one thread: waiting for a second one costs more, much more on a busy machine."""
    if importlib.util.find_spec("torch") is None or "not published" not in request.config.option.markexpr:
        return
    import torch

    torch.set_num_threads(1)


LONG_FILES = (
    "fleet/test_ray.py",
    "calibration/test_calibrate.py",
    "export/onnx/test_packed_nano.py",
    "export/onnx/test_every_network.py",
    "gmos_ref/test_tracker.py",
    "runtime/pipeline/test_memory_tracker.py",
    "runtime/live/test_trackers.py",
    "runtime/live/test_session.py",
    "runtime/live/test_real_clip.py",
    "calibration/search/test_finished_work.py",
    "export/engines/test_fusion.py",
    "export/engines/test_half_engines.py",
    "export/onnx/test_polygraphy.py",
    "export/onnx/test_long_videos.py",
    "export/engines/test_check.py",
    "calibration/test_engines.py",
    "gpu/test_require.py",
    "test_run_live.py",
    "runtime/live/sources/test_network.py",
    "tools/test_nano_training.py",
    "tools/test_nano_cutouts.py",
    "stopped/test_at_every_step.py",
    "hostile/test_hostile.py",
    "fleet/test_workers.py",
    "examples/test_ray_serve.py",
    "fleet/test_claims.py",
    "test_package.py",
    "export/test_without_torch.py",
    "evaluation/doctor/test_selftest.py",
)
"""Files that take 10 seconds or more; those that export different bundles are the first."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files go first: one that begins last keeps a single worker busy while the others have nothing to do."""
    places = {Path(__file__).parent / name: number for number, name in enumerate(LONG_FILES)}
    if gone := [str(path) for path in places if not path.exists()]:
        raise pytest.UsageError(f"LONG_FILES in tests/conftest.py names {', '.join(gone)}")
    items.sort(key=lambda item: places.get(item.path, len(places)))


class MadeOnce:
    """Keeps what takes long to make in a directory that all processes of a test run share."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, name: str, make: Callable[[Path], Any]) -> Any:
        """What `make` returned, in whichever process it ran: it writes into the directory it is given.

        Nobody changes these files afterwards, or links to them: readers of weights refuse files with several names.
        What is returned must survive pickling.
        """
        root, answer = self._root / name, self._root / f"{name}.pickle"
        self._root.mkdir(exist_ok=True)
        with FileLock(self._root / f"{name}.lock"):
            if not answer.exists():
                # Of a process that failed at it.
                shutil.rmtree(root, ignore_errors=True)
                root.mkdir()
                answer.write_bytes(pickle.dumps(make(root)))
        return pickle.loads(answer.read_bytes())  # noqa: S301 - written by these tests


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Takes a name and what makes it: exported bundles are made by the first worker that asks for them."""
    base = tmp_path_factory.getbasetemp()
    # Each worker of pytest-xdist has its own directory in that of the run.
    return MadeOnce((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once")


@pytest.fixture(scope="session")
def half_bundle(made_once: MadeOnce) -> Bundle:
    """All networks of GMOS at the tiny size in fp16, untrained, each through the gate. Left as it is by every test."""

    def make(root: Path) -> Path:
        from gmos_deploy.export.onnx.bundle_export import ExportConfig, export_bundle
        from gmos_deploy.gmos_ref.reference_config import ReferenceConfig

        reference = ReferenceConfig(variant="gmos", preset="tiny", device="cpu", precision="fp32")
        config = ExportConfig(out=root / "half", reference=reference, precision="fp16", head_precision="fp16")
        return export_bundle(config).root

    return open_bundle(made_once("half", make))


DISC_VIDEO_HW = (126, 224)


def smooth_noise(generator: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """A texture of blobs some eight pixels wide, (height, width, 3) in 0..255."""
    coarse = generator.uniform(40, 215, (height // 8 + 2, width // 8 + 2, 3))
    rows, columns = np.arange(height) / 8, np.arange(width) / 8
    top, left = rows.astype(int), columns.astype(int)
    a, b = (rows - top)[:, None, None], (columns - left)[None, :, None]
    upper = coarse[np.ix_(top, left)] * (1 - b) + coarse[np.ix_(top, left + 1)] * b
    lower = coarse[np.ix_(top + 1, left)] * (1 - b) + coarse[np.ix_(top + 1, left + 1)] * b
    return upper * (1 - a) + lower * a


def _moving_disc() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A textured disc that crosses a textured ground at 3 px per frame, beside one at rest; its masks."""
    generator = np.random.default_rng(4)
    height, width = DISC_VIDEO_HW
    ground, skin = smooth_noise(generator, height, width), smooth_noise(generator, 64, 64) * [1.0, 0.5, 0.3]
    y, x = np.mgrid[:height, :width]
    frames, masks = [], []
    for t in range(7):
        frame = ground.copy()
        for cx, cy in ((175, 85), (70 + 3 * t, 55)):
            mask = (x - cx) ** 2 + (y - cy) ** 2 < 24**2
            frame[mask] = skin[(y - cy + 32)[mask], (x - cx + 32)[mask]]
        frames.append(frame.astype(np.uint8))
        masks.append(mask)
    return np.stack(frames), np.stack(masks)


@pytest.fixture(scope="session")
def moving_disc() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames (7, 126, 224, 3) in which a textured disc crosses a textured ground beside its twin, and its masks."""
    return _moving_disc()


class LongVideo:
    """A video of 300 frames in which every object is prompted on every tenth frame, as stage 2 may prompt it.

    Nothing but features and prompts is made up: frames read up to 36 memories and 45 pointers of an object.
    """

    frames, video_hw, start = 300, (64, 80), 150

    def __init__(self, objects: int) -> None:
        self.objects = objects

    def features(self, backend: Any) -> Any:
        """Features that change slowly, as a tracker of the backend reads them."""
        model, arrays = backend.model, backend.arrays
        grid, channels = model.sam2_image_px // 16, model.sam2_channels
        shapes = {
            "s0": (channels // 8, 4 * grid, 4 * grid),
            "s1": (channels // 4, 2 * grid, 2 * grid),
            "f": (channels, grid, grid),
        }

        def drawn(key: int) -> dict[str, NDArray[np.float32]]:
            draw = np.random.default_rng(key)
            return {name: draw.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}

        class Features:
            @cache  # noqa: B019 - they live as long as the test
            def get(self, frame: int) -> dict[str, Any]:
                low, high, share = drawn(frame // 30), drawn(frame // 30 + 1), np.float32(frame % 30 / 30)
                return {name: arrays.upload(low[name] * (1 - share) + high[name] * share) for name in shapes}

        return Features()

    def follow(self, tracker: Any) -> list[TrackerStep]:
        """Prompt every object, then track forward from the middle, and back from it."""
        rows, columns = np.mgrid[: self.video_hw[0], : self.video_hw[1]]
        for o in range(self.objects):
            for frame in range(o, self.frames, 10):
                row, column = 6 + 4 * o, (5 + 6 * o + frame // 8) % 64
                mask = (abs(rows - row) < 6) & (abs(columns - column) < 7)
                tracker.add_prompts(frame, [Prompt(object_id=o, mask=mask)])
        forward = list(tracker.propagate(self.start, unprompted=True))
        return [*forward, *tracker.propagate(self.start, reverse=True, unprompted=True)]


@pytest.fixture(scope="session")
def long_video() -> type[LongVideo]:
    """Takes the number of objects."""
    return LongVideo


@pytest.fixture(autouse=True)
def quiet_package_log() -> Iterator[None]:
    """Take away the log handlers that a command has set up: the stream they write to ends with its test."""
    yield
    package = logging.getLogger("gmos_deploy")
    package.handlers = []
    package.setLevel(logging.NOTSET)
