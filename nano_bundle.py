"""The model that comes with the package, as a bundle that is written once into the user's cache directory."""

from __future__ import annotations

import hashlib
import logging
import sys
from importlib.util import find_spec
from pathlib import Path

from . import __version__
from .errors import GmosError
from .gmos_ref.reference_config import FOLDER, NANO, PACKED_BUNDLES, nano_checkpoints
from .runtime.bundle.manifest import Bundle, open_bundle
from .runtime.bundle.packed_bundle import unpack_bundle
from .runtime.contract import Variant
from .runtime.files.checkpoint_identity import checkpoint_identity
from .runtime.files.user_folders import user_cache

logger = logging.getLogger(__name__)

CACHE_ADVICE = "set XDG_CACHE_HOME to a folder of yours"


def prefers_bundle() -> bool:
    """Whether ONNX Runtime is installed, which runs the bundle, or neither that nor PyTorch: it is the lighter one."""
    return find_spec("onnxruntime") is not None or find_spec("torch") is None


def cached_bundle(variant: Variant) -> Path:
    """Where the bundle of a variant is, or will be: another version, other weights or graphs have another place."""
    digest = hashlib.sha256(__version__.encode())
    for path in (*nano_checkpoints(variant).values(), PACKED_BUNDLES):
        digest.update(checkpoint_identity(path).encode())
    return _cache() / f"{NANO}-{variant}-{digest.hexdigest()[:16]}"


def _cache() -> Path:
    """The user's cache directory.

    Raises:
        GmosError: this user has none.
    """
    place = user_cache()
    if place is None:
        raise GmosError(f"this user has no home directory: {CACHE_ADVICE}")
    return place


def nano_bundle(variant: Variant) -> Bundle:
    """The bundle of a variant, written now if it is not there yet: a second, without PyTorch.

    Raises:
        GmosError: the package's files are damaged, or the cache directory cannot be written.
    """
    root = cached_bundle(variant)
    try:
        bundle = open_bundle(root)
        # Some 20 ms: a graph that was damaged since would be refused when it is opened, at every run.
        for file in bundle.files:
            bundle.files.verified(file)
    except GmosError as error:
        # Not there, or damaged: either way it is made again from the package's own files.
        logger.debug("no usable bundle in the cache: %s", error)
    else:
        return bundle
    logger.info("writing the nano model's bundle once into %s", root)
    try:
        return unpack_bundle(PACKED_BUNDLES, variant, FOLDER, root)
    except GmosError as error:
        if sys.platform == "win32" or not str(error).startswith("cannot write"):
            raise
        raise GmosError(f"{error}: {CACHE_ADVICE}") from error
