"""The Pi3 encoder: checkpoint keys, golden outputs, and each shortcut against its plain form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gmos_deploy.gmos_ref.pi3.encoder import Pi3Encoder, Pi3Tables
from gmos_deploy.gmos_ref.pi3.vit_block import VitBlock
from gmos_deploy.gmos_ref.presets import PUBLISHED, TINY, Pi3Config

SUMS = 1e-5
"""Float32 sums in another order, on activations of order one."""

PUBLISHED_SUMS = 1e-4
"""The same at published width, where a sum has a thousand terms and more."""

HALF_SHARE = 0.05
"""bf16 keeps 8 bits; through six blocks the error stays a few percent of the output's deviation."""

Draw = Callable[[int, tuple[int, ...]], Tensor]


@pytest.fixture(scope="module")
def encoder(deterministic: Callable[[Callable[[], nn.Module]], nn.Module]) -> Pi3Encoder:
    """The tiny encoder with deterministic weights."""
    module = deterministic(lambda: Pi3Encoder(TINY.pi3))
    assert isinstance(module, Pi3Encoder)
    return module


def decode_plain(encoder: Pi3Encoder, tokens: Tensor, tables: Pi3Tables) -> Tensor:
    """The decoder without the saving: every block on every token, the middle frame read at the end."""
    batch, window, h, w, channels = tokens.shape
    registers = encoder.register_token.expand(batch, window, -1, -1)
    x = torch.cat((registers, tokens.flatten(2, 3)), dim=2)
    length = x.shape[2]
    for i, block in enumerate(encoder.decoder):
        if i % 2 == 0:
            x = block(x.reshape(-1, length, channels), tables.frame_rope)
        else:
            x = block(x.reshape(-1, window * length, channels), tables.window_rope)
    x = x.reshape(batch, window, length, channels)
    return x[:, window // 2, encoder.config.decoder_registers :].unflatten(1, (h, w))


@pytest.mark.parametrize(
    ("stem", "config"), [("pi3_encoder", PUBLISHED.pi3), ("pi3_tiny", TINY.pi3)], ids=["published", "tiny"]
)
def test_checkpoint_keys(golden_folder: Path, stem: str, config: Pi3Config) -> None:
    """Keys, shapes and dtypes are those of the published checkpoint."""
    with torch.device("meta"):
        state = Pi3Encoder(config).state_dict()
    given = {key: [list(t.shape), str(t.dtype).removeprefix("torch.")] for key, t in state.items()}
    assert given == json.loads((golden_folder / f"{stem}.keys.json").read_text())


@pytest.mark.parametrize(
    "case",
    [("a", 11, (2, 5, 3, 42, 84)), ("b", 12, (1, 5, 3, 70, 70)), ("c", 13, (1, 5, 3, 98, 56))],
)
def test_golden(
    encoder: Pi3Encoder,
    golden: Callable[[str], dict[str, Tensor]],
    uniform: Draw,
    assert_golden: Callable[[Tensor, Tensor], None],
    case: tuple[str, int, tuple[int, ...]],
) -> None:
    """Both halves give what the published implementation gives, at three aspect ratios."""
    stem, seed, shape = case
    expected, frames = golden(f"pi3_tiny_{stem}"), uniform(seed, shape)
    tables = encoder.tables(shape[-2] // 14, shape[-1] // 14)
    with torch.inference_mode():
        tokens = encoder.encode_frames(frames.flatten(0, 1), tables)
        features = encoder.decode_window(tokens.unflatten(0, shape[:2]), tables)
    assert_golden(tokens.flatten(1, 2), expected["dino_patchtokens"])
    assert_golden(features, expected["decoder_mid"])


def test_frames_are_encoded_alone(encoder: Pi3Encoder, uniform: Draw) -> None:
    """A frame's tokens do not depend on its batch, so caching them per frame is exact."""
    frames, tables = uniform(1, (5, 3, 42, 56)), encoder.tables(3, 4)
    with torch.inference_mode():
        together = encoder.encode_frames(frames, tables)
        alone = torch.cat([encoder.encode_frames(frame[None], tables) for frame in frames])
        whole = encoder(frames[None], tables)
        cached = encoder.decode_window(alone[None], tables)
    torch.testing.assert_close(together, alone, rtol=0, atol=SUMS)
    torch.testing.assert_close(whole, cached, rtol=0, atol=SUMS)


@pytest.mark.parametrize(("depth", "window"), [(4, 5), (2, 3)])
def test_last_block_for_the_middle_frame_only(
    deterministic: Callable[[Callable[[], nn.Module]], nn.Module], normal: Draw, depth: int, window: int
) -> None:
    """The shortened last block equals the plain decoder on the middle frame."""
    config = Pi3Config(
        dim=32, heads=2, dino_depth=1, decoder_depth=depth, dino_grid=3, window=window, area_px=20_000
    )
    encoder = deterministic(lambda: Pi3Encoder(config))
    assert isinstance(encoder, Pi3Encoder)
    tokens, tables = normal(2, (2, window, 3, 4, 32)), encoder.tables(3, 4)
    with torch.inference_mode():
        short, plain = encoder.decode_window(tokens, tables), decode_plain(encoder, tokens, tables)
    torch.testing.assert_close(short, plain, rtol=0, atol=SUMS)


def test_every_frame_of_the_window_counts(encoder: Pi3Encoder, normal: Draw) -> None:
    """The middle frame's features change with any frame, and windows do not mix."""
    tokens, tables = normal(3, (2, 5, 2, 3, 64)), encoder.tables(2, 3)
    with torch.inference_mode():
        before = encoder.decode_window(tokens, tables)
        for frame in range(5):
            changed = tokens.clone()
            changed[0, frame] = tokens[0, frame].roll(1, dims=-1)
            after = encoder.decode_window(changed, tables)
            assert (after[0] - before[0]).abs().max() > 1e-3
            torch.testing.assert_close(after[1], before[1], rtol=0, atol=SUMS)


def test_native_grid_keeps_the_position_embedding(encoder: Pi3Encoder) -> None:
    """On the stored grid the position embedding is the stored one, bit for bit."""
    assert torch.equal(encoder.tables(5, 5).pos_embed, encoder.encoder.pos_embed)


def test_other_grids_resize_the_position_embedding(encoder: Pi3Encoder) -> None:
    """Another grid is resized, antialiased where it shrinks, and the class token's part stays."""
    stored = encoder.encoder.pos_embed
    resized = encoder.tables(3, 8).pos_embed
    assert resized.shape == (1, 1 + 24, 64)
    assert torch.equal(resized[:, 0], stored[:, 0])
    grid = stored[:, 1:].unflatten(1, (5, 5)).permute(0, 3, 1, 2)
    without = nn.functional.interpolate(grid, size=(3, 8), mode="bicubic")
    assert not torch.allclose(resized[:, 1:], without.flatten(2).mT, atol=1e-2)


def test_registers_sit_at_the_origin(encoder: Pi3Encoder) -> None:
    """The five registers have position (0, 0) and the first patch (1, 1)."""
    rope = encoder.tables(2, 3).frame_rope
    assert rope.cos.shape == (5 + 6, 16)
    assert torch.equal(rope.cos[:5], torch.ones(5, 16))
    assert torch.equal(rope.sin[:5], torch.zeros(5, 16))
    assert rope.sin[5, 0].item() == pytest.approx(0.8414710)


def test_epsilons(encoder: Pi3Encoder) -> None:
    """LayerNorms have the published epsilons, which are too small to show in an output."""
    blocks = [*encoder.encoder.blocks, *encoder.decoder]
    assert all(isinstance(block, VitBlock) for block in blocks)
    assert {norm.eps for block in blocks for norm in (block.norm1, block.norm2)} == {1e-6}
    assert encoder.encoder.norm.eps == 1e-6
    per_head = {norm.eps for block in encoder.decoder for norm in (block.attn.q_norm, block.attn.k_norm)}
    assert per_head == {1e-5}


def test_normalisation(encoder: Pi3Encoder) -> None:
    """Frames in [0, 1] are normalised with the ImageNet statistics."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    assert torch.equal(encoder.normalize(mean + 2 * std), (mean + 2 * std - mean) / std)


@pytest.mark.parametrize("mode", ["autocast", "weights"])
def test_half_precision(encoder: Pi3Encoder, uniform: Draw, mode: str) -> None:
    """bf16, by autocast or in the weights, gives the float32 features up to its rounding."""
    frames, tables = uniform(4, (1, 5, 3, 42, 56)), encoder.tables(3, 4)
    with torch.inference_mode():
        expected = encoder(frames, tables)
        if mode == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                given = encoder(frames, tables)
        else:
            half = Pi3Encoder(TINY.pi3)
            half.load_state_dict(encoder.state_dict())
            given = half.bfloat16()(frames, tables)
            assert given.dtype == torch.bfloat16
    error = (given.float() - expected).std() / expected.std()
    assert 0 < error < HALF_SHARE


@pytest.mark.published
def test_published_window(
    deterministic: Callable[[Callable[[], nn.Module]], nn.Module], uniform: Draw
) -> None:
    """At published size one window of 16:9 video gives finite features, equal to the plain decoder's."""
    encoder = deterministic(lambda: Pi3Encoder(PUBLISHED.pi3))
    assert isinstance(encoder, Pi3Encoder)
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(758e6, rel=1e-3)
    h, w = 27, 48
    frames, tables = uniform(6, (5, 3, 14 * h, 14 * w)), encoder.tables(h, w)
    with torch.inference_mode():
        # One frame at a time, as a cache would be filled.
        tokens = torch.stack([encoder.encode_frames(frame[None], tables)[0] for frame in frames])[None]
        short, plain = encoder.decode_window(tokens, tables), decode_plain(encoder, tokens, tables)
    assert short.shape == (1, h, w, 1024)
    assert torch.isfinite(short).all()
    assert short.std() > 0.1
    torch.testing.assert_close(short, plain, rtol=0, atol=PUBLISHED_SUMS)


@pytest.fixture
def with_blocks(encoder: Pi3Encoder) -> Callable[[int], Pi3Encoder]:
    """The tiny encoder with so many blocks run for each frame."""

    def make(blocks: int) -> Pi3Encoder:
        module = Pi3Encoder(replace(TINY.pi3, frame_blocks=blocks))
        module.load_state_dict(encoder.state_dict())
        return module.eval()

    return make


def test_the_first_block_once_per_frame_is_the_same(
    encoder: Pi3Encoder, with_blocks: Callable[[int], Pi3Encoder], uniform: Draw
) -> None:
    """Bit by bit: it attends within a frame, so its answer on a frame is that in every window."""
    frames, tables = uniform(31, (2, 5, 3, 42, 84)), encoder.tables(3, 6)
    with torch.inference_mode():
        assert torch.equal(with_blocks(1)(frames, tables), encoder(frames, tables))


def test_local_layers_attend_within_a_frame(
    encoder: Pi3Encoder, with_blocks: Callable[[int], Pi3Encoder], uniform: Draw
) -> None:
    """As the plain decoder whose first global layer is run on each frame alone; computed once for it."""
    frames, tables = uniform(32, (2, 5, 3, 42, 84)), encoder.tables(3, 6)
    with torch.inference_mode():
        tokens = encoder.encode_frames(frames.flatten(0, 1), tables)
        x = torch.cat((encoder.register_token[0].expand(10, -1, -1), tokens.flatten(1, 2)), dim=1)
        for block in encoder.decoder[:3]:
            x = block(x, tables.frame_rope)
        last = encoder.decoder[3]
        assert isinstance(last, VitBlock)
        x = last(x.reshape(2, -1, x.shape[-1]), tables.window_rope).reshape(2, 5, *x.shape[1:])
        plain = x[:, 2, encoder.config.decoder_registers :].unflatten(1, (3, 6))
        found = with_blocks(3)(frames, tables)
    assert torch.allclose(found, plain, atol=SUMS, rtol=SUMS)
    assert not torch.allclose(found, encoder(frames, tables), atol=1e-2)
