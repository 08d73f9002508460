"""Where the networks of a run come from: checkpoints for the reference, or an exported bundle."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .errors import GmosError
from .runtime.backend import Backend
from .runtime.checkpoint_identity import checkpoint_identity
from .runtime.contract import ModelSpec, Variant

if TYPE_CHECKING:
    from .gmos_ref.reference_config import ReferenceConfig
    from .runtime.bundle import Bundle

logger = logging.getLogger(__name__)

BackendName = Literal["auto", "torch", "onnxruntime"]


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
    """The options that choose networks and how they run; fields as `gmos-run`'s options."""

    variant: Variant | None = None
    preset: str | None = None
    bundle: Path | None = None
    pi3_ckpt: Path | None = None
    sam2_ckpt: Path | None = None
    gmos_ckpt: Path | None = None
    gmos_s_ckpt: Path | None = None
    backend: BackendName = "auto"
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"

    def resolve(self) -> NetworkSource:
        """The source that the options describe, checked as far as possible without loading.

        Raises:
            GmosError: options that contradict each other, missing checkpoints, an unusable bundle.
        """
        bundled = self.backend == "onnxruntime" or (self.backend == "auto" and self.bundle is not None)
        return self._bundle_source() if bundled else self._reference_source()

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
                preset=self.preset or "published",
                pi3_ckpt=self.pi3_ckpt,
                sam2_ckpt=self.sam2_ckpt,
                gmos_ckpt=self.gmos_ckpt,
                gmos_s_ckpt=self.gmos_s_ckpt,
                device=self.device,
                precision=self.precision,
            ),
            chosen=self.backend == "auto",
        )

    def _bundle_source(self) -> BundleSource:
        from .runtime.bundle import open_bundle  # noqa: PLC0415 - only bundle runs need it

        if self.bundle is None:
            raise GmosError(
                "--backend onnxruntime runs a bundle; give --bundle DIR, made by gmos-export onnx"
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
                f"precision is in its graphs; export another one with gmos-export onnx --precision {self.precision}"
            )
        return BundleSource(bundle=bundle, device=self.device, chosen=self.backend == "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSource:
    """The PyTorch reference."""

    config: ReferenceConfig
    chosen: bool
    """Whether `auto` led here, which is said once everything is loaded."""

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
        if self.chosen:
            logger.info("backend auto: torch, no --bundle was given")
        return backend


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSource:
    """An exported bundle on ONNX Runtime."""

    bundle: Bundle = field(repr=False)
    device: str
    chosen: bool
    """Whether `auto` led here, which is said once everything is loaded."""

    @property
    def model(self) -> ModelSpec:
        """See `NetworkSource`."""
        return self.bundle.model

    def settings(self) -> dict[str, Any]:
        """See `NetworkSource`."""
        return {"backend": "onnxruntime", "bundle": self.bundle.identity, "device": self.device}

    def load(self) -> Backend:
        """See `NetworkSource`."""
        from .runtime.onnx_backend import open_bundle_backend  # noqa: PLC0415 - imports ONNX Runtime

        backend = open_bundle_backend(self.bundle.root, device=self.device)
        if self.chosen:
            logger.info("backend auto: onnxruntime, a --bundle was given")
        return backend
