"""Training scripts of the nano networks: resuming, tracking with gradients, and what is published."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clips
import numpy as np
import publish
import pytest
import torch
import train_gmos_s
import train_heads
import train_pi3
import train_tracker
import training_logs
import training_loop
from initial_weights import initialise_pi3, initialise_tracker
from safetensors.torch import load_file

from gmos_deploy.gmos_ref.gmos.gmos_s import GmosS
from gmos_deploy.gmos_ref.gmos.proposer import GmosProposer
from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder
from gmos_deploy.gmos_ref.presets import NANO
from gmos_deploy.gmos_ref.reference_config import FOLDER
from gmos_deploy.gmos_ref.sam2.model import build_sam2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of six clips with all kinds of camera."""
    root = tmp_path_factory.mktemp("nano")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "TEXTURE_POOL", 6)
        patch.setattr(clips, "CAMERA_SHARES", {"static": 0.5, "slow": 0.5, "fast": 0.0})
        clips.write_shard(root, seed=0, index=0, clips=6)
    return root


@pytest.fixture
def short_curriculum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of two small crops, then whole frames."""
    phase = train_pi3.Phase(steps=2, batch=2, grid_hw=(3, 3), shares=(0.5, 0.5, 0.0))
    last = train_pi3.Phase(steps=99, batch=1, grid_hw=(4, 4), shares=(1.0, 0.0, 0.0))
    monkeypatch.setattr(train_pi3, "CURRICULUM", (phase, last))


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Untrained states that GMOS-S begins with; it asks for no camera that the shard lacks."""
    monkeypatch.setattr(train_gmos_s, "SHARES", (0.5, 0.5, 0.0))
    pi3, heads = Pi3Encoder(NANO.pi3), train_pi3.TokenHeads(NANO.pi3.dim)
    initialise_pi3(pi3, 0)
    sam2 = build_sam2(NANO.sam2)
    initialise_tracker(sam2)
    training_loop.save_state(tmp_path / "pi3.pt", {"pi3": pi3.state_dict(), "heads": heads.state_dict()})
    training_loop.save_state(tmp_path / "sam2.pt", {"sam2": sam2.state_dict()})
    return ["--pi3", str(tmp_path / "pi3.pt"), "--tracker", str(tmp_path / "sam2.pt"), "--batch", "1"]


def test_a_resumed_run_equals_an_uninterrupted_one(
    data: Path, tmp_path: Path, short_curriculum: None
) -> None:
    """Three steps at once, or one and then two more, across a change of phase."""
    assert_resumes(train_pi3.main, data, tmp_path, [], steps=3)


def test_gmos_s_resumes_with_both_optimisers(data: Path, tmp_path: Path, starts: list[str]) -> None:
    """AdamW's moments and Muon's momentum are kept."""
    assert_resumes(train_gmos_s.main, data, tmp_path, starts, steps=2)


def test_gmos_s_begins_with_the_packaged_weights_and_trains_the_proposer_along(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No states are needed; all camera targets count; publish.py finds the proposer in the state."""
    more = ["--batch", "1", "--shares", "0.5", "0.5", "0", "--ground", "0.3", "--match", "0.2"]
    arguments = ["--start", str(FOLDER), "--proposer", "--steps", "1", "--shards", "1", *more]
    state = tmp_path / "joint.pt"
    train_gmos_s.main([str(data), str(state), *arguments, "--more", str(data), "--more_shards", "1"])
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["publish.py", "--out", str(out), *(f"--{n}={state}" for n in ("pi3", "gmos_s", "gmos"))]
    )
    publish.main()
    for name in ("pi3", "gmos_s", "gmos"):
        before = load_file(FOLDER / f"{name}.safetensors")
        after = load_file(out / f"{name}.safetensors")
        assert before.keys() == after.keys()
        far = max(float((after[key].float() - before[key].float()).abs().max()) for key in before)
        assert 0 < far < 0.02, name


def assert_resumes(
    train: Callable[[list[str]], None], data: Path, folder: Path, more: list[str], *, steps: int
) -> None:
    """Interrupted after its first step and started again, training ends with the same weights."""
    whole, parts = folder / "whole.pt", folder / "parts.pt"
    arguments = ["--steps", str(steps), "--shards", "1", "--decay_from", "1", *more]
    train([str(data), str(whole), *arguments])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop, "SAVE_EVERY_S", -1.0)
        patch.setattr(training_loop, "save_state", interrupting(training_loop.save_state, after=1))
        with pytest.raises(KeyboardInterrupt):
            train([str(data), str(parts), *arguments])
    train([str(data), str(parts), *arguments])
    first, second = (torch.load(path, weights_only=True) for path in (whole, parts))
    assert first["step"] == second["step"] == steps
    for key, value in first["pi3"].items():
        torch.testing.assert_close(second["pi3"][key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_script_trains_on_a_device(
    data: Path, tmp_path: Path, short_curriculum: None, starts: list[str], device: str
) -> None:
    """A step of each, from the states of the one before; what is trained changes, the frozen encoders do not."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    common = ["--steps", "1", "--shards", "1", "--decay_from", "1", "--device", device]
    states = {name: str(tmp_path / f"{name}.pt") for name in ("crops", "joint", "tracker", "gmos_s", "gmos")}
    train_pi3.main([str(data), states["crops"], *common])
    train_gmos_s.main([str(data), states["joint"], *common, *starts])
    encoder = starts[starts.index("--tracker") + 1]
    train_tracker.main(
        [str(data), states["tracker"], *common, "--encoder", encoder, "--long_from", "0", "--frames", "3"]
    )
    heads = ["--pi3", states["joint"], "--tracker", states["tracker"]]
    train_heads.main([str(data), states["gmos_s"], *common, *heads])
    train_heads.main([str(data), states["gmos"], *common, *heads, "--gmos_s", states["gmos_s"]])
    found = {name: torch.load(path, weights_only=True) for name, path in states.items()}
    assert {state["step"] for state in found.values()} == {1}
    before = torch.load(encoder, weights_only=True)["sam2"]
    for key, value in found["tracker"]["sam2"].items():
        if key.startswith(train_tracker.ENCODER_PREFIXES):
            torch.testing.assert_close(value.cpu(), before[key], rtol=0, atol=0, msg=key)
    changed = "memory_encoder.out_proj.weight"
    assert not torch.equal(found["tracker"]["sam2"][changed].cpu(), before[changed])
    assert not set(found["gmos"]["head"]) <= set(found["gmos_s"]["head"])


Save = Callable[[Path, dict[str, Any]], None]


def interrupting(save: Save, after: int) -> Save:
    """Save, and then interrupt as a user would."""

    def saving(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        if state["step"] == after:
            raise KeyboardInterrupt

    return saving


def test_initial_encoder_tells_change_from_rest() -> None:
    """Where one frame of a still window differs, the token changes far more than elsewhere."""
    pi3 = Pi3Encoder(NANO.pi3)
    initialise_pi3(pi3, 0)
    generator = torch.Generator().manual_seed(1)
    still = torch.rand(1, 1, 3, 84, 84, generator=generator).expand(1, 5, 3, 84, 84).clone()
    moved = still.clone()
    moved[0, 4, :, 28:42, 28:42] = torch.rand(3, 14, 14, generator=generator)
    tables = pi3.tables(6, 6)
    with torch.no_grad():
        change = (train_pi3.all_tokens(pi3, moved, tables) - train_pi3.all_tokens(pi3, still, tables))[
            0, 2
        ].norm(dim=-1)
    there = 2 * 6 + 2
    elsewhere = torch.cat((change[:there], change[there + 1 :]))
    assert change[there] > 3 * elsewhere.median()


@pytest.mark.parametrize("grid", [(4, 4), (11, 20)])
def test_the_backdrop_moves_as_its_tokens_do_where_it_is_seen(data: Path, grid: tuple[int, int]) -> None:
    """Mirrored, turned or not: the target of the backdrop is the flow of the tokens that show it."""
    sampler = train_pi3.WindowSampler(clips.ShardPool(data, 1), seed=0)
    seen = 0
    for seed in range(4):
        sampler.rng = np.random.default_rng(seed)
        batch = sampler.draw(1, grid, (0.0, 1.0, 0.0), shards=1)
        same = (batch.flows - batch.grounds).abs().amax(-1) < 1e-4
        assert batch.grounds.shape == batch.flows.shape
        assert batch.grounds.abs().max() > 0.5
        seen += int(same.all(1).sum())
    assert seen > 0.2 * 4 * 5 * grid[0] * grid[1]


def test_a_match_between_two_levels_is_shared_by_them() -> None:
    """Least where both have their share of the probability; what does not count adds nothing."""
    levels = train_pi3.MATCH_LEVELS_PX
    target = torch.tensor([[[2.0, -99.0], [5.0, 5.0]]])
    weight = torch.tensor([[1.0, 0.0]])
    best = torch.full((1, 2, 2, len(levels)), -30.0)
    low = levels.index(1.0)
    best[0, 0, 0, low : low + 2] = 0.0
    best[0, 0, 1, 0] = 0.0
    found = train_pi3.match_loss(best, target, weight)
    torch.testing.assert_close(found, torch.log(torch.tensor(2.0)), atol=1e-4, rtol=0)
    off = best.roll(1, dims=-1)
    assert train_pi3.match_loss(off, target, weight) > found + 1


def test_token_masks_lie_where_their_tokens_do() -> None:
    """Cell (r, c) of token (i, j) is pixel (7 i + r, 7 j + c) of the mask."""
    heads = train_pi3.TokenHeads(8)
    torch.nn.init.zeros_(heads.mask.weight)
    with torch.no_grad():
        heads.mask.bias.copy_(torch.arange(49.0))
    masks = heads.masks(torch.randn(1, 1, 6, 8), 2, 3)
    assert masks.shape == (1, 1, 14, 21)
    np.testing.assert_array_equal(masks[0, 0, 7:, 14:].detach(), torch.arange(49.0).view(7, 7))


def test_tracking_passes_gradients_to_every_part(data: Path) -> None:
    """Image encoder, memory encoder, memory attention and mask decoder all learn from later frames."""
    sam2 = build_sam2(NANO.sam2).requires_grad_(True)
    initialise_tracker(sam2)
    shard = clips.open_shard(clips.shard_folder(data, 0))
    batches = (train_tracker.draw_track(shard, clip, 3, np.random.default_rng(0)) for clip in range(6))
    batch = next(found for found in batches if found is not None)
    loss, _ = train_tracker.tracking_loss(sam2, batch)
    loss.backward()
    for part in (sam2.image_encoder, sam2.memory_encoder, sam2.memory_attention, sam2.sam_mask_decoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_a_long_track_walks_through_its_clip() -> None:
    """Neighbours of a walk are neighbours of the clip; it pauses, turns, and is cut to the length asked for."""
    pauses = turns = 0
    for seed in range(20):
        order = train_tracker.time_order(8, 16, np.random.default_rng(seed))
        steps = np.diff(order)
        assert len(order) == 16
        assert order.min() >= 0
        assert order.max() < 8
        assert np.abs(steps).max() == 1
        pauses += (steps == 0).sum()
        turns += (np.diff(steps[steps != 0]) != 0).sum()
    assert pauses > 20
    assert turns > 20


def test_a_track_runs_straight_where_its_clip_is_long_enough() -> None:
    """Forward or backward, anywhere in the clip; unless a walk is asked for."""
    orders = [train_tracker.time_order(17, 16, np.random.default_rng(seed)) for seed in range(20)]
    assert {tuple(order) for order in orders} == {
        tuple(range(first, first + 16)[::heading]) for first in (0, 1) for heading in (1, -1)
    }
    walk = train_tracker.time_order(17, 16, np.random.default_rng(0), walk=True)
    assert (np.diff(walk) == 0).any()


def test_a_walk_shows_objects_where_their_frames_do(data: Path) -> None:
    """The masks are those of the frames that are shown, also where a frame comes twice."""
    shard = clips.open_shard(clips.shard_folder(data, 0))
    drawn = (train_tracker.draw_track(shard, clip, 16, np.random.default_rng(clip)) for clip in range(6))
    batch = next(found for found in drawn if found is not None)
    assert batch.masks.shape[1] == len(batch.order) == 16
    assert len(batch.images) == max(batch.order) + 1 <= clips.CLIP_FRAMES
    for t, shown in enumerate(batch.order):
        first = batch.order.index(shown)
        torch.testing.assert_close(batch.masks[:, t], batch.masks[:, first], rtol=0, atol=0)


def test_rough_prompts_keep_to_their_objects() -> None:
    """They differ from the masks, overlap them, and add nothing far away."""
    masks = torch.zeros(2, 1, 128, 128)
    masks[0, 0, 30:70, 40:90] = 1
    masks[1, 0, 100:112, 10:20] = 1
    rng = np.random.default_rng(3)
    ious = []
    for _ in range(20):
        rough = train_tracker.rough_prompts(masks, rng)
        ious.append(train_tracker.soft_iou(rough - 0.5, masks))
        assert not rough[0, 0, :10].any()
        assert not rough[1, 0, :80].any()
    found = torch.stack(ious)
    assert 0.3 < found.mean() < 0.95
    assert found.min() > 0.1


def test_a_proposer_starts_from_what_gmos_s_learned() -> None:
    """Fusion, token encoder and upscaling are taken over; queries are its own."""
    generator = torch.Generator().manual_seed(0)
    gmos_s = GmosS(NANO.proposer)
    for value in gmos_s.state_dict().values():
        value.normal_(generator=generator)
    head = train_heads.proposer_from(gmos_s, 0)
    torch.testing.assert_close(
        head.trans_encoder.layers[0].mlp.layers[0].weight, gmos_s.trans_encoder.layers[0].mlp.layers[0].weight
    )
    torch.testing.assert_close(head.upsampling.output_upscaling[3].weight, gmos_s.fg_upscaling[3].weight)


def test_curves_of_trainings_that_went_on_count_through() -> None:
    """The second log begins where the first ended; a name that only one has stays where it was."""
    first = training_logs.read_curves(["5 1 s  lr 1e-3  J 0.1  loss 2", "50 9 s  lr 1e-3  J 0.2  loss 1"])
    second = training_logs.read_curves(["5 1 s  lr 1e-3  J 0.3"])
    found = training_logs.joined([first, second])
    assert found["J"] == [(5, 0.1), (50, 0.2), (55, 0.3)]
    assert found["loss"] == [(5, 2), (50, 1)]


WORKER = """
import sys
import torch, training_loop
options = training_loop.option_parser("", steps=1, decay_from=1)
training_loop.add_worker_options(options)
options = options.parse_args(["data", *sys.argv[1:]])
with training_loop.workers(options) as share:
    first, without = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    first.grad = torch.full((3,), 1.0 + 2 * options.rank)
    share([first, without])
assert not torch.distributed.is_initialized()
assert first.grad.tolist() == [2.0] * 3 and without.grad is None
"""


def test_workers_take_the_mean_of_their_gradients(tmp_path: Path) -> None:
    """Two processes with gradients 1 and 3 both step by 2; what has none keeps none; one worker shares nothing."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    arguments = [str(tmp_path / "state.pt"), "--workers", "2", "--port", port, "--rank"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments, str(rank)], cwd=Path(training_loop.__file__).parent
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    with training_loop.workers(argparse.Namespace(workers=1)) as share:
        assert share is None


def test_published_weights_are_half_precision_except_small_ones() -> None:
    """The mean of colours keeps its digits."""
    found = publish.published({"weight": torch.rand(5, 5), "image_mean": torch.rand(1, 3, 1, 1)})
    assert found["weight"].dtype is torch.float16
    assert found["image_mean"].dtype is torch.float32


def test_published_heads_are_stricter() -> None:
    """By their shift and in nothing else: the mask logits of GMOS-S, the scores of the proposer."""
    torch.manual_seed(0)
    sizes = NANO.proposer
    grid = sizes.grid
    inputs = (
        torch.randn(1, 6, 10, sizes.pi3_dim),
        torch.randn(1, sizes.sam2_channels, grid, grid),
        torch.randn(1, sizes.sam2_channels // 8, 4 * grid, 4 * grid),
        torch.randn(1, sizes.sam2_channels // 4, 2 * grid, 2 * grid),
    )
    heads: dict[str, tuple[torch.nn.Module, str]] = {
        "gmos": (GmosProposer(sizes), "ious"),
        "gmos_s": (GmosS(sizes), "foreground_logits"),
    }
    for name, (head, changed) in heads.items():
        before = head(*inputs)
        head.load_state_dict(publish.stricter(head.state_dict(), name))
        after = head(*inputs)
        for field in before._fields:
            shift = publish.SHIFTS[name][1] if field == changed else 0.0
            torch.testing.assert_close(getattr(after, field), getattr(before, field) - shift)


def test_training_can_begin_with_the_packaged_weights(tmp_path: Path) -> None:
    """What publish.py wrote, in float32, with the shifts of heads undone; other modules stay as they are."""
    pi3, heads = Pi3Encoder(NANO.pi3), train_pi3.TokenHeads(NANO.pi3.dim)
    head = GmosS(NANO.proposer)
    untouched = heads.mask.weight.detach().clone()
    options = training_loop.option_parser("", steps=1, decay_from=1).parse_args(
        ["data", str(tmp_path / "state.pt"), "--start", str(FOLDER)]
    )
    optimiser = torch.optim.SGD(pi3.parameters(), lr=1.0)
    loop = training_loop.TrainingLoop(
        options, {"pi3": pi3, "heads": heads, "head": head}, [optimiser], rates=(1.0,), warm_up=1
    )
    assert loop.step == 0
    again = publish.published(publish.stricter(head.state_dict(), "gmos_s"))
    for key, value in load_file(FOLDER / "gmos_s.safetensors").items():
        torch.testing.assert_close(again[key], value, rtol=1e-3, atol=1e-5, msg=key)
    for key, value in load_file(FOLDER / "pi3.safetensors").items():
        torch.testing.assert_close(pi3.state_dict()[key], value.float(), rtol=0, atol=0, msg=key)
    torch.testing.assert_close(heads.mask.weight.detach(), untouched, rtol=0, atol=0)
