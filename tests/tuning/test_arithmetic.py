"""What levers save at the published size, against the description's figures; the operations, counted again."""

from __future__ import annotations

import pytest

from gmos_deploy.tuning.arithmetic import (
    ATTENTION_PER_MEMORY,
    FRAME_BLOCK,
    PUBLISHED,
    WINDOW_BLOCK,
    counted,
    frame_tera,
)


def test_the_bill() -> None:
    """A frame of GMOS-S, and of GMOS with three objects."""
    assert frame_tera("gmos-s") == pytest.approx(12.25, abs=0.1)
    assert frame_tera("gmos", objects=3) == pytest.approx(16.0, abs=0.1)


@pytest.mark.parametrize(
    ("variant", "objects", "name", "saves"),
    [
        ("gmos-s", 0, "--geometry_every 2", 1.6),
        ("gmos", 3, "--geometry_every 2", 1.4),
        ("gmos-s", 0, "--geometry_every 3", 2.3),
        ("gmos", 3, "--geometry_every 3", 1.75),
        ("gmos-s", 0, "--share_block", 1.013),
        ("gmos-s", 0, "--local_layers 6", 1.31),
        ("gmos-s", 0, "--local_layers 9", 1.53),
        ("gmos", 3, "--propose_every 3, no frame looked back to", 1.75),
        ("gmos", 3, "--max_conditioning 8 of them", 2.1),
        ("gmos", 3, "exact, 100 conditioning memories", 1.0),
    ],
)
def test_what_levers_save(variant: str, objects: int, name: str, saves: float) -> None:
    """With a stride of three, DINO sees a third of the frames where geometry is of every third."""
    found = {row.name: row for row in counted(variant, objects)}  # type: ignore[arg-type]
    assert found[name].saves == pytest.approx(saves, rel=0.04)
    assert found["exact"].saves == 1


def test_more_rows() -> None:
    """A recipe's own shares; GMOS-S has nothing of the tracker."""
    found = counted("gmos", 1, {"mine": {"decoded": 0.25, "proposed": 0.5}})
    assert found[-1].name == "mine"
    assert found[-1].saves > 1.5
    assert not any("mos_i" in row.name or "memor" in row.name for row in counted("gmos-s", 0))


@pytest.mark.published
def test_operations_counted_again() -> None:
    """By PyTorch, on networks of the published sizes without values."""
    import torch

    from gmos_deploy.export.onnx.flops import count_flops
    from gmos_deploy.export.onnx.network_modules import MODULES
    from gmos_deploy.export.onnx.signature import signature
    from gmos_deploy.gmos_ref.gmos.gmos_s import GmosS
    from gmos_deploy.gmos_ref.gmos.proposer import GmosProposer
    from gmos_deploy.gmos_ref.networks import ReferenceNetworks
    from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder
    from gmos_deploy.gmos_ref.presets import PUBLISHED as SIZES
    from gmos_deploy.gmos_ref.presets import model_spec, with_frame_blocks
    from gmos_deploy.gmos_ref.sam2.model import build_sam2

    with torch.device("meta"):
        pi3, heads = (
            Pi3Encoder(SIZES.pi3),
            {"gmos": GmosProposer(SIZES.proposer), "gmos-s": GmosS(SIZES.proposer)},
        )
    sam2 = build_sam2(SIZES.sam2)
    for module in (pi3, sam2, *heads.values()):
        module.requires_grad_(False)
    lengths = {"B": 1, "O": 1, "h": 27, "w": 48, "Hp": 378, "Wp": 672, "R": 7, "P": 16}

    def tera(name: str, **more: int) -> float:
        variant = "gmos-s" if name == "gmos_s" else "gmos"
        networks = ReferenceNetworks(pi3=pi3, sam2=sam2, head=heads[variant])
        model = model_spec(SIZES, variant)  # type: ignore[arg-type]
        module = MODULES[name](networks, model, torch.float32).eval()  # type: ignore[index]
        sign = signature(name, model, head_dim=SIZES.pi3.head_dim, precision="fp32")  # type: ignore[arg-type]
        return count_flops(module, sign, {**lengths, **more}) / 1e12

    for name, known in PUBLISHED.items():
        assert tera(name) == pytest.approx(known, abs=1e-4), name
    # Of the decoder alone 1.45 and 1.84 times, by the description.
    for layers, saves in ((0, 1.017), (6, 1.45), (9, 1.84)):
        cost = (2 * layers + 1) * FRAME_BLOCK
        left = PUBLISHED["pi3_decoder"] - (layers + 1) * 5 * FRAME_BLOCK - layers * WINDOW_BLOCK
        assert PUBLISHED["pi3_decoder"] / (left + cost) == pytest.approx(saves, abs=0.01)
        own = with_frame_blocks(SIZES, local_layers=layers, share_block=True)
        with torch.device("meta"):
            pi3 = Pi3Encoder(own.pi3).requires_grad_(False)
        networks = ReferenceNetworks(pi3=pi3, sam2=sam2, head=heads["gmos"])
        model = model_spec(own, "gmos")
        for name, known in (("dino", PUBLISHED["dino"] + cost), ("pi3_decoder", left)):
            module = MODULES[name](networks, model, torch.float32).eval()
            sign = signature(name, model, head_dim=own.pi3.head_dim, precision="fp32")
            assert count_flops(module, sign, lengths) / 1e12 == pytest.approx(known, abs=2e-3), (name, layers)
    longer = tera("memory_attention", R=17, P=26)
    assert (longer - PUBLISHED["memory_attention"]) / 10 == pytest.approx(ATTENTION_PER_MEMORY, rel=1e-3)
