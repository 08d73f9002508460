"""From the reference to a bundle: every network, the tables, `bundle.json`."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...errors import GmosError
from ...gmos_ref.checkpoints.stand_in import stand_in_networks
from ...gmos_ref.loading import checkpoint_networks
from ...gmos_ref.networks import ReferenceNetworks
from ...gmos_ref.pi3.encoder import Pi3Encoder
from ...gmos_ref.presets import model_spec
from ...gmos_ref.reference_config import NON_COMMERCIAL, NOT_STATED, ReferenceConfig, Weights
from ...runtime.bundle.check_inputs import write_check_inputs
from ...runtime.bundle.manifest import TABLES_FILE, Bundle, BundleNetwork, Manifest, Rotation, open_bundle
from ...runtime.bundle.new_bundle import beside, new_bundle, writing_alone
from ...runtime.bundle.tables import Pi3TableSource
from ...runtime.contract import ModelSpec, NetworkName, network_specs
from ...runtime.files.checkpoint_identity import checkpoint_sha256
from ...runtime.precision import PRECISIONS, PrecisionName
from .bundle_directory import check_place, write_manifest
from .exported_network import NetworkExporter, Plan
from .network_modules import WEIGHTS_OF
from .recorded_inputs import own_errors, record_inputs
from .shape_profiles import Resolution, choose_resolutions, shape_profiles

logger = logging.getLogger(__name__)

OPSETS = (20, 23)

FAILED = "failed"
"""Ending of the directory beside a bundle's that holds what a failed validation leaves."""

PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime", "rf-sam-2", "numpy")
"""Distributions whose versions decide what an export looks like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What to export, and where to.

    `resolution` and `aspect` name the Pi3 resolutions that engines are built for; any other runs on
    ONNX Runtime as well. `max_batch` is the largest batch of windows of an engine. `recorded` says whether
    inputs are recorded that engines are compared on. `weights_licence` states licences of own weights, `PART=ID` each.
    """

    out: Path
    reference: ReferenceConfig
    precision: PrecisionName = "fp32"
    head_precision: PrecisionName = "fp32"
    opset: int = 20
    resolution: tuple[str, ...] = ()
    aspect: tuple[str, ...] = ()
    max_batch: int = 8
    validated: bool = True
    recorded: bool = True
    force: bool = False
    weights_licence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.reference.stated_weights(self.weights_licence)
        if self.opset not in OPSETS:
            raise GmosError(f"--opset {self.opset}: expected {' or '.join(map(str, OPSETS))}")
        if self.max_batch < 1:
            raise GmosError(f"--max_batch {self.max_batch}: expected 1 or more")
        check_place(self.out, force=self.force)
        _ = self.resolutions

    @property
    def model(self) -> ModelSpec:
        """Sizes of the networks."""
        return model_spec(self.reference.sizes, self.reference.variant)

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """The Pi3 resolutions that engines are built for.

        Raises:
            GmosError: one of those given is none.
        """
        return choose_resolutions(self.resolution, self.aspect, self.model)


def export_bundle(config: ExportConfig) -> Bundle:
    """Export every network of a variant.

    Raises:
        GmosError: checkpoints are missing or unusable, an exported network does not compute what the reference does, or
            the directory cannot be written, or another process is writing it. Then nothing is left behind, but what a
            failed validation compared, in a directory of its own.
    """
    sizes, model = config.reference.sizes, config.model
    plan = Plan(
        sizes=sizes,
        model=model,
        precision=config.precision,
        head_precision=config.head_precision,
        opset=config.opset,
        profiles=shape_profiles(config.resolutions, model, max_batch=config.max_batch),
    )
    weights = config.reference.stated_weights(config.weights_licence)
    for flag, one in weights.items():
        if NON_COMMERCIAL.search(one.licence):
            part = flag.removesuffix("_ckpt")
            logger.warning(
                "the weights of --%s are %s (%s): neither they nor this bundle may be used commercially; own weights "
                "have their licence stated with --weights_licence %s=ID",
                *(flag, one.licence, one.source, part),
            )
    with writing_alone(config.out):
        # Another export may have ended since.
        check_place(config.out, force=config.force)
        return write_bundle(
            config.out,
            plan,
            _load(config.reference),
            resolutions=config.resolutions,
            checkpoints=_checkpoints(config.reference, weights),
            validated=config.validated,
            recorded=config.recorded,
            weights=weights,
            overwrite=config.force,
        )


def write_bundle(
    out: Path,
    plan: Plan,
    networks: ReferenceNetworks,
    *,
    resolutions: tuple[Resolution, ...],
    checkpoints: Mapping[str, Any],
    validated: bool,
    recorded: bool = False,
    weights: Mapping[str, Weights] | None = None,
    exported: Callable[[NetworkName, BundleNetwork], None] | None = None,
    overwrite: bool = True,
) -> Bundle:
    """Export loaded networks.

    Args:
        out: the bundle's directory; a bundle there is replaced when the new one is complete.
        plan: how to export.
        networks: the reference, float32 on the CPU; left as it is.
        resolutions: Pi3 resolutions of the plan's profiles, for the record.
        checkpoints: what the networks were loaded from, for the record.
        validated: whether to hold every network against the reference.
        recorded: whether to keep inputs that engines are compared on, at the first of the resolutions.
        weights: source and licence of each checkpoint's weights, by flag; unknown where there is none.
        exported: called after each network.
        overwrite: whether what is at `out` by the end may be replaced.

    Raises:
        GmosError: as `export_bundle`.
    """
    tables = table_source(networks.pi3)
    with new_bundle(out, replace=overwrite) as root:
        np.save(root / TABLES_FILE, tables.position_embedding, allow_pickle=False)
        left = beside(out, FAILED)
        exporter = NetworkExporter(root, plan, networks, tables, validated=validated, left=left)
        done: dict[str, BundleNetwork] = {}
        for name in network_specs(plan.model):
            start = time.monotonic()
            done[name] = _licensed(exporter.export(name), weights or {})
            logger.info("%s: %.1f s, %s", name, time.monotonic() - start, _verdict(done[name]))
            if exported is not None:
                exported(name, done[name])
        if recorded:
            start = time.monotonic()
            calls = record_inputs(networks, plan.model, resolutions[0])
            write_check_inputs(root, calls)
            if validated and PRECISIONS[plan.precision].dtype == "bfloat16":
                # Nothing runs such a graph where its engine is compared, to tell what rounding does to these inputs.
                for name, own in own_errors(networks, plan.model, calls, plan.precision).items():
                    found = [*done[name].gate["own_errors"], *map(asdict, own)]
                    done[name] = replace(done[name], gate={**done[name].gate, "own_errors": found})
            logger.info("inputs to compare engines on: %.1f s", time.monotonic() - start)
        manifest = Manifest(
            tool=f"gmos-deploy {__version__}",
            model=plan.model,
            precision=plan.precision,
            head_precision=plan.head_precision,
            opset=plan.opset,
            pi3=Rotation(head_dim=plan.sizes.pi3.head_dim, rope_base=plan.sizes.pi3.rope_base),
            resolutions=resolutions,
            networks=done,
            checkpoints=checkpoints,
            versions=_versions(),
            files={},
        )
        write_manifest(root, manifest)
    return open_bundle(out)


def _licensed(network: BundleNetwork, weights: Mapping[str, Weights]) -> BundleNetwork:
    flag = WEIGHTS_OF.get(network.name)
    found = Weights(source="", licence="") if flag is None else weights.get(flag, NOT_STATED)
    return replace(network, licence=found.licence, source=found.source)


def _load(reference: ReferenceConfig) -> ReferenceNetworks:
    if reference.pi3_ckpt is None:
        logger.warning("no checkpoints: the %s preset is exported with stand-in weights", reference.preset)
        return stand_in_networks(reference.sizes, reference.variant)
    return checkpoint_networks(reference.sizes, reference)


def table_source(pi3: Pi3Encoder) -> Pi3TableSource:
    """The stored position embedding as a grid, and the rotation of the decoder."""
    config = pi3.config
    grid = config.dino_grid
    stored = pi3.encoder.pos_embed.detach()[0, 1:].reshape(grid, grid, -1)
    return Pi3TableSource(
        position_embedding=stored.float().numpy(), head_dim=config.head_dim, rope_base=config.rope_base
    )


def _verdict(network: BundleNetwork) -> str:
    differences = network.gate["differences"]
    if not differences:
        return "not compared"
    worst = max(differences, key=lambda found: max(found["relative"], found["changed"]))
    measure = "changed share" if worst["changed"] else "relative error"
    return f"equal to the reference ({measure} up to {max(worst['relative'], worst['changed']):.1e})"


def _checkpoints(reference: ReferenceConfig, weights: Mapping[str, Weights]) -> Mapping[str, Any]:
    """Name, length, hash, licence and source of each checkpoint; empty for stand-in weights."""
    return {
        flag: {
            "name": path.name,
            "bytes": path.stat().st_size,
            "sha256": checkpoint_sha256(path),
            "licence": weights[flag].licence,
            "source": weights[flag].source,
        }
        for flag, path in reference.checkpoints().items()
        if path is not None
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "gmos-deploy": __version__}
    return found | {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
