"""Sizes of the networks: the published ones, a small set for machines without a GPU, a tiny one for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from ..errors import GmosError
from ..runtime.contract import ModelSpec, Variant

SMALL_MEMORY_CHANNELS = 32

SAM2_STRIDE = 16
"""Pixels of the SAM2 image per token of its coarsest feature map."""


def _require_positive(owner: str, config: Pi3Config | ProposerConfig, *, but: Sequence[str]) -> None:
    """All sizes but some, which are checked on their own."""
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in but and value <= 0:
            raise GmosError(f"{owner}: {field.name} is {value}, expected a positive number")


def _require_rope_width(owner: str, channels: int, heads: int) -> None:
    """Two-dimensional RoPE splits a head in a row and a column half, and each half in two."""
    if channels % heads or (channels // heads) % 4:
        raise GmosError(
            f"{owner}: {channels} channels over {heads} heads, "
            "expected a whole head width that is a multiple of 4"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pi3Config:
    """The Pi3 encoder: DINOv2 per frame, then the decoder over a window.

    `area_px` is the area budget of a resized frame in pixels, `dino_grid` the side in patches of the
    grid that the stored position embedding covers. The decoder's first `frame_blocks` attend within a frame and are
    computed once for it; beyond the first they are an approximation (AVGGT, arXiv 2512.02541). Defaults are the
    published sizes.
    """

    dim: int = 1024
    heads: int = 16
    dino_depth: int = 24
    decoder_depth: int = 36
    patch_px: int = 14
    dino_grid: int = 37
    dino_registers: int = 4
    decoder_registers: int = 5
    window: int = 5
    mlp_ratio: int = 4
    rope_base: float = 100.0
    area_px: int = 255_000
    frame_blocks: int = 0

    def __post_init__(self) -> None:
        _require_positive("Pi3", self, but=("area_px", "frame_blocks"))
        _require_rope_width("Pi3", self.dim, self.heads)
        if self.decoder_depth % 2:
            raise GmosError(
                f"Pi3: decoder_depth is {self.decoder_depth}, expected an even number of blocks: "
                "they alternate between frame and window, and the last one spans the window"
            )
        if self.window % 2 == 0:
            raise GmosError(f"Pi3: window is {self.window} frames, expected an odd number")
        if self.frame_blocks not in (0, *range(1, self.decoder_depth, 2)):
            raise GmosError(
                f"Pi3: frame_blocks is {self.frame_blocks}, expected 0 or an odd number below {self.decoder_depth}"
            )
        if self.area_px < self.patch_px**2:
            raise GmosError(
                f"Pi3: area_px is {self.area_px}, expected room for one patch ({self.patch_px**2})"
            )

    @property
    def middle(self) -> int:
        """Index of the window's frame whose features are read."""
        return self.window // 2

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.heads


@dataclass(frozen=True, slots=True, kw_only=True)
class Sam2Config:
    """The SAM2 image encoder and mask propagator, built by the `sam2` package.

    `config` is a Hydra configuration of that package and `overrides` are Hydra overrides on top;
    `image_px` (the side of the square input), `channels` (of the coarsest map), `memory_channels` (of the
    tracker's memories) and `memory_frames` (how many frames back they reach, the frame itself counted) say
    what they give.
    """

    config: str = "configs/sam2.1/sam2.1_hiera_l.yaml"
    image_px: int = 1024
    channels: int = 256
    memory_channels: int = 64
    memory_frames: int = 7
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # 32: the deepest stage of the trunk; 64: a window of 8 positions at stride 4 tiles the first.
        if self.image_px < 64 or self.image_px % 64:
            raise GmosError(f"SAM2: image_px is {self.image_px}, expected a multiple of 64")
        if self.channels < 8 or self.channels % 8:
            raise GmosError(f"SAM2: channels is {self.channels}, expected a multiple of 8")

    @property
    def grid(self) -> int:
        """Side of the coarsest feature map."""
        return self.image_px // SAM2_STRIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposerConfig:
    """The GMOS proposer; GMOS-S has the same sizes and no queries or decoder.

    `grid` is the side of the token map, `pi3_dim` and `sam2_channels` are the widths of what comes in.
    RoPE base 56.25 is 100 * 36 / 64 in the published code. Defaults are the published sizes.
    """

    dim: int = 256
    heads: int = 8
    mlp_dim: int = 2048
    encoder_layers: int = 3
    decoder_layers: int = 3
    cross_downsample: int = 2
    queries: int = 100
    pi3_dim: int = 1024
    sam2_channels: int = 256
    grid: int = 64
    rope_base: float = 56.25

    def __post_init__(self) -> None:
        _require_positive("proposer", self, but=("sam2_channels",))
        if self.dim % self.cross_downsample:
            raise GmosError(
                f"proposer: dim {self.dim}, expected a multiple of cross_downsample {self.cross_downsample}"
            )
        _require_rope_width("proposer", self.dim, self.heads)
        _require_rope_width("proposer cross-attention", self.dim // self.cross_downsample, self.heads)
        if self.sam2_channels < 8 or self.sam2_channels % 8:
            raise GmosError(f"proposer: sam2_channels is {self.sam2_channels}, expected a multiple of 8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One consistent set of sizes for all networks."""

    name: str
    pi3: Pi3Config
    sam2: Sam2Config
    proposer: ProposerConfig

    def __post_init__(self) -> None:
        pairs = (
            ("proposer pi3_dim", self.proposer.pi3_dim, "Pi3 dim", self.pi3.dim),
            ("proposer sam2_channels", self.proposer.sam2_channels, "SAM2 channels", self.sam2.channels),
            ("proposer grid", self.proposer.grid, "SAM2 grid", self.sam2.grid),
        )
        for name, given, other, expected in pairs:
            if given != expected:
                raise GmosError(f"preset {self.name}: {name} is {given}, expected {other} {expected}")


def _small_preset(
    name: str,
    *,
    dim: int,
    image_px: int,
    trunk_dim: int,
    stages: tuple[int, int, int, int],
    global_block: int,
    memory_layers: int,
    memory_mlp_dim: int,
    memory_frames: int = 7,
    pi3: Mapping[str, int],
    proposer: Mapping[str, int],
) -> Preset:
    """Sizes with one width `dim` throughout; SAM2's are `sam2.1_hiera_t.yaml` shrunk by Hydra overrides.

    `global_block` counts over all stages and must not open a stage: the package pools queries there
    by the window size, and a global block has none.
    """
    grid = image_px // SAM2_STRIDE
    trunk, neck = "model.image_encoder.trunk", "model.image_encoder.neck"
    attention, memory = "model.memory_attention", "model.memory_encoder"
    overrides = [
        f"++model.image_size={image_px}",
        f"++model.num_maskmem={memory_frames}",
        f"{trunk}.embed_dim={trunk_dim}",
        f"{trunk}.stages=[{','.join(map(str, stages))}]",
        f"{trunk}.global_att_blocks=[{global_block}]",
        f"{neck}.d_model={dim}",
        f"{neck}.position_encoding.num_pos_feats={dim}",
        f"{neck}.backbone_channel_list=[{8 * trunk_dim},{4 * trunk_dim},{2 * trunk_dim},{trunk_dim}]",
        f"{attention}.d_model={dim}",
        f"{attention}.num_layers={memory_layers}",
        f"{attention}.layer.d_model={dim}",
        f"{attention}.layer.dim_feedforward={memory_mlp_dim}",
        f"{attention}.layer.cross_attention.kv_in_dim={SMALL_MEMORY_CHANNELS}",
        f"++{memory}.in_dim={dim}",
        f"{memory}.out_dim={SMALL_MEMORY_CHANNELS}",
        f"{memory}.position_encoding.num_pos_feats={SMALL_MEMORY_CHANNELS}",
        f"++{memory}.mask_downsampler.embed_dim={dim}",
        f"{memory}.fuser.layer.dim={dim}",
    ]
    for part in ("self_attention", "cross_attention"):
        overrides += [
            f"{attention}.layer.{part}.embedding_dim={dim}",
            f"{attention}.layer.{part}.feat_sizes=[{grid},{grid}]",
        ]
    return Preset(
        name=name,
        pi3=Pi3Config(dim=dim, heads=4, **pi3),
        sam2=Sam2Config(
            config="configs/sam2.1/sam2.1_hiera_t.yaml",
            image_px=image_px,
            channels=dim,
            memory_channels=SMALL_MEMORY_CHANNELS,
            memory_frames=memory_frames,
            overrides=tuple(overrides),
        ),
        proposer=ProposerConfig(dim=dim, pi3_dim=dim, sam2_channels=dim, grid=grid, **proposer),
    )


PUBLISHED = Preset(name="published", pi3=Pi3Config(), sam2=Sam2Config(), proposer=ProposerConfig())

SMALL = _small_preset(
    "small",
    dim=128,
    image_px=256,
    trunk_dim=32,
    stages=(1, 2, 3, 2),
    global_block=5,
    memory_layers=1,
    memory_mlp_dim=512,
    pi3={"dino_depth": 4, "decoder_depth": 6, "dino_grid": 16, "area_px": 40_000},
    proposer={"mlp_dim": 512, "queries": 50},
)

TINY = _small_preset(
    "tiny",
    dim=64,
    image_px=128,
    trunk_dim=16,
    stages=(1, 2, 2, 1),
    global_block=4,
    memory_layers=1,
    memory_mlp_dim=128,
    pi3={"dino_depth": 2, "decoder_depth": 4, "dino_grid": 5, "area_px": 20_000},
    proposer={"heads": 4, "mlp_dim": 128, "encoder_layers": 1, "decoder_layers": 2, "queries": 24},
)

NANO = _small_preset(
    "nano",
    dim=128,
    image_px=256,
    trunk_dim=24,
    stages=(1, 1, 2, 1),
    global_block=3,
    memory_layers=2,
    memory_mlp_dim=256,
    memory_frames=4,
    pi3={"dino_depth": 2, "decoder_depth": 6, "dino_grid": 4, "mlp_ratio": 2, "area_px": 280 * 154},
    proposer={"mlp_dim": 256, "encoder_layers": 2, "decoder_layers": 3, "queries": 20},
)
"""The one whose trained weights come with the package."""

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (PUBLISHED, SMALL, TINY, NANO)}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        GmosError: no preset has this name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise GmosError(f"preset {name!r} does not exist: expected one of {', '.join(PRESETS)}") from None


def with_frame_blocks(sizes: Preset, *, local_layers: int = 0, share_block: bool = False) -> Preset:
    """Sizes with the first `local_layers` global layers of the Pi3 decoder attending within a frame.

    Those and the blocks before, between and behind them are computed once per frame, not once per window. With
    `share_block` that is done with the first block too where no layer is local, which computes the same.

    Raises:
        GmosError: the decoder has fewer layers; its last one spans the window.
    """
    most = sizes.pi3.decoder_depth // 2 - 1
    if not 0 <= local_layers <= most:
        raise GmosError(
            f"--local_layers {local_layers}: expected 0 to {most}, of the {sizes.name} size's {most + 1} global layers"
        )
    blocks = 2 * local_layers + 1 if local_layers or share_block else 0
    return replace(sizes, pi3=replace(sizes.pi3, frame_blocks=blocks))


def model_spec(preset: Preset, variant: Variant) -> ModelSpec:
    """What the runtime must know about the networks of a preset."""
    return ModelSpec(
        variant=variant,
        preset=preset.name,
        patch_px=preset.pi3.patch_px,
        window=preset.pi3.window,
        pi3_channels=preset.pi3.dim,
        pi3_area_px=preset.pi3.area_px,
        sam2_image_px=preset.sam2.image_px,
        sam2_channels=preset.sam2.channels,
        queries=preset.proposer.queries,
        memory_channels=preset.sam2.memory_channels,
        memory_frames=preset.sam2.memory_frames,
        frame_blocks=preset.pi3.frame_blocks,
        pi3_registers=preset.pi3.decoder_registers,
    )
