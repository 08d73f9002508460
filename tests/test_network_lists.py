"""Every network is in every place that has to know it: one that was forgotten somewhere shows here."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from gmos_deploy.evaluation.compare.recording import HEADS as RECORDED_HEADS
from gmos_deploy.evaluation.compare.teacher_forcing import ENCODING, MAPS
from gmos_deploy.export.onnx.network_modules import MODULES, WEIGHTS_OF
from gmos_deploy.export.onnx.small_graphs import small_graph
from gmos_deploy.export.onnx.validation import validation_cases
from gmos_deploy.gmos_ref.backend import TorchBackend
from gmos_deploy.gmos_ref.checkpoints.stand_in import stand_in_networks
from gmos_deploy.gmos_ref.presets import model_spec, preset
from gmos_deploy.runtime.bundle.manifest import TARGETS
from gmos_deploy.runtime.contract import (
    FRAME_BY_FRAME,
    HEADS,
    NETWORK_NAMES,
    WITHOUT_WEIGHTS,
    Variant,
    network_specs,
)
from gmos_deploy.runtime.shapes import letters_of

TINY = preset("tiny")
VARIANTS: tuple[Variant, ...] = ("gmos", "gmos-s")


def test_the_names_are_those_of_the_contract() -> None:
    """Of both variants together; what is said of some networks is said of ones that exist."""
    specified = {name for variant in VARIANTS for name in network_specs(model_spec(TINY, variant))}
    assert set(NETWORK_NAMES) == specified
    assert specified >= WITHOUT_WEIGHTS | FRAME_BY_FRAME


def test_lists_of_the_first_pass_leave_out_none_of_its_networks() -> None:
    """Those that do not see tracked objects: teacher forcing stops at each, and the heads are recorded."""
    specs = [spec for variant in VARIANTS for spec in network_specs(model_spec(TINY, variant)).values()]
    first = {spec.name for spec in specs if "O" not in letters_of((*spec.inputs, *spec.outputs))}
    assert {*ENCODING, *HEADS, *MAPS} == first
    assert set(HEADS) == set(RECORDED_HEADS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_network_can_be_run_exported_and_compared(variant: Variant) -> None:
    """The reference runs it, the exporter writes it with or without weights, and the validation has lengths for it."""
    model, networks = model_spec(TINY, variant), stand_in_networks(TINY, variant)
    reference = TorchBackend(model, networks, device=torch.device("cpu"), precision="fp32")
    for name, spec in network_specs(model).items():
        assert callable(reference.runner(name)), name
        if name in WITHOUT_WEIGHTS:
            assert all(small_graph(name, model, target, opset=20).graph for target in TARGETS), name
        else:
            module = MODULES[name](networks, model, torch.float32)
            assert WEIGHTS_OF[name].removesuffix("_ckpt") in ("pi3", "sam2", variant.replace("-", "_")), name
            assert sum(parameter.numel() for parameter in module.parameters()), name
        letters = letters_of((*spec.inputs, *spec.outputs))
        assert all(case.keys() == set(letters) for case in validation_cases(name, model)), name
