"""The model that comes with the package, as a bundle that is exported once into the user's cache directory."""

from __future__ import annotations

import hashlib
import logging
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_path

from . import __version__
from .errors import GmosError
from .gmos_ref.reference_config import NANO, nano_checkpoints
from .runtime.bundle.manifest import MANIFEST, Bundle, open_bundle
from .runtime.checkpoint_identity import checkpoint_identity
from .runtime.contract import Variant

logger = logging.getLogger(__name__)

EXPORTER = ("torch", "sam2", "onnx", "onnxscript", "onnxruntime")
"""Modules that an export needs; the extra `export` installs them."""


def can_export() -> bool:
    """Whether everything that an export needs is installed; imports none of it."""
    return all(find_spec(name) is not None for name in EXPORTER)


def prefers_bundle(variant: Variant) -> bool:
    """Whether ONNX Runtime is installed and the bundle is there or can be made."""
    if find_spec("onnxruntime") is None:
        return False
    return can_export() or (cached_bundle(variant) / MANIFEST).is_file()


def cached_bundle(variant: Variant) -> Path:
    """Where the bundle of a variant is, or will be: another version or other weights have another place."""
    digest = hashlib.sha256(__version__.encode())
    for path in nano_checkpoints(variant).values():
        digest.update(checkpoint_identity(path).encode())
    return user_cache_path("gmos-deploy") / f"{NANO}-{variant}-{digest.hexdigest()[:16]}"


def nano_bundle(variant: Variant) -> Bundle:
    """The bundle of a variant, exported now if it is not there yet: about a minute on a laptop.

    Raises:
        GmosError: it must be exported and what that needs is not installed, or the cache directory
            cannot be written.
    """
    root = cached_bundle(variant)
    try:
        return open_bundle(root)
    except GmosError as error:
        # Not there, or damaged: either way it is made again from the package's own weights.
        logger.debug("no usable bundle in the cache: %s", error)
    if not can_export():
        raise GmosError(
            "the nano model must be exported once, which needs PyTorch and ONNX: pip install "
            "'gmos-deploy[export]', or give --bundle DIR with a bundle exported elsewhere"
        )
    from .export.onnx.bundle_export import ExportConfig, export_bundle  # noqa: PLC0415 - imports PyTorch
    from .gmos_ref.reference_config import ReferenceConfig  # noqa: PLC0415

    logger.info("exporting the nano model once into %s, about a minute", root)
    reference = ReferenceConfig(variant=variant, preset=NANO, device="cpu", precision="fp32")
    return export_bundle(ExportConfig(out=root, reference=reference, force=True))
