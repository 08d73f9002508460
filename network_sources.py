"""Where the networks of a run come from: checkpoints for the reference, a bundle, or its engines."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from .errors import GmosError
from .runtime.backend import Backend
from .runtime.checkpoint_identity import checkpoint_identity
from .runtime.contract import ModelSpec, Variant
from .runtime.precision import PRECISIONS, QUANTISED, PrecisionName

if TYPE_CHECKING:
    from .gmos_ref.reference_config import ReferenceConfig
    from .runtime.bundle.manifest import Bundle
    from .runtime.tensorrt.library import Flavour
    from .runtime.tensorrt.runner import EngineOptions

logger = logging.getLogger(__name__)

BackendName = Literal["auto", "torch", "onnxruntime", "tensorrt", "tensorrt-rtx"]

ENGINE_BACKENDS = ("tensorrt", "tensorrt-rtx")


class NetworkSource(Protocol):
    """Networks that are known and checked, but not loaded yet."""

    @property
    def model(self) -> ModelSpec:
        """Their sizes."""
        ...

    def settings(self) -> dict[str, Any]:
        """What decides whether two results are the same, as JSON values."""
        ...

    def load(self) -> Backend:
        """Load them; seconds to minutes.

        Raises:
            GmosError: the files or the device turn out to be unusable.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRequest:
    """The options that choose networks and how they run; fields as `gmos-run`'s options, budgets in bytes."""

    variant: Variant | None = None
    preset: str | None = None
    bundle: Path | None = None
    pi3_ckpt: Path | None = None
    sam2_ckpt: Path | None = None
    gmos_ckpt: Path | None = None
    gmos_s_ckpt: Path | None = None
    backend: BackendName = "auto"
    device: str = "auto"
    precision: Literal["auto"] | PrecisionName = "auto"

    build: bool = False
    memory_budget: int | None = None
    cuda_graphs: bool = True

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
        if self.backend in ENGINE_BACKENDS:
            return self._engine_source(self._open_bundle(), cast("Flavour", self.backend), reason=None)
        self._refuse_engine_options()
        if self._asks_for_nano() and self.backend != "torch" and self.precision in ("auto", "fp32"):
            return self._nano_source()
        if self.backend == "torch" or (self.backend == "auto" and self.bundle is None):
            return self._reference_source()
        bundle = self._open_bundle()
        return self._chosen_source(bundle) if self.backend == "auto" else self._bundle_source(bundle, None)

    def _refuse_engine_options(self) -> None:
        given = {
            "--build": self.build,
            "--memory_budget": self.memory_budget is not None,
            "--no_cuda_graphs": not self.cuda_graphs,
        }
        for name, is_given in given.items():
            if is_given:
                raise GmosError(
                    f"{name} goes with --backend tensorrt or tensorrt-rtx, and the backend is {self.backend}"
                )

    def _names_nothing(self) -> bool:
        """Whether neither checkpoints nor a bundle were given."""
        checkpoints = (self.pi3_ckpt, self.sam2_ckpt, self.gmos_ckpt, self.gmos_s_ckpt)
        return self.bundle is None and not any(checkpoints)

    def _asks_for_nano(self) -> bool:
        return self._names_nothing() and self.preset in (None, "nano")

    def _nano_source(self) -> NetworkSource:
        """The nano model on ONNX Runtime if that is installed or was asked for, else on the reference."""
        from .nano_source import NanoSource, prefers_bundle  # noqa: PLC0415 - only nano runs need it

        if self.backend == "onnxruntime" or prefers_bundle(self.variant or "gmos"):
            return NanoSource(variant=self.variant or "gmos", device=self.device, chosen=self.preset is None)
        return self._reference_source()

    def _reference_source(self) -> ReferenceSource:
        # The reference's own package: a device that runs bundles never gets here.
        from .gmos_ref.reference_config import ReferenceConfig  # noqa: PLC0415

        if self.bundle is not None:
            raise GmosError(
                f"--bundle {self.bundle}: --backend torch runs checkpoints; use --backend onnxruntime"
            )
        if self.variant is None and self.gmos_ckpt is not None and self.gmos_s_ckpt is not None:
            raise GmosError(
                "both --gmos_ckpt and --gmos_s_ckpt were given; expected one of them, or --variant gmos or gmos-s"
            )
        return ReferenceSource(
            config=ReferenceConfig(
                variant=self.variant or ("gmos-s" if self.gmos_s_ckpt is not None else "gmos"),
                preset=self.preset or ("nano" if self._names_nothing() else "published"),
                pi3_ckpt=self.pi3_ckpt,
                sam2_ckpt=self.sam2_ckpt,
                gmos_ckpt=self.gmos_ckpt,
                gmos_s_ckpt=self.gmos_s_ckpt,
                device=self.device,
                precision=self.precision,
            ),
            chosen=self.backend == "auto",
            by_default=self.preset is None and self._names_nothing(),
        )

    def _chosen_source(self, bundle: Bundle) -> NetworkSource:
        """Engines where they fit the machine, else ONNX Runtime."""
        from .runtime.tensorrt.backend import device_index  # noqa: PLC0415 - see _engine_source
        from .runtime.tensorrt.choice import usable_flavour  # noqa: PLC0415

        if not self.device.startswith(("auto", "cuda")):
            return self._bundle_source(bundle, f"onnxruntime, which runs on --device {self.device}")
        flavour, reason = usable_flavour(bundle, device_index(self.device, "tensorrt"))
        if flavour is None:
            return self._bundle_source(bundle, f"onnxruntime, {reason}")
        return self._engine_source(bundle, flavour, reason=f"{flavour}, {reason}")

    def _bundle_source(self, bundle: Bundle, reason: str | None) -> BundleSource:
        return BundleSource(bundle=bundle, device=self.device, reason=reason)

    def _engine_source(self, bundle: Bundle, flavour: Flavour, *, reason: str | None) -> EngineSource:
        # Only runs on engines need these, and they import SciPy.
        from .runtime.tensorrt.backend import device_index  # noqa: PLC0415
        from .runtime.tensorrt.choice import require_engines  # noqa: PLC0415
        from .runtime.tensorrt.runner import EngineOptions  # noqa: PLC0415

        if not self.build:
            require_engines(bundle, flavour)
        return EngineSource(
            bundle=bundle,
            flavour=flavour,
            index=device_index(self.device, flavour),
            options=EngineOptions(memory_budget=self.memory_budget, cuda_graphs=self.cuda_graphs),
            build=self.build,
            reason=reason,
        )

    def _open_bundle(self) -> Bundle:
        from .runtime.bundle.manifest import open_bundle  # noqa: PLC0415 - only bundle runs need it

        if self.bundle is None:
            raise GmosError(
                f"--backend {self.backend} runs a bundle; give --bundle DIR, made by gmos-export onnx"
            )
        for name in ("preset", "pi3_ckpt", "sam2_ckpt", "gmos_ckpt", "gmos_s_ckpt"):
            if getattr(self, name) is not None:
                raise GmosError(
                    f"--{name} {getattr(self, name)}: the networks come from --bundle {self.bundle}; give one"
                )
        bundle = open_bundle(self.bundle)
        if self.variant not in (None, bundle.model.variant):
            raise GmosError(
                f"--variant {self.variant}: {self.bundle} holds {bundle.model.variant}; export that variant, "
                "or leave the option out"
            )
        if self.precision not in ("auto", bundle.precision):
            raise GmosError(
                f"--precision {self.precision}: {self.bundle} was exported in {bundle.precision}, and a bundle's "
                f"precision is in its graphs; make another one with gmos-export {PRECISIONS[self.precision].maker} "
                f"--precision {self.precision}"
            )
        return bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSource:
    """The PyTorch reference."""

    config: ReferenceConfig
    chosen: bool
    """Whether `auto` led here, which is said once everything is loaded."""
    by_default: bool = False
    """Whether the nano model runs because nothing else was named, which is said too."""

    @property
    def model(self) -> ModelSpec:
        """See `NetworkSource`."""
        from .gmos_ref.presets import model_spec, preset  # noqa: PLC0415 - see _reference_source

        return model_spec(preset(self.config.preset), self.config.variant)

    def settings(self) -> dict[str, Any]:
        """See `NetworkSource`."""
        checkpoints = self.config.checkpoints().items()
        return {
            "backend": "torch",
            "preset": self.config.preset,
            "checkpoints": {
                name: checkpoint_identity(path) for name, path in checkpoints if path is not None
            },
            "device": self.config.device,
            "precision": self.config.precision,
        }

    def load(self) -> Backend:
        """See `NetworkSource`."""
        try:
            from .gmos_ref.loading import load_reference  # noqa: PLC0415 - PyTorch takes seconds to import
        except ImportError as error:
            raise GmosError(
                f"--backend torch needs PyTorch, SAM2 and safetensors ({error}); install them with "
                "pip install 'gmos-deploy[ref]'"
            ) from error
        backend = load_reference(self.config)
        if self.by_default:
            from .nano_source import BY_DEFAULT  # noqa: PLC0415 - only nano runs need it

            logger.info(BY_DEFAULT)
        if self.chosen:
            logger.info("backend auto: torch, no --bundle was given")
        return backend


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSource:
    """An exported bundle on ONNX Runtime."""

    bundle: Bundle = field(repr=False)
    device: str
    reason: str | None
    """Why `auto` led here, which is said once everything is loaded; None: it was asked for."""

    @property
    def model(self) -> ModelSpec:
        """See `NetworkSource`."""
        return self.bundle.model

    def settings(self) -> dict[str, Any]:
        """See `NetworkSource`."""
        return {"backend": "onnxruntime", "bundle": self.bundle.identity, "device": self.device}

    def load(self) -> Backend:
        """See `NetworkSource`."""
        from .runtime.onnx.backend import open_bundle_backend  # noqa: PLC0415 - imports ONNX Runtime

        backend = open_bundle_backend(self.bundle.root, device=self.device)
        if self.reason is not None:
            logger.info("backend auto: %s", self.reason)
        return backend


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSource:
    """The engines of a bundle, built first if that was asked for."""

    bundle: Bundle = field(repr=False)
    flavour: Flavour
    index: int
    options: EngineOptions
    build: bool
    reason: str | None
    """As `BundleSource.reason`."""

    @property
    def model(self) -> ModelSpec:
        """See `NetworkSource`."""
        return self.bundle.model

    def settings(self) -> dict[str, Any]:
        """See `NetworkSource`."""
        return {"backend": self.flavour, "bundle": self.bundle.identity, "device": f"cuda:{self.index}"}

    def load(self) -> Backend:
        """See `NetworkSource`."""
        from .runtime.tensorrt.backend import open_engine_backend  # noqa: PLC0415 - see _engine_source

        if self.build:
            # The builder's own package: a device that only runs engines never gets here.
            from .export.engines.build import build_engines  # noqa: PLC0415

            build_engines(self.bundle.root, self.flavour, device=self.index)
        backend = open_engine_backend(
            self.bundle.root, self.flavour, device=f"cuda:{self.index}", options=self.options
        )
        if self.reason is not None:
            logger.info("backend auto: %s", self.reason)
        for line in backend.warnings():
            logger.warning("%s", line)
        return backend
