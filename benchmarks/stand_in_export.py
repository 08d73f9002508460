"""What an export of a preset with stand-in weights is made with; shared by the benchmarks that make one."""

from __future__ import annotations

from gmos_deploy.export.onnx.exported_network import Plan
from gmos_deploy.export.onnx.shape_profiles import Resolution, choose_resolutions, shape_profiles
from gmos_deploy.gmos_ref.presets import Preset, model_spec
from gmos_deploy.runtime.precision import PrecisionName


def stand_in_plan(
    sizes: Preset, precision: PrecisionName, head_precision: PrecisionName | None = None
) -> tuple[Plan, tuple[Resolution, ...]]:
    """The plan of GMOS at the usual resolution, one window a call, its heads in the same precision unless given."""
    model = model_spec(sizes, "gmos")
    resolutions = choose_resolutions((), (), model)
    plan = Plan(
        sizes=sizes,
        model=model,
        precision=precision,
        head_precision=head_precision or precision,
        opset=20,
        profiles=shape_profiles(resolutions, model, max_batch=1),
    )
    return plan, resolutions
