"""Which networks run, and on what: the registry of backends, the choice of networks, and how a side is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

from .errors import GmosError
from .runtime.contract import ModelSpec, Variant
from .runtime.precision import PRECISIONS, QUANTISED, PrecisionName

if TYPE_CHECKING:
    from .gmos_ref.reference_config import ReferenceConfig
    from .runtime.backend import Backend
    from .runtime.bundle.manifest import Bundle, Target
    from .runtime.bundle.signature import Trust
    from .runtime.files.made_from import MadeFrom
    from .runtime.tensorrt.library import Flavour

logger = logging.getLogger(__name__)

AUTO: Final = "auto"

PrecisionChoice = Literal["auto"] | PrecisionName
VARIANTS: tuple[Variant, ...] = get_args(Variant)

CHECKPOINTS = ("pi3_ckpt", "sam2_ckpt", "gmos_ckpt", "gmos_s_ckpt")

BY_DEFAULT = (
    "neither checkpoints nor a bundle were given: using nano, the small model that comes with gmos-deploy"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendEntry:
    """A backend as it is registered.

    Attributes:
        name: as in --backend and in a side, `NAME:VALUE`.
        open: loads the networks of a choice, and of its bundle if it runs one. Imports of libraries belong
            into it: the registry is read by `--help`.
        runs: what it needs. `bundle` gets one that has been read and checked.
        graph: the graphs of a bundle that it runs; None for checkpoints.
        packages: what it needs beside the package itself, in words.
        install: the command that installs them, named when an import fails.
        options: fields of `NetworkChoice` that it takes and others do not.
        settle: refuses what can be known before anything is loaded, and decides what the choice left open.
        check: refuses what its library and the device say in a moment, for who does long work before it loads.
    """

    name: str
    open: Callable[[NetworkChoice, Bundle | None], Backend]
    runs: Literal["checkpoints", "bundle"]
    graph: Target | None = None
    packages: str = ""
    install: str = ""
    options: frozenset[str] = frozenset()
    settle: Callable[[NetworkChoice, Bundle], NetworkChoice] | None = None
    check: Callable[[NetworkChoice, Bundle | None], None] | None = None


BACKENDS: dict[str, BackendEntry] = {}
"""By name, in the order of registration; `register_backend` adds to it."""


def register_backend(entry: BackendEntry) -> None:
    """Make a backend known to `gmos-run`, the sides of gmos-parity and gmos-profile, and whatever loads networks.

    Raises:
        GmosError: there is one of that name.
    """
    if entry.name in BACKENDS or entry.name in (AUTO, "masks"):
        raise GmosError(f"backend {entry.name}: the name is taken; register it under another one")
    BACKENDS[entry.name] = entry


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSource:
    """Networks that are known and checked, but not loaded yet.

    `choice` names the backend that was decided on, `notes` are said once everything is loaded.
    """

    choice: NetworkChoice
    model: ModelSpec
    identity: Callable[[], Mapping[str, Any]] = field(repr=False)
    """What tells these networks from others, as JSON values."""
    bundle: Callable[[], Bundle | None] = field(repr=False)
    made_from: Callable[[], MadeFrom] = field(repr=False)
    """Bundle and checkpoints with their hashes, for reports and records: a large checkpoint is read once for it."""
    notes: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """What decides whether two results are the same, as JSON values.

        Raises:
            GmosError: a checkpoint cannot be read.
        """
        own = {"backend": self.choice.backend, **self.identity(), "device": self.choice.device}
        if BACKENDS[self.choice.backend].runs == "checkpoints":
            own["precision"] = self.choice.precision
        if self.model.frame_blocks:
            own |= {"local_layers": self.model.local_layers, "frame_blocks": self.model.frame_blocks}
        return own

    def load(self) -> Backend:
        """Load them; seconds to minutes.

        Raises:
            GmosError: packages are missing, or the files or the device turn out to be unusable.
        """
        entry = BACKENDS[self.choice.backend]
        bundle = self.bundle()
        with self._importing(entry):
            backend = entry.open(self.choice, bundle)
        for note in self.notes:
            logger.info("%s", note)
        if hasattr(backend, "warnings"):
            for line in backend.warnings():
                logger.warning("%s", line)
        return backend

    def check(self) -> None:
        """Refuse what loading would, as far as a moment shows it: packages, the device, engines that may not run.

        Raises:
            GmosError: as `load`.
        """
        entry = BACKENDS[self.choice.backend]
        if entry.check is not None:
            with self._importing(entry):
                entry.check(self.choice, self.bundle())

    @staticmethod
    @contextmanager
    def _importing(entry: BackendEntry) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise GmosError(
                f"--backend {entry.name} needs {entry.packages or 'a package that is missing'} ({error})"
                + (f"; install them with {entry.install}" if entry.install else "")
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkChoice:
    """The options that choose networks and how they run; fields as `gmos-run`'s options, budgets in bytes.

    `threads` of the CPU, 0 for one per physical core. `memory_share` is this process's part of the device, above 0 and
    up to 1, where several run side by side: engines keep within it as within a `memory_budget`. `local_layers` and
    `share_block` change networks from checkpoints (`gmos_ref.presets.with_frame_blocks`); a bundle has its own.

    Raises:
        GmosError: a backend, variant or precision that does not exist.
    """

    variant: Variant | None = None
    preset: str | None = None
    bundle: Path | None = None
    pi3_ckpt: Path | None = None
    sam2_ckpt: Path | None = None
    gmos_ckpt: Path | None = None
    gmos_s_ckpt: Path | None = None
    backend: str = AUTO
    device: str = AUTO
    precision: PrecisionChoice = AUTO
    build: bool = False
    memory_budget: int | None = None
    cuda_graphs: bool = True
    threads: int = 0
    memory_share: float = 1.0
    trust: tuple[Path, ...] = ()
    trust_engines: bool = False
    local_layers: int = 0
    share_block: bool = False

    def __post_init__(self) -> None:
        known = {
            "variant": (None, *VARIANTS),
            "backend": (AUTO, *BACKENDS),
            "precision": (AUTO, *PRECISIONS),
        }
        if self.threads < 0:
            raise GmosError(f"--threads {self.threads}: expected 1 or more, or 0 for one per physical core")
        for name, values in known.items():
            if getattr(self, name) not in values:
                expected = ", ".join(value for value in values if value is not None)
                raise GmosError(f"--{name} {getattr(self, name)}: expected one of {expected}")

    def resolve(self) -> NetworkSource:
        """The source that the options describe, checked as far as possible without loading.

        Raises:
            GmosError: options that contradict each other, missing checkpoints, an unusable bundle, missing
                engines.
        """
        if self.precision in QUANTISED and self.bundle is None:
            raise GmosError(
                f"--precision {self.precision} is that of a calibrated bundle; make one with gmos-export calibrate "
                f"--precision {self.precision}, and give it with --bundle"
            )
        self._refuse_options_of_others()
        if self._is_nano_bundle():
            return self._nano_source()
        if self.backend == AUTO and self.bundle is None:
            reference = replace(self, backend="torch")
            return reference._checkpoint_source("backend auto: torch, no --bundle was given")
        if self.backend != AUTO and BACKENDS[self.backend].runs == "checkpoints":
            return self._checkpoint_source()
        return self._bundle_source(self._read())

    def trusted(self) -> Trust:
        """Whom the user trusts with what runs."""
        from .runtime.bundle.signature import Trust  # noqa: PLC0415 - only bundle runs need it

        return Trust(keys=self.trust, engines=self.trust_engines)

    def reference(self) -> ReferenceConfig:
        """The checkpoints, or the preset that goes without.

        Raises:
            GmosError: a bundle was given as well, or not all checkpoints.
        """
        # The reference's own package: a device that runs bundles never gets here.
        from .gmos_ref.reference_config import ReferenceConfig  # noqa: PLC0415

        if self.bundle is not None:
            raise GmosError(
                f"--bundle {self.bundle}: --backend {self.backend} runs checkpoints; use --backend onnxruntime"
            )
        if self.variant is None and self.gmos_ckpt is not None and self.gmos_s_ckpt is not None:
            raise GmosError(
                "both --gmos_ckpt and --gmos_s_ckpt were given; expected one of them, or --variant gmos or gmos-s"
            )
        return ReferenceConfig(
            variant=self.variant or ("gmos-s" if self.gmos_s_ckpt is not None else "gmos"),
            preset=self.preset or ("nano" if self._names_nothing() else "published"),
            **self._checkpoints(),
            device=self.device,
            precision=self.precision,
            local_layers=self.local_layers,
            share_block=self.share_block,
        )

    def _checkpoints(self) -> dict[str, Path | None]:
        return {name: getattr(self, name) for name in CHECKPOINTS}

    def _blocks_asked(self) -> str:
        return (
            f"--local_layers {self.local_layers}" if self.local_layers else "--share_block" * self.share_block
        )

    def _names_nothing(self) -> bool:
        """Whether neither checkpoints nor a bundle were given."""
        return self.bundle is None and not any(self._checkpoints().values())

    def _refuse_options_of_others(self) -> None:
        taken = BACKENDS[self.backend].options if self.backend != AUTO else frozenset()
        given = {
            "build": ("--build", self.build),
            "memory_budget": ("--memory_budget", self.memory_budget is not None),
            "cuda_graphs": ("--no_cuda_graphs", not self.cuda_graphs),
        }
        if self.bundle is None and (self.trust or self.trust_engines):
            spelling = "--trust" if self.trust else "--trust_engines"
            raise GmosError(f"{spelling} goes with --bundle, which was not given")
        for name, (spelling, is_given) in given.items():
            if is_given and name not in taken:
                takers = " or ".join(entry.name for entry in BACKENDS.values() if name in entry.options)
                raise GmosError(f"{spelling} goes with --backend {takers}, and the backend is {self.backend}")

    def _is_nano_bundle(self) -> bool:
        """Whether this is the nano model on ONNX Runtime: that is asked for, or installed and nothing is."""
        if not (
            self._names_nothing()
            and self.preset in (None, "nano")
            and self.backend in (AUTO, "onnxruntime")
            and self.precision in (AUTO, "fp32")
            and not self._blocks_asked()
        ):
            return False
        from .nano_bundle import prefers_bundle  # noqa: PLC0415 - only nano runs need it

        return self.backend == "onnxruntime" or prefers_bundle()

    def _nano_source(self) -> NetworkSource:
        from .nano_bundle import nano_bundle  # noqa: PLC0415 - see _is_nano_bundle

        reference = replace(self, backend="torch")._checkpoint_source()
        opened = cache(partial(nano_bundle, reference.model.variant))
        return replace(
            reference,
            choice=replace(self, backend="onnxruntime"),
            bundle=opened,
            made_from=lambda: opened().made_from(),
        )

    def _checkpoint_source(self, *notes: str) -> NetworkSource:
        from .gmos_ref.presets import model_spec  # noqa: PLC0415 - see reference
        from .runtime.files.checkpoint_identity import checkpoint_identity, kept_sha256  # noqa: PLC0415
        from .runtime.files.made_from import joined, of_checkpoint  # noqa: PLC0415

        if self._blocks_asked() and "local_layers" not in BACKENDS[self.backend].options:
            raise GmosError(f"{self._blocks_asked()} goes with --backend torch, not with {self.backend}")
        config = self.reference()
        given = {name: path for name, path in config.checkpoints().items() if path is not None}
        hashed = cache(kept_sha256)

        def identity() -> dict[str, Any]:
            return {
                "preset": config.preset,
                "checkpoints": {
                    name: checkpoint_identity(path, hashed=hashed) for name, path in given.items()
                },
            }

        def made_from() -> MadeFrom:
            known = config.weights()
            return joined(
                of_checkpoint(
                    name, path, licence=known[name].licence, source=known[name].source, hashed=hashed
                )
                for name, path in given.items()
            )

        by_default = self.preset is None and self._names_nothing()
        return NetworkSource(
            choice=self,
            model=model_spec(config.sizes, config.variant),
            identity=identity,
            bundle=lambda: None,
            made_from=made_from,
            notes=(BY_DEFAULT, *notes) if by_default else notes,
        )

    def _bundle_source(self, bundle: Bundle) -> NetworkSource:
        """A bundle on the backend that was named; else on engines where they fit the machine, or ONNX Runtime."""
        choice, notes = self, tuple[str, ...]()
        if self.backend == AUTO:
            # Only runs that engines may take need these.
            from .runtime.tensorrt.backend import device_index  # noqa: PLC0415
            from .runtime.tensorrt.choice import usable_flavour  # noqa: PLC0415

            flavour, reason = None, f"which runs on --device {self.device}"
            if self.device.startswith((AUTO, "cuda")):
                flavour, reason = usable_flavour(bundle, device_index(self.device, "tensorrt"))
            choice = replace(self, backend=flavour or "onnxruntime")
            notes = (f"backend auto: {choice.backend}, {reason}",)
        settle = BACKENDS[choice.backend].settle
        return NetworkSource(
            choice=choice if settle is None else settle(choice, bundle),
            model=bundle.model,
            identity=lambda: {"bundle": bundle.identity},
            bundle=lambda: bundle,
            made_from=bundle.made_from,
            notes=notes,
        )

    def _read(self) -> Bundle:
        """The bundle, checked against the other options."""
        from .runtime.bundle.manifest import open_bundle  # noqa: PLC0415 - only bundle runs need it

        if self.bundle is None:
            raise GmosError(
                f"--backend {self.backend} runs a bundle; give --bundle DIR, made by gmos-export onnx"
            )
        for name, value in {"preset": self.preset, **self._checkpoints()}.items():
            if value is not None:
                raise GmosError(f"--{name} {value}: the networks come from --bundle {self.bundle}; give one")
        bundle = open_bundle(self.bundle, self.trusted())
        if self.variant not in (None, bundle.model.variant):
            raise GmosError(
                f"--variant {self.variant}: {self.bundle} holds {bundle.model.variant}; export that variant, "
                "or leave the option out"
            )
        found = bundle.model
        if self.local_layers not in (0, found.local_layers) or (self.share_block and not found.frame_blocks):
            raise GmosError(f"{self._blocks_asked()}: {self.bundle} has {found.local_layers}; export one")
        if self.precision not in (AUTO, bundle.precision):
            raise GmosError(
                f"--precision {self.precision}: {self.bundle} was exported in {bundle.precision}, and a bundle's "
                f"precision is in its graphs; make another one with gmos-export {PRECISIONS[self.precision].maker} "
                f"--precision {self.precision}"
            )
        return bundle


def _open_reference(choice: NetworkChoice, _: Bundle | None) -> Backend:
    from .gmos_ref.loading import load_reference, use_threads  # noqa: PLC0415 - PyTorch takes seconds to import

    if choice.threads:
        use_threads(choice.threads)
    return load_reference(choice.reference())


def _check_reference(choice: NetworkChoice, _: Bundle | None) -> None:
    import sam2  # noqa: F401, PLC0415 - as above, and a package of its own

    from .gmos_ref.loading import choose_device, choose_precision  # noqa: PLC0415

    choose_precision(choice.precision, choose_device(choice.device))


def _check_onnxruntime(choice: NetworkChoice, _: Bundle | None) -> None:
    from .runtime.onnx.sessions import choose_device, load_onnxruntime  # noqa: PLC0415 - imports ONNX Runtime

    choose_device(choice.device, load_onnxruntime())


def _open_on_onnxruntime(choice: NetworkChoice, bundle: Bundle | None) -> Backend:
    from .runtime.onnx.backend import open_bundle_backend  # noqa: PLC0415 - imports ONNX Runtime
    from .runtime.onnx.sessions import SessionOptions  # noqa: PLC0415 - the same

    options = SessionOptions(threads=choice.threads)
    return open_bundle_backend(cast("Bundle", bundle), device=choice.device, options=options)


def _settle_engines(choice: NetworkChoice, bundle: Bundle) -> NetworkChoice:
    # Only runs on engines need these, and they import SciPy.
    from .runtime.tensorrt.backend import device_index  # noqa: PLC0415
    from .runtime.tensorrt.choice import require_engines  # noqa: PLC0415

    flavour = cast("Flavour", choice.backend)
    if not choice.build:
        require_engines(bundle, flavour)
    return replace(choice, device=f"cuda:{device_index(choice.device, flavour)}")


def _check_engines(choice: NetworkChoice, bundle: Bundle | None) -> None:
    from .runtime.tensorrt.backend import device_index  # noqa: PLC0415 - as above
    from .runtime.tensorrt.choice import engine_obstacle  # noqa: PLC0415

    flavour = cast("Flavour", choice.backend)
    index = device_index(choice.device, flavour)
    obstacle = None if choice.build else engine_obstacle(cast("Bundle", bundle), flavour, index)
    if obstacle is not None:
        raise GmosError(obstacle)


def _open_engines(choice: NetworkChoice, bundle: Bundle | None) -> Backend:
    from .runtime.tensorrt.backend import device_index, open_engine_backend  # noqa: PLC0415 - as above
    from .runtime.tensorrt.runner import EngineOptions  # noqa: PLC0415

    opened, flavour = cast("Bundle", bundle), cast("Flavour", choice.backend)
    if choice.build:
        # The builder's own package: a device that only runs engines never gets here.
        from .export.engines.build import build_engines  # noqa: PLC0415

        index = device_index(choice.device, flavour)
        build_engines(opened.root, flavour, device=index, trust=opened.trust)
    options = EngineOptions(
        memory_budget=choice.memory_budget, memory_share=choice.memory_share, cuda_graphs=choice.cuda_graphs
    )
    return open_engine_backend(opened, flavour, device=choice.device, options=options)


for _entry in (
    BackendEntry(
        name="torch",
        open=_open_reference,
        check=_check_reference,
        runs="checkpoints",
        packages="PyTorch, SAM2 and safetensors",
        install="pip install 'gmos-deploy[ref]'",
        options=frozenset({"local_layers", "share_block"}),
    ),
    BackendEntry(
        name="onnxruntime",
        open=_open_on_onnxruntime,
        check=_check_onnxruntime,
        runs="bundle",
        graph="onnxruntime",
        packages="ONNX Runtime",
        install="pip install 'gmos-deploy[cpu]'",
    ),
    *(
        BackendEntry(
            name=_flavour,
            open=_open_engines,
            runs="bundle",
            graph="standard",
            packages=_packages,
            install=f"pip install 'gmos-deploy[{_extra}]'",
            options=frozenset({"build", "memory_budget", "cuda_graphs"}),
            settle=_settle_engines,
            check=_check_engines,
        )
        for _flavour, _packages, _extra in (
            ("tensorrt", "TensorRT and cuda-bindings", "gpu"),
            ("tensorrt-rtx", "TensorRT-RTX and cuda-bindings", "rtx"),
        )
    ),
):
    register_backend(_entry)
